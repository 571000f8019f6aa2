"""The embedded engine as a subject: without drafts, with each rule, and without a drafter at all."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from spec_cascade.bench.samples import Reply
from spec_cascade.decoding.request import FinishReason, GenerationRequest
from spec_cascade.engines.manifest import DrafterEntry
from spec_cascade.engines.pytorch.open import open_pytorch
from spec_cascade.errors import ConfigError, EngineError
from spec_cascade.rules import DeferralRule, parse_rule

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import ExitStack
    from pathlib import Path

    from spec_cascade.bench.samples import Clock, Task
    from spec_cascade.engines.manifest import Manifest
    from spec_cascade.engines.protocol import Engine

TARGET_ONLY = "target only"
NO_DRAFTER = "no drafter"


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSubject:
    """An engine under one rule and one draft length.

    Attributes:
        name: In tables.
        engine: The engine; several subjects share one.
        rule: Of every request.
        draft_length: Of every request; None is the engine's default.
    """

    name: str
    engine: Engine
    rule: DeferralRule
    draft_length: int | None

    @property
    def most_streams(self) -> int:
        """The engine's ``max_batch_size``."""
        return self.engine.limits.max_batch_size

    def reply(self, task: Task, clock: Clock) -> Reply:
        """Submit a task and wait for its end.

        Raises:
            ConfigError: The engine refuses the rule, the draft length or the task.
            EngineError: The engine failed.
        """
        request = GenerationRequest(
            prompt_ids=task.prompt_ids, sampling=task.sampling, rule=self.rule, draft_length=self.draft_length
        )
        token_ids: list[int] = []
        chunks: list[tuple[float, int]] = []
        started = clock()
        for output in self.engine.submit(request):
            if output.token_ids:
                chunks.append((clock(), len(output.token_ids)))
                token_ids.extend(output.token_ids)
        counts = output.statistics
        if output.finish_reason is not FinishReason.LENGTH or counts is None:
            raise EngineError(f"{self.name}: a request ended with {output.finish_reason}: {output.error}")
        return Reply(
            prompt=task.prompt,
            token_ids=tuple(token_ids),
            started=started,
            chunks=tuple(chunks),
            target_calls=counts.num_target_calls,
            drafted=counts.num_draft_tokens,
            accepted=counts.num_accepted_draft_tokens,
            parts=asdict(counts.seconds),
        )


def open_engine_subjects(
    directory: Path, manifest: Manifest, rules: Sequence[str], draft_length: int | None, stack: ExitStack
) -> list[EngineSubject]:
    """Open the engine, and once more without its drafter; `stack` closes both.

    Only one of them ever decodes at a time: the other's thread sleeps. On a CPU both map their weights from the same
    files.
    """
    strict = parse_rule("strict")
    engine = open_pytorch(directory, manifest)
    stack.callback(engine.close)
    subjects = [EngineSubject(name=TARGET_ONLY, engine=engine, rule=strict, draft_length=0)]
    if manifest.drafter.kind == "none":
        return subjects
    subjects += [
        EngineSubject(name=rule, engine=engine, rule=parse_rule(rule), draft_length=draft_length) for rule in rules
    ]
    bare = open_pytorch(directory, replace(manifest, drafter=DrafterEntry(kind="none")))
    stack.callback(bare.close)
    return [*subjects, EngineSubject(name=NO_DRAFTER, engine=bare, rule=strict, draft_length=0)]


def accepted(
    subjects: Sequence[EngineSubject], task: Task, clock: Clock, *, required: bool
) -> tuple[list[EngineSubject], list[str]]:
    """Try every subject on one token, before anything is measured.

    Args:
        subjects: All.
        task: What to try.
        clock: In seconds.
        required: Whether a rule that the engine refuses is an error.

    Returns:
        The subjects that the engine takes, and why it does not take the others.

    Raises:
        ConfigError: The engine refuses a rule that is required, or something else.
    """
    short = replace(task, sampling=replace(task.sampling, max_tokens=1))
    refusals = [_refusal(subject, short, clock) for subject in subjects]
    for refusal in refusals:
        if refusal is not None and (required or refusal.field != "deferral_rule"):
            raise refusal
    found = list(zip(subjects, refusals, strict=True))
    kept = [subject for subject, refusal in found if refusal is None]
    return kept, [f"{subject.name} is left out: {refusal}" for subject, refusal in found if refusal is not None]


def _refusal(subject: EngineSubject, task: Task, clock: Clock) -> ConfigError | None:
    try:
        subject.reply(task, clock)
    except ConfigError as error:
        return error
    return None
