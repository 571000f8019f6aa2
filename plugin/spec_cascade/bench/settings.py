"""What is asked of a measurement."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from spec_cascade.bench.plot import need_matplotlib
from spec_cascade.errors import ConfigError

DEFAULT_RULES = ("strict", "token_v3:alpha=0.8")
DEFAULT_CONCURRENCY = (1, 2, 4, 8)
PLOTS = (".png", ".svg")


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """One measurement.

    Attributes:
        engine_dir: The engine directory.
        rules: Rules to run; empty takes those of `DEFAULT_RULES` that the engine takes.
        draft_length: Of every rule; None is the engine's default.
        concurrency: Tasks at a time to sweep over; empty takes those of `DEFAULT_CONCURRENCY` that the engine takes.
        tokens: Output of every task, at least two, so that there is a time between tokens.
        prompts: Tasks of every run, at least as many as run at a time.
        repetitions: Recorded passes.
        warm_up: Passes before them.
        temperature: Of every task.
        peers: Whether transformers is measured too.
    """

    engine_dir: Path
    rules: tuple[str, ...] = ()
    draft_length: int | None = None
    concurrency: tuple[int, ...] = ()
    tokens: int = 64
    prompts: int = 8
    repetitions: int = 5
    warm_up: int = 1
    temperature: float = 0.0
    peers: bool = True

    def __post_init__(self) -> None:
        for field, least in (("tokens", 2), ("prompts", 1), ("repetitions", 1), ("warm_up", 0)):
            if getattr(self, field) < least:
                option = "--" + field.replace("_", "-")
                raise ConfigError(option, getattr(self, field), f"an integer >= {least}")

    def streams(self, most: int) -> tuple[int, ...]:
        """The concurrency to sweep over on an engine that takes ``most`` requests at a time.

        Raises:
            ConfigError: More were asked for.
        """
        if self.concurrency and max(self.concurrency) > most:
            raise ConfigError("--concurrency", max(self.concurrency), f"at most {most}, the engine's max_batch_size")
        return self.concurrency or tuple(streams for streams in DEFAULT_CONCURRENCY if streams <= most)


def parsed_concurrency(text: str) -> tuple[int, ...]:
    """``1,2,4`` as numbers, in order and once each.

    Raises:
        ConfigError: Something else stands there.
    """
    try:
        numbers = sorted({int(part) for part in text.split(",")})
    except ValueError:
        numbers = [0]
    if numbers[0] < 1:
        raise ConfigError("--concurrency", text, "numbers >= 1, separated by commas")
    return tuple(numbers)


def check_outputs(json_file: Path | None, plot: Path | None) -> None:
    """Refuse files that cannot be written, and a plot that cannot be drawn, before anything is measured.

    Raises:
        ConfigError: Of the option ``--json`` or ``--plot``.
        SpecCascadeError: There is nothing to draw the plot with.
    """
    for option, path in (("--json", json_file), ("--plot", plot)):
        if path is not None:
            check_output(option, path)
    if plot is not None:
        check_plot(plot)
        need_matplotlib()


def check_plot(path: Path) -> None:
    """Refuse a file that the plot cannot be written to.

    Raises:
        ConfigError: The name does not end in one of `PLOTS`.
    """
    if path.suffix.lower() not in PLOTS:
        raise ConfigError("--plot", str(path), f"a file that ends in {' or '.join(PLOTS)}")


def check_output(option: str, path: Path) -> None:
    """Refuse a file that cannot be written before anything is measured rather than after it.

    Raises:
        ConfigError: It is a directory, or there can be no such file.
    """
    place = next(parent for parent in (path.absolute().parent, *path.absolute().parents) if parent.exists())
    known = path if path.exists() else place
    if path.is_dir() or not place.is_dir() or not os.access(known, os.W_OK):
        raise ConfigError(option, str(path), "a file that can be written")
