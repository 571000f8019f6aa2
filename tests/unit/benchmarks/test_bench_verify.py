"""The benchmark of the verifier measures what it says, and its yardstick is a verifier."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.rules import parse_rule
from tests.benchmarks import bench_verify
from tests.benchmarks.baseline import softmax_then_reject
from tests.unit.verify.rounds import make_round


def test_the_grid_is_printed_and_written(monkeypatch, capsys, tmp_path):
    results = tmp_path / "new" / "results.json"
    monkeypatch.setattr(bench_verify, "QUICK", ((1, 2), (3,), (50,)))
    monkeypatch.setattr(sys, "argv", ["bench_verify", "--quick", "--rules", "strict", "--json", str(results)])
    bench_verify.main()
    printed = capsys.readouterr().out
    assert "copy bandwidth" in printed
    assert f"repeat with: python -m tests.benchmarks.bench_verify --quick --rules strict --json {results}" in printed
    record = json.loads(results.read_text(encoding="utf-8"))
    cells = record["cells"]
    assert {(c["batch"], c["length"], c["vocab"]) for c in cells} == {(1, 3, 50), (2, 3, 50)}
    assert {c["what"] for c in cells} >= {"reference", bench_verify.BASELINE}
    for cell in cells:
        assert cell["bytes"] == cell["batch"] * 7 * 50 * 2
        speed = cell["bytes"] / cell["microseconds"] * 1e6
        assert cell["copy_share"] * record["copy_bytes_per_second"] == pytest.approx(speed)


def test_a_cell_beyond_the_memory_is_left_out_aloud(monkeypatch, capsys):
    monkeypatch.setattr(bench_verify, "QUICK", ((1,), (1, 4000), (50,)))
    monkeypatch.setattr(sys, "argv", ["bench_verify", "--quick", "--rules", "strict", "--memory", "0.001"])
    bench_verify.main()
    assert "left out, more than 0.001 GiB: 1x4000x50" in capsys.readouterr().out


def test_the_baseline_accepts_what_strict_accepts_and_draws_from_the_target():
    rules, params = [parse_rule("strict")] * 400, SamplingParams()
    round_ = make_round(rules, params, vocab=7, length=2)
    torch.manual_seed(0)
    accepted, tokens = softmax_then_reject(
        round_.draft_tokens, round_.draft_logits, round_.target_logits, round_.uniforms
    )
    assert torch.equal(accepted, round_.reference().accepted)
    # Tokens that p - q rules out are never drawn after a rejection.
    rejected = accepted < 2
    p = round_.target_logits[torch.arange(400), accepted].softmax(-1)
    q = round_.draft_logits[torch.arange(400), accepted.clamp_max(1)].softmax(-1)
    gain = (p - q).gather(-1, tokens[:, None]).squeeze(-1)
    assert rejected.sum() > 100
    assert (gain[rejected] > 0).all()
