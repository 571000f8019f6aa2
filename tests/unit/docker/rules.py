"""What a Dockerfile of this project has to be; hadolint, where it is installed, says the rest."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.unit.docker.dockerfile import Instruction, Stage, read

if TYPE_CHECKING:
    from collections.abc import Iterator

_NETWORK = {"curl", "wget", "git", "apt-get", "apt", "npm"}
_PINNED = re.compile(r"[\w.\[\]-]+==[\w.]+|.*\.whl|\.")


def complaints(text: str) -> list[str]:
    """What is wrong with a Dockerfile, a line each."""
    stages = read(text)
    found = [complaint for i, stage in enumerate(stages) for complaint in _of_stage(stage, stages[:i])]
    return [*found, *_of_the_last(stages[-1])]


def _of_stage(stage: Stage, earlier: list[Stage]) -> Iterator[str]:
    if stage.image not in {other.name for other in earlier} and not _is_pinned(stage.image):
        yield f"image without a version: {stage.image}"
    for instruction in stage.instructions:
        match instruction.keyword:
            case "ADD":
                yield f"ADD may fetch and unpack: {instruction.text}"
            case "WORKDIR" if not instruction.text.startswith("/"):
                yield f"relative WORKDIR: {instruction.text}"
            case "CMD" | "ENTRYPOINT" if not instruction.is_json:
                yield f"{instruction.keyword} goes through a shell: {instruction.text}"
            case "HEALTHCHECK" if not instruction.text.partition("CMD ")[2].startswith("["):
                yield f"HEALTHCHECK goes through a shell: {instruction.text}"
            case "RUN":
                yield from _of_run(instruction)


def _of_run(run: Instruction) -> Iterator[str]:
    for words in run.commands:
        program, arguments = _without_variables(words)
        if program in _NETWORK:
            yield f"network beside pip: {program}"
        if program == "cd":
            yield "cd instead of WORKDIR"
        if program == "sudo":
            yield "sudo"
        if program.startswith("pip") or arguments[:2] == ["-m", "pip"]:
            yield from _of_pip(arguments[2:] if arguments[:1] == ["-m"] else arguments)


def _of_pip(arguments: list[str]) -> Iterator[str]:
    if "--no-cache-dir" not in arguments:
        yield "pip keeps a cache"
    if "--index-url" in arguments or "--extra-index-url" in arguments:
        yield "pip asks another index"
    if "--constraint" in arguments or "--no-index" in arguments:
        return
    for name in packages(arguments):
        if not _PINNED.fullmatch(name):
            yield f"pip installs any version of {name}"


def packages(arguments: list[str]) -> list[str]:
    """What a pip command line names, after its verb."""
    takes_a_value = {"--target", "--constraint", "--requirement", "--wheel-dir", "--index-url"}
    found, skip = [], False
    for word in arguments[1:]:
        if skip or word.startswith("-"):
            skip = word in takes_a_value
            continue
        found.append(word)
    return found


def _of_the_last(stage: Stage) -> Iterator[str]:
    for keyword in ("CMD", "HEALTHCHECK"):
        if len(stage.all(keyword)) != 1:
            yield f"{len(stage.all(keyword))} x {keyword}"
    users = stage.all("USER")
    if not users or not re.fullmatch(r"[1-9]\d*(:[1-9]\d*)?", users[-1].text):
        yield f"the user is {users[-1].text if users else 'root'}, not a number above 0"


def _is_pinned(image: str) -> bool:
    if re.search(r"@sha256:[0-9a-f]{64}$", image):
        return True
    name, colon, tag = image.rpartition("/")[2].partition(":")
    return bool(name and colon and tag) and tag != "latest" and "$" not in image


def _without_variables(words: list[str]) -> tuple[str, list[str]]:
    rest = list(words)
    while rest and re.match(r"\w+=", rest[0]):
        rest.pop(0)
    return (rest[0], rest[1:]) if rest else ("", [])
