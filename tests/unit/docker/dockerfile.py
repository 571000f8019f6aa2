"""Reads a Dockerfile: as much of its language as this project's uses."""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[3]
PATH = ROOT / "docker" / "Dockerfile"
_FLAG = re.compile(r"--(?P<name>[a-z-]+)=(?P<value>\S+)\s+")
_VARIABLE = re.compile(r"\$\{(\w+)\}")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        keyword: In capitals.
        text: What follows, its lines joined, without comments and without ``flags``; variables have their values.
        flags: ``--name=value`` in front of it; of mounts there may be several.
    """

    keyword: str
    text: str
    flags: tuple[tuple[str, str], ...] = ()

    @property
    def is_json(self) -> bool:
        """Whether it is written as a list, so that no shell reads it."""
        return self.text.startswith("[")

    @property
    def words(self) -> list[str]:
        """The words of a list, or of a line."""
        return [str(word) for word in json.loads(self.text)] if self.is_json else shlex.split(self.text)

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command of a line that joins them by ``&&``."""
        return [shlex.split(command) for command in self.text.split(" && ")]


@dataclass
class Stage:
    """What is between one FROM and the next."""

    image: str
    name: str
    instructions: list[Instruction] = field(default_factory=list)

    def all(self, keyword: str) -> list[Instruction]:
        return [instruction for instruction in self.instructions if instruction.keyword == keyword]

    def last(self, keyword: str) -> Instruction:
        return self.all(keyword)[-1]


def read(text: str) -> list[Stage]:
    """The stages of a Dockerfile; variables of ARG have their defaults."""
    known: dict[str, str] = {}
    stages: list[Stage] = []
    for line in _lines(text):
        keyword, _, rest = line.partition(" ")
        rest = _filled(rest.strip(), known)
        flags = []
        while (match := _FLAG.match(rest)) is not None:
            flags.append((match["name"], match["value"]))
            rest = rest[match.end() :]
        if keyword == "ARG":
            name, given, value = rest.partition("=")
            known |= {name: value} if given else {}
        elif keyword == "FROM":
            image, _, name = re.sub(" as ", " AS ", rest).partition(" AS ")
            stages.append(Stage(image, name))
            continue
        if stages:
            stages[-1].instructions.append(Instruction(keyword.upper(), rest, tuple(flags)))
    return stages


def project() -> list[Stage]:
    """The stages of this project's."""
    return read(PATH.read_text(encoding="utf-8"))


def mount(value: str) -> dict[str, str]:
    """The fields of ``--mount``."""
    return dict(part.split("=", 1) for part in value.split(","))


def healthcheck(instruction: Instruction) -> list[str]:
    """The command of a HEALTHCHECK."""
    return Instruction("CMD", instruction.text.partition("CMD ")[2]).words


def _filled(text: str, known: dict[str, str]) -> str:
    return _VARIABLE.sub(lambda match: known.get(match[1], match[0]), text)


def _lines(text: str) -> list[str]:
    """Whole instructions: continued lines are joined, comments between them left out."""
    written = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    joined = re.sub(r"\\\n\s*", "", "\n".join(written))
    return [line.strip() for line in joined.splitlines()]
