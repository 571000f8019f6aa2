"""Our sampler in the fake's loop: requests go in, tokens and reports come out."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.tensorrt_llm import injection
from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams
from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings
from tests.trtllm_fake import Bench
from tests.trtllm_fake.invented import invented, wavering

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import pytest

    from spec_cascade.decoding.judging import Block
    from spec_cascade.engines.tensorrt_llm.decision import Turn
    from spec_cascade.engines.tensorrt_llm.reports import Report
    from tests.trtllm_fake import FakeModel

MODES = ["argmax", "sampled"]
K = 3
TARGET = invented()
DRAFTER = wavering(TARGET)
ANY_TEXT = [1, 2, 3]
WARM: dict[str, Any] = {"temperature": 1.0}
LOSSY = "token_v3:alpha=0.6"


class Played:
    """A bench whose sampler is ours, and what its rounds were reported to be.

    Args:
        target: Scores.
        drafter: Proposes.
        mode: ``argmax`` drafts in one call, ``sampled`` step by step.
        draft_length: K, of the engine.
        settings: Further fields of `SamplerSettings`.
        arguments: Further ones of `Bench`.

    Attributes:
        bench: The loop.
        reports: What came of each round, by the request's id.
    """

    def __init__(
        self,
        target: FakeModel,
        drafter: FakeModel,
        mode: str = "argmax",
        *,
        draft_length: int = K,
        settings: dict[str, Any] | None = None,
        **arguments: Any,
    ) -> None:
        self.reports: dict[int, list[Report]] = {}
        self._ids: list[int] = []
        # One that was made before keeps its sampler.
        injection.deactivate()
        told = {"draft_mode": mode, "draft_length": draft_length, **(settings or {})}
        injection.activate(SamplerSettings(**told), self._take)
        self.bench = Bench(target, drafter, draft_length=draft_length, chain=mode == "argmax", **arguments)
        assert type(self.sampler).__name__ == "CascadeSampler"

    @property
    def sampler(self) -> Any:
        """The sampler."""
        return self.bench.sampler

    def ask(self, prompt: Sequence[int], params: CascadeParams | None = None, **arguments: Any) -> int:
        """Queue a request; returns its id.

        Args:
            prompt: Its tokens.
            params: What it asks of the cascade; its tag is given here.
            arguments: Further ones of `Bench.add`.
        """
        carrier = replace(params or CascadeParams(), tag=len(self._ids))
        self._ids.append(self.bench.add(prompt, carrier=carrier, **arguments))
        return self._ids[-1]

    def run(self) -> None:
        """Until everything has ended, and nothing has failed."""
        self.bench.run()
        assert not self.bench.errors

    def output(self, request_id: int) -> list[int]:
        """All tokens that came back of a request."""
        return self.bench.output(request_id)

    def blocks(self, request_id: int) -> list[Block]:
        """What its rounds were reported to have given it."""
        return [report.block for report in self.reports.get(request_id, []) if report.block is not None]

    def drafted(self, request_id: int) -> list[int]:
        """How many tokens were drafted for it in each of its rounds, the first of which is its prompt's."""
        return [block.drafted for block in self.blocks(request_id)]

    def sources(self, request_id: int) -> list[int]:
        """Who wrote its tokens."""
        return [int(source) for block in self.blocks(request_id) for source in block.sources]

    def watch(self, at: Callable[[Sequence[Turn]], None]) -> None:
        """Be told of each round's turns, before they are decided."""
        look(sys.modules[type(self.sampler).__module__], "decide", lambda turns, *_, **__: at(turns))

    def _take(self, reports: list[Report]) -> None:
        for report in reports:
            self.reports.setdefault(self._ids[report.tag], []).append(report)


def look(thing: Any, name: str, at: Callable[..., None]) -> Callable[..., Any]:
    """Call ``at`` with the arguments of a method ahead of each of its calls; returns the original."""
    original: Callable[..., Any] = getattr(thing, name)

    def looked_at(*args: Any, **kwargs: Any) -> Any:
        at(*args, **kwargs)
        return original(*args, **kwargs)

    setattr(thing, name, looked_at)
    return original


def params(**asked: Any) -> CascadeParams:
    """What a request asks of the cascade, always with the same seed."""
    return CascadeParams(**{"seed": 5, **asked})


def alone(mode: str, prompt: Sequence[int], carried: CascadeParams, **asked: Any) -> list[int]:
    """What a request says that has no company."""
    played = Played(TARGET, DRAFTER, mode)
    request = played.ask(prompt, carried, **asked)
    played.run()
    return played.output(request)


def failing_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A rule whose module raises something of its own."""
    (tmp_path / "rules_that_fail.py").write_text("raise OSError('no table')\n", encoding="utf-8")
    monkeypatch.syspath_prepend(str(tmp_path))
    return "rules_that_fail:Rule"


def crowd() -> list[tuple[tuple[int, ...], CascadeParams, dict[str, Any]]]:
    """Requests of all kinds."""
    rules = ["strict", LOSSY, "chow:alpha=0.5", "drafter_only", "target_only", "margin:alpha=0.2"]
    kinds: list[dict[str, Any]] = [{}, WARM, {"temperature": 0.6, "top_k": 5}, {"temperature": 1.2, "top_p": 0.8}]
    return [
        (
            (1 + i, 2, *range(i)),
            CascadeParams(
                rule=rule,
                seed=10 + i,
                draft_length=[None, 1, 2, 0, None, 3][i],
                repetition_penalty=1.0 + (i == 1) * 0.3,
                bad_word_ids=((20,),) if i == 2 else (),
                log_probs=i == 5,
            ),
            {"max_tokens": 6 + 3 * i, **kinds[i % 4]},
        )
        for i, rule in enumerate(rules)
    ]
