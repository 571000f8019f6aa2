"""Requests that ask for what cannot be had, tokens that they ban, and a first request that breaks the contract."""

from __future__ import annotations

import logging
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.trtllm_fake.invented import greedy
from tests.unit.trtllm.played import ANY_TEXT, DRAFTER, MODES, TARGET, WARM, K, Played, failing_import, params

if TYPE_CHECKING:
    from pathlib import Path


def test_no_module_is_imported_for_a_clients_text(newest: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    played = Played(TARGET, DRAFTER)
    wrong = played.ask(ANY_TEXT, params(rule=failing_import(tmp_path, monkeypatch)), max_tokens=12)
    played.run()
    assert "must be one of" in played.reports[wrong][0].error
    assert "rules_that_fail" not in sys.modules


def test_a_request_whose_reports_could_not_come_is_ended(shape: str) -> None:
    played = Played(TARGET, DRAFTER)
    wrong = played.ask(ANY_TEXT, params(), max_tokens=12, logprobs=1)
    played.run()
    assert played.output(wrong) == []
    assert "left out with beams" in played.reports[wrong][0].error


def test_who_only_names_a_rule_is_left_to_tensorrt_llm_with_a_warning(
    newest: str, caplog: pytest.LogCaptureFixture
) -> None:
    played = Played(TARGET, DRAFTER)
    with caplog.at_level(logging.WARNING, "spec_cascade"):
        request = played.bench.add(ANY_TEXT, carrier=params(rule="drafter_only"), max_tokens=12, logprobs=1)
        played.run()
    assert played.output(request) == greedy(TARGET, ANY_TEXT, 12)
    assert sum("decoded without its rule" in message for message in caplog.messages) == 1


@pytest.mark.parametrize("fallback", ["error", "stock"])
def test_a_first_request_that_lacks_what_we_read_is_noticed(
    newest: str, fallback: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest

    played = Played(TARGET, DRAFTER, settings={"fallback": fallback})
    monkeypatch.delattr(LlmRequest, "is_dummy")
    with caplog.at_level(logging.WARNING, "spec_cascade"):
        request = played.bench.add(ANY_TEXT, max_tokens=12)
        played.bench.run()
    if fallback == "stock":
        assert type(played.sampler).__name__ == "TorchSampler"
        assert played.output(request) == greedy(TARGET, ANY_TEXT, 12)
        assert "is_dummy" in caplog.text
    else:
        assert "is_dummy" in played.bench.errors[request]


def loose(rule: str) -> str:
    """The rule from the first token on."""
    return f"{rule}{',' if ':' in rule else ':'}strict_prefix_tokens=0"


@pytest.mark.parametrize("rule", ["chow:alpha=0.9", "opt:alpha=0.9", "drafter_only", "token_v3:alpha=0.9"])
@pytest.mark.parametrize("mode", MODES)
def test_a_banned_token_is_said_by_no_rule(shape: str, mode: str, rule: str) -> None:
    asked: dict[str, Any] = {"max_tokens": 24, **WARM}
    played = Played(TARGET, DRAFTER, mode)
    free = played.ask(ANY_TEXT, params(rule=loose(rule)), **asked)
    played.run()
    banned = tuple(dict.fromkeys(token for block in played.blocks(free) for token in block.token_ids[: block.accepted]))
    assert len(banned) > K
    played = Played(TARGET, DRAFTER, mode)
    carried = params(rule=loose(rule), bad_word_ids=tuple((token,) for token in banned[::2]))
    request = played.ask(ANY_TEXT, carried, **asked)
    played.run()
    assert not {*banned[::2]} & {*played.output(request)}
    assert len(played.output(request)) == 24
    assert max(played.drafted(request)) > 0


@pytest.mark.parametrize("mode", MODES)
def test_an_end_token_that_may_not_come_yet_does_not(shape: str, mode: str) -> None:
    said = greedy(DRAFTER, (4, 5), 12)
    played = Played(TARGET, DRAFTER, mode)
    carried = params(rule=loose("drafter_only"), min_tokens=10, end_ids=(said[2],))
    request = played.ask((4, 5), carried, end_id=said[2], max_tokens=12)
    played.run()
    assert said[2] not in played.output(request)[:10]
    assert len(played.output(request)) >= 10
