"""Tokens per second, and the ratio to target only, over the number of streams: one line a subject."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from spec_cascade.errors import SpecCascadeError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from spec_cascade.bench.summary import Line, Spread

_SHIFT = 0.04


def need_matplotlib() -> None:
    """Fail before anything is measured rather than after it.

    Raises:
        SpecCascadeError: It is not installed.
    """
    if find_spec("matplotlib") is None:
        raise SpecCascadeError("--plot needs matplotlib: pip install 'spec-cascade[bench]'")


def draw(lines: Sequence[Line], title: str, path: Path) -> None:
    """Write the plot; the file's ending says how. The bars reach from the least to the greatest repetition."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    speed, ratio = figure.subplots(1, 2)
    subjects = list(dict.fromkeys(line.subject for line in lines))
    for i, subject in enumerate(subjects):
        own = [line for line in lines if line.subject == subject]
        # Side by side, so that their bars do not hide each other.
        shift = 2 ** (_SHIFT * (i - (len(subjects) - 1) / 2))
        # A subject has the same place, and so the same colour, in both.
        _curve(speed, subject, [(line.streams * shift, line.tokens_per_second) for line in own])
        _curve(ratio, subject, [(line.streams * shift, line.ratio) for line in own if line.ratio is not None])
    speed.set_ylabel("tokens/s, all streams")
    ratio.set_ylabel("tokens/s over target only")
    ratio.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
    streams = sorted({line.streams for line in lines})
    for axes in (speed, ratio):
        axes.set_xlabel("requests at a time")
        axes.set_xscale("log", base=2)
        axes.set_xticks(streams, [str(number) for number in streams])
        axes.minorticks_off()
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    figure.suptitle(title, fontsize="medium")
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def _curve(axes: Axes, subject: str, points: Sequence[tuple[float, Spread]]) -> None:
    medians = [values.median for _, values in points]
    below = [values.median - values.least for _, values in points]
    above = [values.greatest - values.median for _, values in points]
    streams = [streams for streams, _ in points]
    axes.errorbar(streams, medians, yerr=[below, above], marker="o", markersize=4, capsize=2, label=subject)
