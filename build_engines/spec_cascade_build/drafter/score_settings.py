"""What is asked of a scoring."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from spec_cascade.errors import ConfigError

PROMPTS = Path(__file__).with_name("prompts.txt")
"""The prompts that are answered where none are named."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoreSettings:
    """One scoring.

    Attributes:
        engine_dir: The engine directory.
        prompts: A file with one prompt a line; None takes `PROMPTS`, unless there is a text.
        text: A file to score as it stands, instead of prompts.
        tokens: Most tokens of an answer.
        window: Tokens of a piece of the text.
        temperature: At which the target answers, and of both models' rows.
        seed: Of the answers.
        rules: Rules beside strict; empty takes all.
        repetitions: Of each timing.
    """

    engine_dir: Path
    prompts: Path | None = None
    text: Path | None = None
    tokens: int = 64
    window: int = 256
    temperature: float = 1.0
    seed: int = 0
    rules: tuple[str, ...] = ()
    repetitions: int = 15

    def __post_init__(self) -> None:
        for field, least in (("tokens", 1), ("window", 2), ("seed", 0), ("repetitions", 1)):
            if getattr(self, field) < least:
                raise ConfigError(f"--{field}", getattr(self, field), f"an integer >= {least}")
        if self.seed >= 2**62:
            raise ConfigError("--seed", self.seed, "an integer in [0, 2**62)")
        if self.text is not None and self.prompts is not None:
            raise ConfigError("--text", str(self.text), "left out where prompts are named")
