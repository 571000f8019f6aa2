"""The kernels, compiled: the laws of `tests/unit/verify/kernel_laws.py` on a GPU, and what only a GPU can show."""

from __future__ import annotations

import pytest
import torch

from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.rules import parse_rule
from spec_cascade.verify import BatchSampling, verify
from spec_cascade.verify.fused import RuleTable, launch
from tests.unit.verify.kernel_laws import FUSED_RULES, GREEDY, HOT, ONE, WARM, KernelLaws
from tests.unit.verify.rounds import assert_agree, make_round

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
    pytest.mark.filterwarnings("ignore:Synchronization debug mode is a prototype"),
]


@pytest.fixture
def device() -> str:
    return "cuda"


class TestCompiledKernels(KernelLaws):
    """All laws, on the GPU."""


@pytest.mark.parametrize("vocab", [32000, 128256, 151936])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_real_vocabularies_are_decided_as_by_the_reference(vocab, dtype):
    params = [(ONE, WARM, HOT, SamplingParams(temperature=0.8, top_p=0.95, top_k=50), GREEDY)[b % 5] for b in range(16)]
    assert_agree(make_round(FUSED_RULES, params, vocab=vocab, dtype=dtype, length=4, device="cuda", scale=2.0))


@pytest.mark.parametrize("tile", [1024, 4096, 16384])
def test_the_size_of_a_tile_decides_nothing(tile):
    round_ = make_round(FUSED_RULES, ONE, vocab=32003, device="cuda")
    table = RuleTable.of(round_.rules, round_.draft_tokens)
    sampling = BatchSampling.of(round_.params, "cuda")
    arguments = (round_.draft_tokens, round_.draft_logits, round_.target_logits, table, sampling, round_.uniforms)
    assert torch.equal(launch(*arguments, tile=tile).data, launch(*arguments).data)


def test_cuda_tensors_of_fused_rules_go_to_the_kernels():
    round_ = make_round(FUSED_RULES[:3], ONE, device="cuda")
    sampling = BatchSampling.of(round_.params, "cuda")
    arguments = (round_.draft_tokens, round_.draft_logits, round_.target_logits)
    assert verify(*arguments, round_.rules, sampling, round_.uniforms).ran.backend == "fused"
    mixed = [*round_.rules[:2], parse_rule("mix:weight=0.5")]
    ran = verify(*arguments, mixed, sampling, round_.uniforms).ran
    assert (ran.backend, ran.reason) == ("reference", "rule mix has no fused form")


def test_a_launch_never_waits_for_the_device():
    round_ = make_round(FUSED_RULES, [(ONE, GREEDY)[b % 2] for b in range(16)], device="cuda")
    sampling = BatchSampling.of(round_.params, "cuda")
    arguments = (round_.draft_tokens, round_.draft_logits, round_.target_logits)
    launch(*arguments, RuleTable.of(round_.rules, round_.draft_tokens), sampling, round_.uniforms)
    torch.cuda.synchronize()
    torch.cuda.set_sync_debug_mode("error")
    try:
        table = RuleTable.of(round_.rules, round_.draft_tokens)
        launch(*arguments, table, sampling, round_.uniforms)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_cuda_graph_replays_with_new_contents():
    first, second = (make_round(FUSED_RULES, WARM, vocab=5003, device="cuda", seed=seed) for seed in (0, 1))
    inputs = [first.draft_tokens, first.draft_logits, first.target_logits, first.uniforms]
    tokens, draft, target, uniforms = (tensor.clone() for tensor in inputs)
    table, sampling = RuleTable.of(first.rules, tokens), BatchSampling.of(first.params, "cuda")

    def work():
        return launch(tokens, draft, target, table, sampling, uniforms)

    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        packed = work()
    for round_ in (second, first):
        sources = (round_.draft_tokens, round_.draft_logits, round_.target_logits, round_.uniforms)
        for mine, source in zip((tokens, draft, target, uniforms), sources, strict=True):
            mine.copy_(source)
        graph.replay()
        got, expected = packed.verdict(), round_.fused()
        assert torch.equal(got.accepted, expected.accepted)
        assert torch.equal(got.next_token, expected.next_token)
