"""A server with a policy, all ways in."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from tritonclient.utils import InferenceServerException

from spec_cascade.serving.errors import LaunchError
from spec_cascade.serving.server import TritonServer
from tests.triton.clients import grpc_stream, post
from tests.triton.conftest import START_SECONDS, made

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WRITTEN = """
rules:
  strict:
  token_v3: {alpha: [0, 0.5]}
  schedule:
default_rule: token_v3:alpha=0.25
max_tokens: 12
max_draft_length: 2
max_priority: 0.6
"""


@pytest.fixture(scope="module")
def limited(tiny_engine_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TritonServer]:
    policy = tmp_path_factory.mktemp("policy") / "policy.yaml"
    policy.write_text(WRITTEN)
    with TritonServer(tiny_engine_dir, policy_file=policy) as server:
        yield server


def test_what_is_left_out_is_the_policys_and_the_answer_says_what_ran(limited: TritonServer) -> None:
    answer = post(limited, {"text_input": "the cat", "ignore_eos": True}).json
    stats = json.loads(answer["cascade_stats"])
    assert stats["rule"].startswith("token_v3:alpha=0.25")
    assert answer["num_output_tokens"] == 12


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"deferral_rule": "token_v3:alpha=0.9"}, r"token_v3.alpha = 0.9 .* in \[0, 0.5\] by this server's policy"),
        ({"deferral_rule": "schedule(0=strict, 4=drafter_only)"}, "deferral_rule = 'drafter_only' .*policy"),
        ({"max_tokens": 13}, "max_tokens = 13 .*at most 12 by this server's policy"),
        ({"draft_length": 3}, "draft_length = 3 .*at most 2 by this server's policy"),
        ({"priority": 0.7}, "priority = .*at most 0.6 by this server's policy"),
    ],
)
def test_what_is_not_allowed_is_an_invalid_argument_that_names_the_field(
    limited: TritonServer, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(InferenceServerException, match=message):
        list(grpc_stream(limited, {"text_input": "the cat", **fields}))
    for model, prompt in (
        ("ensemble", {"text_input": "hi"}),
        ("ensemble_unary", {"text_input": "hi"}),
        ("cascade", {"input_ids": [1, 2]}),
    ):
        answer = post(limited, {**prompt, **fields}, model)
        assert answer.status == 400
        assert "by this server's policy" in answer.json["error"]
    allowed = {"text_input": "hi", "deferral_rule": "strict", "max_tokens": 2, "priority": 0.6}
    assert len(list(grpc_stream(limited, allowed))) == 1
    for model in ("ensemble", "ensemble_unary"):
        assert post(limited, allowed, model).status == 200


@pytest.mark.slow
def test_a_server_does_not_start_with_a_policy_that_its_engine_breaks(tiny_engine_dir: Path, tmp_path: Path) -> None:
    before = made()
    policy = tmp_path / "policy.yaml"
    policy.write_text("rules: {chow: }\n")
    with pytest.raises(
        LaunchError, match=r"model 'cascade': policy .*policy\.yaml: deferral_rule = 'strict'"
    ) as caught:
        TritonServer(tiny_engine_dir, policy_file=policy).start(START_SECONDS)
    assert "\n" not in str(caught.value)
    assert made() == before
