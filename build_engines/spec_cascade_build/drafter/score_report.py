"""A score as tables, sentences and JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from spec_cascade.bench.machine import now, versions
from spec_cascade_build.drafter.score_rules import GREEDY, STRICT

if TYPE_CHECKING:
    from spec_cascade_build.drafter.score import Score
    from spec_cascade_build.drafter.score_settings import ScoreSettings

FORMAT = 1
_FORMULA = (
    "tokens per call: 1 + sum over k = 1..K of the mean of a[t] ... a[t+k-1], a[t] being the acceptance of a token "
    "drafted at place t of the text"
)


def rules_table(score: Score) -> Table:
    """One row for each way of decoding, at its best K."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("rule", no_wrap=True)
    for name in ("acceptance", "best K", "tokens\nper call", "predicted\nspeed-up"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in score.predictions.items():
        table.add_row(
            escape(name),
            f"{found.acceptance:.3f}",
            str(found.best),
            f"{found.best_tokens:.2f}",
            f"{found.best_speed_up:.2f}x",
            end_section=name == STRICT,
        )
    return table


def lengths_table(score: Score) -> Table:
    """Strict and greedy over K."""
    table = Table(box=SIMPLE_HEAD, padding=(0, 0, 0, 1))
    table.add_column("K", justify="right")
    for way in (STRICT, GREEDY):
        for name in ("draft K\nstands", "tokens\nper call", "predicted\nspeed-up"):
            table.add_column(f"{way}\n{name}", justify="right", no_wrap=True)
    for k in range(len(score.predictions[STRICT].tokens)):
        cells = []
        for way in (STRICT, GREEDY):
            found = score.predictions[way]
            cells += [f"{found.positions[k]:.3f}", f"{found.tokens[k]:.2f}", f"{found.speed_ups[k]:.2f}x"]
        table.add_row(str(k + 1), *cells)
    return table


def verdicts(score: Score) -> list[str]:
    """Of each way of decoding, whether it pays."""
    return [f"{name}: {found.verdict}" for name, found in score.predictions.items()]


def notes(score: Score, settings: ScoreSettings, command: str) -> list[str]:
    """The lines under the tables."""
    facts, costs, target = score.machine, score.costs, score.manifest.target
    places = sum(passage.scored for passage in score.passages)
    gpu = f", {facts['gpu']}" if facts["gpu"] else ""
    source = "answers of the target's own" if settings.text is None else f"pieces of {settings.text}"
    return [
        *score.remarks,
        f"{places} places in {len(score.passages)} {source}; temperature {settings.temperature:g}; lossy rules behind "
        f"the engine's default guard; {GREEDY}: {STRICT} at temperature 0, so a place of this "
        "text counts where both models' most likely tokens are the same",
        _FORMULA,
        f"target, one token: {costs.score[0] * 1e3:.2f} ms; drafter, one step: "
        f"{costs.draft[settings.temperature] * 1e3:.2f} ms; c = {score.predictions[STRICT].ratio:.3f}; medians of "
        f"{costs.repetitions}, one sequence, {costs.context} tokens before; speed-ups count the verifier, not the host",
        f"{score.manifest.name}, {target.dtype}, {'compiled' if score.compiled else 'not compiled'}; "
        f"{facts['processor']}, {facts['cores']} cores, {facts['torch_threads']} torch threads{gpu}",
        ", ".join([*(f"{name} {number}" for name, number in versions().items()), now()]),
        f"repeat with: {command}",
    ]


def record(score: Score, settings: ScoreSettings, command: str) -> dict[str, Any]:
    """Everything as JSON; times in seconds, entries of lists by K, those of costs from K = 0 and others from 1."""
    manifest, costs = score.manifest, score.costs
    return {
        "format": FORMAT,
        "command": command,
        "date": now(),
        "machine": score.machine,
        "versions": versions(),
        "engine": {
            "name": manifest.name,
            "dtype": manifest.target.dtype,
            "compiled": score.compiled,
            "draft_mode": manifest.defaults.draft_mode,
            "vocabulary": asdict(manifest.vocabulary),
        },
        "settings": {
            **asdict(settings),
            "engine_dir": str(settings.engine_dir),
            "prompts": settings.prompts and str(settings.prompts),
            "text": settings.text and str(settings.text),
        },
        "remarks": list(score.remarks),
        "tokens_per_call_formula": _FORMULA,
        "costs": {
            "context": costs.context,
            "repetitions": costs.repetitions,
            "draft_by_temperature": {f"{t:g}": seconds for t, seconds in costs.draft.items()},
            "score": list(costs.score),
            "verify": {name: list(seconds) for name, seconds in costs.verify.items()},
        },
        "rules": [_rule(score, way.name) | {"temperature": way.temperature} for way in score.ways],
        "passages": [
            {"tokens": len(passage.token_ids), "begin": passage.begin}
            | {way: [round(float(a), 4) for a in score.acceptances[way][i]] for way in (STRICT, GREEDY)}
            for i, passage in enumerate(score.passages)
        ],
    }


def _rule(score: Score, name: str) -> dict[str, Any]:
    found = score.predictions[name]
    return {
        "name": name,
        "rule": next(str(way.rule) for way in score.ways if way.name == name),
        "acceptance": found.acceptance,
        "cost_ratio": found.ratio,
        "stand": list(found.stand),
        "acceptance_by_position": list(found.positions),
        "tokens_per_call": list(found.tokens),
        "speed_ups": list(found.speed_ups),
        "best_draft_length": found.best,
        "pays": found.pays,
        "verdict": found.verdict,
    }
