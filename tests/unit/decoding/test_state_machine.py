"""Whatever happens, in whatever order: every round keeps the loop's promises.

Hypothesis submits, steps, cancels, lets time pass and makes the models fail, and looks for an order that breaks one.
`SPEC_CASCADE_EXAMPLES=2000 pytest tests/unit/decoding/test_state_machine.py` looks longer, at other orders every time.
"""

from __future__ import annotations

import os
from itertools import count
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from spec_cascade.decoding.request import AUTO, FinishReason
from spec_cascade.errors import QueueFullError
from spec_cascade.rules import parse_rule
from tests.unit.decoding.bench import CHUNK, MAX_SEQ_LEN, Bench, prompt
from tests.unit.decoding.greedy import Greedy
from tests.unit.decoding.told import END_TOKENS, Told

if TYPE_CHECKING:
    pass

EXAMPLES = int(os.environ.get("SPEC_CASCADE_EXAMPLES", "0"))
PAUSE_ROUNDS = 5
RULES = ("strict", "target_only", "drafter_only", "token_v3:alpha=0.8", "opt:alpha=0.1", "chow:alpha=0.3")
LENGTHS = (1, 2, CHUNK, CHUNK + 1, 3 * CHUNK, MAX_SEQ_LEN - 6, MAX_SEQ_LEN - 1)
ASKED = (FinishReason.CANCELLED, FinishReason.TIMEOUT)


class PlannedError(RuntimeError):
    """What the models raise on demand."""


class Rounds(RuleBasedStateMachine):
    """A loop, its clients, and all that can happen to them."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.told: list[Told] = []
        self.now = 1000.0
        self.patch = pytest.MonkeyPatch()
        clock = SimpleNamespace(monotonic=lambda: self.now)
        self.patch.setattr("spec_cascade.decoding.sequence.time", clock)
        # What a round costs decides how much is drafted: a real clock would give every run of an example other rounds.
        ticks = count()
        self.patch.setattr("spec_cascade.decoding.stopwatch.time", SimpleNamespace(perf_counter=lambda: next(ticks)))

    @initialize(
        batch=st.integers(1, 4),
        queue=st.integers(0, 3),
        noise=st.sampled_from([0.0, 0.05, 0.3]),
        fallback=st.booleans(),
        argmax=st.booleans(),
        confidence=st.sampled_from([0.0, 0.0, 0.5]),
    )
    def open(self, **options: Any) -> None:
        self.bench = Bench(eos=END_TOKENS, pause_rounds=PAUSE_ROUNDS, **options)
        self.bench.target.poisoned = self._is_spoilt
        self.argmax: bool = options["argmax"]
        self.max_waiting: int = options["queue"]

    def _is_spoilt(self, slot: int) -> bool:
        sequence = self.bench.scheduler.running[slot]
        return any(told.spoilt for told in self.told if told.sequence is sequence)

    @property
    def live(self) -> list[Told]:
        return [told for told in self.told if told.reason is None]

    def _one_of(self, which: int) -> Told:
        return self.live[which % len(self.live)]

    @rule(
        length=st.sampled_from(LENGTHS),
        seed=st.integers(0, 2),
        named=st.sampled_from(RULES),
        draft_length=st.sampled_from([AUTO, 0, 1, 4, 8]),
        ordered=st.booleans(),
        reproducible=st.booleans(),
        temperature=st.sampled_from([0.0, 0.0, 0.8]),
        max_tokens=st.sampled_from([1, 2, 9, 30]),
        min_share=st.sampled_from([0, 0, 1, 2]),
        penalty=st.sampled_from([0.0, 0.0, 0.7]),
        stop=st.sampled_from([(), (0, 1, 2, 3, 4, 5)]),
        log_probs=st.booleans(),
        time_out=st.sampled_from([None, None, 1.0, 3.0]),
    )
    def submit_any(self, **options: Any) -> None:
        self.submit(**options)

    def submit(
        self,
        *,
        length: int,
        seed: int,
        named: str,
        draft_length: int,
        ordered: bool,
        reproducible: bool,
        max_tokens: int,
        min_share: int,
        penalty: float,
        stop: tuple[int, ...],
        time_out: float | None,
        **sampling: Any,
    ) -> None:
        if parse_rule(named).loses_meaning(argmax_drafts=self.argmax, gates_available=True):
            named = "strict"
        waiting, running = self.bench.scheduler.num_waiting, len(self.bench.scheduler.running)
        free = len(self.bench.target.cache.lengths) - running
        try:
            sequence = self.bench.add(
                prompt(length, seed),
                rule=named,
                draft_length=draft_length,
                ordered=ordered,
                reproducible=reproducible,
                deadline=None if time_out is None else self.now + time_out,
                seed=seed,
                max_tokens=max_tokens,
                min_tokens=max_tokens * min_share // 2,
                frequency_penalty=penalty,
                repetition_penalty=1 + penalty / 2,
                stop_token_ids=stop,
                **sampling,
            )
        except QueueFullError:
            assert waiting == self.max_waiting + free
            return
        assert waiting < self.max_waiting + free
        greedy = None
        if named in ("strict", "target_only") and sequence.request.sampling.temperature == 0:
            greedy = Greedy(prompt(length, seed), sequence.request.sampling, END_TOKENS.union(stop))
        self.told.append(Told(sequence, greedy))

    @rule(
        lengths=st.lists(st.sampled_from([AUTO, 4, 8]), min_size=1, max_size=4), temperature=st.sampled_from([0.0, 0.8])
    )
    def submit_drafted(self, lengths: list[int], temperature: float) -> None:
        """Long enough to be drafted for, whatever else happens."""
        for seed, draft_length in enumerate(lengths):
            plain: dict[str, Any] = {"reproducible": False, "min_share": 0, "penalty": 0.0, "log_probs": False}
            self.submit(
                length=2, seed=seed, named="strict", draft_length=draft_length, ordered=True, temperature=temperature,
                max_tokens=30, stop=(), time_out=None, **plain,
            )  # fmt: skip

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 9))
    def cancel(self, which: int) -> None:
        self._one_of(which).sequence.cancelled.set()

    @rule(seconds=st.sampled_from([0.5, 1.0, 2.0]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @precondition(lambda self: self.live)
    @rule(which=st.integers(0, 9))
    def spoil(self, which: int) -> None:
        self._one_of(which).spoilt = True

    @rule(rounds=st.integers(3, 12))
    def step(self, rounds: int) -> None:
        for _ in range(rounds):
            self._round()

    @precondition(lambda self: self.live)
    @rule(after=st.integers(0, 5), inside=st.booleans(), memory=st.booleans())
    def step_while_the_drafter_raises(self, after: int, inside: bool, memory: bool) -> None:
        error = torch.OutOfMemoryError("planned") if memory else PlannedError("the drafter")
        self.bench.draft_model.fail(error, after=after, inside=inside)
        self._round()
        self.bench.draft_model.heal()

    @precondition(lambda self: self.live)
    @rule(slots=st.frozensets(st.integers(0, 3), min_size=1))
    def step_while_the_drafter_gives_nan(self, slots: frozenset[int]) -> None:
        self.bench.draft_model.poisoned = lambda slot: slot in slots
        self._round(drafter_is_sound=False)
        self.bench.draft_model.poisoned = lambda _slot: False

    @precondition(lambda self: self.live)
    @rule(inside=st.booleans())
    def step_while_the_target_raises(self, inside: bool) -> None:
        """What the engine's thread does then."""
        for told in self.told:
            told.asked = told.sequence.end_reason
        before = {told: told.sequence.slot for told in self.live}
        self.bench.target.fail(PlannedError("the target"), inside=inside)
        try:
            self.bench.loop.step()
        except PlannedError:
            self.bench.loop.abandon(FinishReason.ERROR, error="the engine failed")
        self.bench.target.heal()
        self._read()
        assert not self.bench.scheduler.running
        for told, slot in before.items():
            if told.asked is not None:
                assert told.reason is told.asked
            elif slot >= 0:
                assert told.reason is FinishReason.ERROR
        self.bench.check()

    def _round(self, *, drafter_is_sound: bool = True) -> None:
        """One round, and what every live request must have got from it."""
        bench = self.bench
        pending = {}
        for told in self.live:
            told.asked = told.sequence.end_reason
            seen = bench.target.length(told.sequence.slot) if told.sequence.slot >= 0 else 0
            pending[told] = (len(told.sequence.token_ids) - seen, len(told.token_ids))
        failures, raised = bench.loop.statistics().num_drafter_failures, bench.draft_model.num_raised
        bench.step()
        self._read()
        failed = bench.loop.statistics().num_drafter_failures - failures
        assert failed == bench.draft_model.num_raised - raised if drafter_is_sound else failed in (0, 1)
        for told, (unseen, emitted) in pending.items():
            self._check_progress(told, unseen, emitted)

    def _check_progress(self, told: Told, unseen: int, emitted: int) -> None:
        """Every request that has a slot gains a token or a chunk of its prompt in every round."""
        gained = len(told.token_ids) - emitted
        if told.asked is not None:
            assert told.reason is told.asked
            assert gained == 0
        elif told.reason is None and told.sequence.slot < 0:
            assert gained == 0
        elif unseen > CHUNK:
            assert told.reason is None
            assert len(told.sequence.token_ids) - self.bench.target.length(told.sequence.slot) == unseen - CHUNK
        elif told.spoilt:
            assert told.reason is FinishReason.ERROR
            assert gained == 0
        else:
            assert gained >= 1
            assert told.reason in (None, FinishReason.STOP, FinishReason.LENGTH)

    def _read(self) -> None:
        for told in self.live:
            told.read()
        ended = [told for told in self.told if told.reason is not None]
        statistics = self.bench.loop.statistics()
        assert sum(statistics.num_finished.values()) == len(ended)
        assert statistics.totals.num_output_tokens == sum(len(told.token_ids) for told in ended)

    def teardown(self) -> None:
        """Let everything end; nothing may be left."""
        try:
            if not hasattr(self, "bench"):
                return
            for _ in range(300):
                if not self.live:
                    break
                self._round()
            assert not self.live
            scheduler, policy = self.bench.scheduler, self.bench.loop.policy
            assert not scheduler.running
            assert scheduler.num_waiting == 0
            assert not policy._known
            self.bench.check()
        finally:
            self.patch.undo()


TestRounds = Rounds.TestCase
TestRounds.settings = settings(
    max_examples=EXAMPLES or 30,
    stateful_step_count=30,
    derandomize=not EXAMPLES,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    print_blob=bool(EXAMPLES),
)
