"""What `CascadeLLM` makes of the reports of its rounds, and of those that are missing."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.decoding.judging import NO_DISTRIBUTION
from spec_cascade.decoding.request import FinishReason
from spec_cascade.errors import EngineError
from tests.tiny import VOCAB
from tests.trtllm_fake import FakeModel, hugging_face
from tests.unit.trtllm.running import TARGET, WINDOW, ask, held, running, tokens

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade.engines.tensorrt_llm.reports import Report

LOG = "spec_cascade.engines.tensorrt_llm.llm"
PLAIN = hugging_face(TARGET, max_seq_len=WINDOW)


@pytest.fixture(scope="module")
def wanted() -> list[int]:
    """What the sound request of these tests says."""
    with running("s15") as engine:
        return tokens(list(engine.submit(ask(seed=2))))


def test_a_stop_condition_that_fails_costs_nobody_but_its_own_request(
    wanted: list[int], caplog: pytest.LogCaptureFixture
) -> None:
    def cut(ids: Sequence[int], *_: Any) -> None:
        if len(ids) > 8:
            raise ValueError("these tokens are no text")

    with held(PLAIN) as (slow, go), running("s15", target=slow, cut=cut) as engine:
        failing, sound = engine.submit(ask(seed=1, stop_strings=("x",))), engine.submit(ask(seed=2))
        with caplog.at_level(logging.ERROR, LOG):
            go.set()
            assert tokens(list(sound)) == wanted
            last = list(failing)[-1]
    assert (last.finish_reason, last.error) == (FinishReason.ERROR, "the engine failed; see the server's log")
    assert "these tokens are no text" in caplog.text


@pytest.mark.parametrize("lost", [1, 2])
def test_a_report_that_is_lost_fails_its_request_and_no_other(
    lost: int, wanted: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(PLAIN) as (slow, go), running("s15", target=slow) as engine:
        receive = engine.receive
        seen: list[Report] = []

        def lossy(reports: list[Report]) -> None:
            seen.extend(report for report in reports if report.tag == 0)
            of_both = len(seen) != lost
            receive([report for report in reports if of_both or report.tag != 0])

        monkeypatch.setattr(engine, "receive", lossy)
        robbed, sound = engine.submit(ask(seed=1)), engine.submit(ask(seed=2))
        go.set()
        assert tokens(list(sound)) == wanted
        outputs = list(robbed)
    assert outputs[-1].finish_reason is FinishReason.ERROR
    assert outputs[-1].error == "the engine lost tokens of the request; see the server's log"
    # Nothing that stands behind the gap has been given out.
    assert seen[lost - 1].block is not None
    assert len(tokens(outputs)) == seen[lost - 1].position


def test_rows_that_make_no_distribution_end_their_request_in_the_words_of_the_embedded_engine(
    wanted: list[int],
) -> None:
    def rows(token_ids: Sequence[int]) -> Any:
        return PLAIN.rows(token_ids) * (float("nan") if token_ids[0] == 50 and len(token_ids) > 8 else 1.0)

    with running("s15", target=FakeModel(rows=rows, vocab_size=VOCAB, max_seq_len=WINDOW)) as engine:
        broken, sound = engine.submit(ask((50, 51))), engine.submit(ask(seed=2))
        assert tokens(list(sound)) == wanted
        last = list(broken)[-1]
    assert (last.finish_reason, last.error) == (FinishReason.ERROR, NO_DISTRIBUTION)


def test_without_anybody_who_reports_all_requests_fail_at_once(caplog: pytest.LogCaptureFixture) -> None:
    with held(PLAIN) as (slow, go), running("s15", target=slow, batch=1) as engine:
        live = [engine.submit(ask(seed=i)) for i in range(2)]
        with caplog.at_level(logging.ERROR, LOG):
            engine.lose()
            engine.lose()
            # No round has ended yet.
            lasts = [list(generation)[-1] for generation in live]
        assert [(last.finish_reason, last.error) for last in lasts] == [
            (FinishReason.ERROR, "the process that decodes has ended; see the server's log")
        ] * 2
        with pytest.raises(EngineError, match="the process that decodes has ended"):
            engine.submit(ask())
        assert len(caplog.messages) == 1
        go.set()
