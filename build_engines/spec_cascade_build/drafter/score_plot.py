"""A score as a picture: predicted speed-up over K, and how long blocks stand."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_build.drafter.score_rules import GREEDY, STRICT

if TYPE_CHECKING:
    from pathlib import Path

    from spec_cascade_build.drafter.score import Score

_LOUD = (STRICT, GREEDY)
_NAMED = 6
"""Other rules that have a colour; the rest is grey."""


def draw(score: Score, path: Path) -> None:
    """Write the plot; the file's ending says how."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.8), layout="constrained")
    speed, tokens = figure.subplots(1, 2)
    others = sorted(
        (name for name in score.predictions if name not in _LOUD),
        key=lambda name: -score.predictions[name].best_speed_up,
    )
    for i, name in enumerate([*_LOUD, *others]):
        found = score.predictions[name]
        lengths = range(1, len(found.tokens) + 1)
        color, label = (f"C{i}", name) if i < len(_LOUD) + _NAMED else ("0.85", None)
        width, marker = (2, "o") if name in _LOUD else (1, None)
        for axes, values in ((speed, found.speed_ups), (tokens, found.tokens)):
            axes.plot(
                lengths, values, color=color, label=label, linewidth=width, marker=marker, zorder=2 if label else 1
            )
    speed.axhline(1.0, color="0.6", linewidth=0.8, zorder=0)
    speed.set_ylabel("predicted speed-up over plain decoding")
    tokens.set_ylabel("tokens for each call of the target")
    for axes in (speed, tokens):
        axes.set_xlabel("drafted tokens, K")
        axes.set_ylim(bottom=0)
        axes.grid(alpha=0.3)
    facts, strict = score.machine, score.predictions[STRICT]
    figure.suptitle(
        f"{score.manifest.name}: c = {strict.ratio:.2f}, acceptance {strict.acceptance:.2f} (strict); "
        f"{facts['gpu'] or facts['processor']}, {facts['cores']} cores",
        fontsize="medium",
    )
    figure.legend(*speed.get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize="small")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)
