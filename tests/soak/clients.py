"""Clients of every kind: patient ones, those that cancel, those that go away, and those with little time."""

from __future__ import annotations

import random
import time
from collections import Counter
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.request import AUTO, FinishReason, GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.errors import QueueFullError
from spec_cascade.rules import parse_rule
from tests.soak.rig import KNOWN_TOKENS, MAX_SEQ_LEN
from tests.tiny import VOCAB

if TYPE_CHECKING:
    from spec_cascade.decoding.request import RoundOutput
    from tests.soak.rig import Known, Rig

RULES = ("strict", "target_only", "token_v3:alpha=0.8", "opt:alpha=0.1", "chow:alpha=0.3", "mix:weight=0.5")


class Tally:
    """What all clients saw.

    Attributes:
        counts: Requests by what became of them, and ``tokens``.
        broken: What was not as promised, in words; a few at most.
    """

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.broken: list[str] = []
        self._lock = Lock()

    def add(self, **counts: int) -> None:
        """Count."""
        with self._lock:
            self.counts.update(counts)

    def complain(self, what: str) -> None:
        """Something was not as promised."""
        with self._lock:
            if len(self.broken) < 20:
                self.broken.append(what)


class Client(Thread):
    """Sends one request after the other until it is stopped."""

    def __init__(self, rig: Rig, tally: Tally, stop: Event, seed: int) -> None:
        super().__init__(name=f"client-{seed}", daemon=True)
        self._rig, self._tally, self._stopping, self._dice = rig, tally, stop, random.Random(seed)

    def run(self) -> None:
        """Until stopped."""
        while not self._stopping.is_set():
            known = self._dice.choice(self._rig.known) if self._dice.random() < 0.4 else None
            request = self._known_request(known) if known is not None else self._any_request()
            try:
                self._one(request, known)
            except QueueFullError:
                self._tally.add(refused=1)
                time.sleep(0.005)

    def _one(self, request: GenerationRequest, known: Known | None) -> None:
        generation = self._rig.engine.submit(request)
        self._tally.add(submitted=1)
        manner = self._dice.choices(("patient", "cancels", "gone"), (8, 2, 1))[0]
        if manner == "gone":
            self._tally.add(gone=1)
            return
        patience = self._dice.randrange(8) if manner == "cancels" else None
        if patience == 0:
            generation.cancel()
        outputs = []
        for output in generation:
            outputs.append(output)
            if len(outputs) == patience:
                generation.cancel()
        self._check(request, known, outputs, cancelled=patience is not None)

    def _check(
        self, request: GenerationRequest, known: Known | None, outputs: list[RoundOutput], *, cancelled: bool
    ) -> None:
        tokens = [t for output in outputs for t in output.token_ids]
        reason, statistics = outputs[-1].finish_reason, outputs[-1].statistics
        assert reason is not None
        self._tally.add(tokens=len(tokens), **{reason.value: 1})
        if [o.index for o in outputs] != list(range(len(outputs))):
            self._tally.complain(f"chunks out of order for {request}")
        if statistics is None or statistics.num_output_tokens != len(tokens):
            self._tally.complain(f"{len(tokens)} tokens, counted {statistics} for {request}")
        if known is not None and tuple(tokens) != known.output_ids[: len(tokens)]:
            self._tally.complain(f"{tokens} are not the target's for {request}")
        allowed = {FinishReason.LENGTH, FinishReason.STOP, FinishReason.ERROR}
        if cancelled:
            allowed.add(FinishReason.CANCELLED)
        if request.timeout_ms is not None:
            allowed.add(FinishReason.TIMEOUT)
        if reason not in allowed:
            self._tally.complain(f"{reason} for {request}")
        if reason is FinishReason.LENGTH and len(tokens) != _room(request):
            self._tally.complain(f"{len(tokens)} tokens, not {_room(request)}, for {request}")

    def _known_request(self, known: Known) -> GenerationRequest:
        sampling = SamplingParams(temperature=0, max_tokens=self._dice.randint(1, KNOWN_TOKENS))
        rule = self._dice.choice(("strict", "target_only"))
        return GenerationRequest(prompt_ids=known.prompt_ids, sampling=sampling, rule=parse_rule(rule), **self._ways())

    def _any_request(self) -> GenerationRequest:
        dice = self._dice
        length = dice.choice((1, 3, 16, 17, 60, 150, MAX_SEQ_LEN - 2, MAX_SEQ_LEN - 1))
        max_tokens = dice.choice((1, 2, 20, 60))
        sampling = SamplingParams(
            temperature=dice.choice((0.0, 0.7, 1.0)),
            top_k=dice.choice((0, 0, 20)),
            top_p=dice.choice((1.0, 0.9)),
            seed=dice.randrange(2**64),
            repetition_penalty=dice.choice((1.0, 1.0, 1.2)),
            frequency_penalty=dice.choice((0.0, 0.0, 0.5)),
            max_tokens=max_tokens,
            min_tokens=dice.choice((0, max_tokens // 2)),
            stop_token_ids=dice.choice(((), (dice.randrange(VOCAB),))),
            log_probs=dice.random() < 0.2,
        )
        prompt = tuple(dice.randrange(VOCAB) for _ in range(length))
        return GenerationRequest(
            prompt_ids=prompt, sampling=sampling, rule=parse_rule(dice.choice(RULES)), **self._ways()
        )

    def _ways(self) -> dict[str, Any]:
        dice = self._dice
        return {
            "draft_length": dice.choice((None, AUTO, 0, 1, 4, 8)),
            "timeout_ms": dice.randint(1, 100) if dice.random() < 0.15 else None,
        }


def _room(request: GenerationRequest) -> int:
    return min(request.sampling.max_tokens, MAX_SEQ_LEN - len(request.prompt_ids))
