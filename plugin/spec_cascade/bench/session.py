"""One measurement from the engine directory to the figures."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING

import torch

from spec_cascade.bench.comparisons import Lineup, compare
from spec_cascade.bench.machine import machine
from spec_cascade.bench.peers import GENERATE, open_peers
from spec_cascade.bench.prompts import make_tasks
from spec_cascade.bench.runner import measure
from spec_cascade.bench.settings import DEFAULT_RULES
from spec_cascade.bench.subjects import NO_DRAFTER, TARGET_ONLY, accepted, open_engine_subjects
from spec_cascade.bench.summary import summarise
from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.engines.manifest import Manifest
from spec_cascade.engines.pytorch.open import usable_packages
from spec_cascade.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from spec_cascade.bench.comparisons import Comparison
    from spec_cascade.bench.samples import Clock, Run, Subject, Task
    from spec_cascade.bench.settings import Settings
    from spec_cascade.bench.subjects import EngineSubject
    from spec_cascade.bench.summary import Line
    from spec_cascade.engines.manifest import EngineDefaults


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What was measured.

    Attributes:
        name: The pair's name.
        dtype: In which the engine computes.
        compiled: Whether it runs its models compiled ahead of time.
        defaults: The engine's defaults: what a request that says nothing gets.
        concurrency: Streams that were swept over.
        lineup: The subjects.
        runs: Every recorded run.
        lines: The table.
        comparisons: Ratios that answer a question.
        remarks: What the reader must know, a sentence each.
        machine: Facts about the machine.
    """

    name: str
    dtype: str
    compiled: bool
    defaults: EngineDefaults
    concurrency: tuple[int, ...]
    lineup: Lineup
    runs: Sequence[Run]
    lines: Sequence[Line]
    comparisons: Sequence[Comparison]
    remarks: Sequence[str]
    machine: dict[str, Any]


def run(
    settings: Settings, *, total: Callable[[int], None], advance: Callable[[str], None], clock: Clock = perf_counter
) -> Result:
    """Open everything, measure, and close.

    Args:
        settings: What to measure.
        total: Told how many runs there will be, once everything is open.
        advance: Told what runs next.
        clock: In seconds.

    Raises:
        EngineError: The engine cannot be opened, or fails.
        ConfigError: The engine does not take what is asked for.
    """
    manifest = Manifest.read(settings.engine_dir)
    manifest.check(settings.engine_dir)
    if manifest.engine != "pytorch":
        raise EngineError(f"{settings.engine_dir}: bench measures the engine 'pytorch', not {manifest.engine!r}")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    with ExitStack() as stack:
        advance("opening the engine")
        ours, remarks, tasks, concurrency = _ours(settings, manifest, stack, clock)
        subjects: list[Subject] = [*ours]
        lineup = _lineup(ours)
        if settings.peers and 1 not in concurrency:
            remarks.append("transformers is left out: it runs one stream, and --concurrency has no 1")
        elif settings.peers:
            advance("opening transformers")
            length = settings.draft_length
            length = ours[0].engine.limits.default_draft_length if length is None else length
            peers, more = open_peers(settings.engine_dir, manifest, device, tasks, length, clock)
            remarks += more
            subjects += peers
            names = [peer.name for peer in peers]
            plain = tuple(name for name in names if name.startswith(GENERATE))
            lineup = _lineup(ours, generate=plain, assisted=tuple(name for name in names if name not in plain))
        able = sum(streams <= subject.most_streams for subject in subjects for streams in concurrency)
        total(able * (settings.warm_up + settings.repetitions))
        runs = measure(
            subjects,
            tasks,
            concurrency=concurrency,
            repetitions=settings.repetitions,
            warm_up=settings.warm_up,
            clock=clock,
            advance=advance,
        )
    return Result(
        name=manifest.name,
        dtype=manifest.target.dtype,
        compiled=bool(usable_packages(settings.engine_dir, manifest, device)),
        defaults=manifest.defaults,
        concurrency=concurrency,
        lineup=lineup,
        runs=runs,
        lines=summarise(runs, TARGET_ONLY, lineup.names),
        comparisons=compare(runs, lineup),
        remarks=remarks,
        machine=machine(device),
    )


def _ours(
    settings: Settings, manifest: Manifest, stack: ExitStack, clock: Clock
) -> tuple[list[EngineSubject], list[str], list[Task], tuple[int, ...]]:
    """The engine's subjects, remarks on them, the tasks and the concurrency."""
    if settings.rules and manifest.drafter.kind == "none":
        raise ConfigError("--rule", settings.rules[0], "left out: this engine has no drafter")
    if settings.draft_length and manifest.drafter.kind == "none":
        raise ConfigError("--draft-length", settings.draft_length, "left out: this engine has no drafter")
    rules = settings.rules or DEFAULT_RULES
    subjects = open_engine_subjects(settings.engine_dir, manifest, rules, settings.draft_length, stack)
    limits = subjects[0].engine.limits
    concurrency = settings.streams(limits.max_batch_size)
    tasks = make_tasks(
        Tokenizer.load(settings.engine_dir / "tokenizer"),
        max(settings.prompts, *concurrency),
        tokens=settings.tokens,
        temperature=settings.temperature,
        max_seq_len=limits.max_seq_len,
    )
    # The rules that nobody asked for by name need not suit every drafter.
    kept, remarks = accepted(subjects, tasks[0], clock, required=bool(settings.rules))
    return kept, remarks, tasks, concurrency


def _lineup(ours: Sequence[EngineSubject], **peers: tuple[str, ...]) -> Lineup:
    names = [subject.name for subject in ours]
    rules = tuple(name for name in names if name not in (TARGET_ONLY, NO_DRAFTER))
    return Lineup(target_only=TARGET_ONLY, rules=rules, no_drafter=NO_DRAFTER if NO_DRAFTER in names else "", **peers)
