"""The memory plan against numbers worked out by hand."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spec_cascade_build.tensorrt_llm.facts import read_facts
from spec_cascade_build.tensorrt_llm.gpus import GIB, GPUS, MIB
from spec_cascade_build.tensorrt_llm.memory import Load, MemoryPlan, plan_memory
from spec_cascade_build.tensorrt_llm.weights import Formats, kv_bytes_per_token, weight_bytes
from tests.unit.build.tensorrt_llm.pairs import CHECKPOINTS, GEMMA_1B, GEMMA_27B, LLAMA_1B, LLAMA_8B, LLAMA_70B

if TYPE_CHECKING:
    from spec_cascade_build.tensorrt_llm.facts import ModelFacts

PLAIN = Formats(weights=None, kv_cache=None)
FP8 = Formats(weights="FP8", kv_cache="FP8")
# Of Llama 3.3 70B: 80 layers of q and o (8192 x 8192), k and v (8192 x 1024), three projections (8192 x 28672).
LINEAR_70B = 80 * (2 * 8192 * 8192 + 2 * 8192 * 1024 + 3 * 8192 * 28672)
# Embedding and head, the norms of the layers and the last one.
REST_70B = 2 * 128256 * 8192 + 80 * 2 * 8192 + 8192


def facts(model: str) -> ModelFacts:
    return read_facts(CHECKPOINTS / model, "target")


def plan(
    target: str = LLAMA_8B, drafter: str = LLAMA_1B, formats: Formats = PLAIN, gpu: str = "H100", **load: Any
) -> MemoryPlan:
    values = {
        "ranks": 1,
        "max_batch_size": 32,
        "draft_length": 4,
        "max_seq_len": 8192,
        "max_num_tokens": 8192,
        "num_graphs": 7,
        "margin": GIB,
    }
    return plan_memory(facts(target), facts(drafter), (formats, formats), GPUS[gpu], Load(**{**values, **load}))


def test_weights_in_bfloat16_are_two_bytes_a_parameter() -> None:
    assert weight_bytes(facts(LLAMA_8B), PLAIN, 1) == 2 * 8_030_261_248
    assert weight_bytes(facts(LLAMA_70B), PLAIN, 1) == 2 * (LINEAR_70B + REST_70B)


def test_quantised_weights_leave_embedding_head_and_norms_alone() -> None:
    assert LINEAR_70B == 68_451_041_280
    assert weight_bytes(facts(LLAMA_70B), FP8, 1) == LINEAR_70B + 2 * REST_70B
    nvfp4 = Formats(weights="NVFP4", kv_cache=None)
    assert weight_bytes(facts(LLAMA_70B), nvfp4, 1) == LINEAR_70B * 9 // 16 + 2 * REST_70B


def test_four_gpus_split_all_but_the_norms() -> None:
    norms = 80 * 2 * 8192 + 8192
    expected = 2 * LINEAR_70B // 4 + 2 * (2 * (128256 // 4) * 8192 + norms)
    assert weight_bytes(facts(LLAMA_70B), PLAIN, 4) == expected


def test_the_image_encoder_is_whole_on_every_gpu() -> None:
    once, twice = (weight_bytes(facts(GEMMA_27B), PLAIN, ranks) for ranks in (1, 2))
    vision = facts(GEMMA_27B).vision_parameters
    assert 410e6 < vision < 430e6
    norms = 62 * (4 * 5376 + 2 * 128) + 5376
    assert 2 * twice - once == 2 * (vision + norms)


def test_kv_of_a_token() -> None:
    # 2 (K and V) x layers x heads of K and V x width of a head x bytes.
    assert kv_bytes_per_token(facts(LLAMA_8B), PLAIN, 1) == 2 * 32 * 8 * 128 * 2
    assert kv_bytes_per_token(facts(LLAMA_70B), FP8, 4) == 2 * 80 * 2 * 128
    assert kv_bytes_per_token(facts(LLAMA_70B), Formats(weights=None, kv_cache="NVFP4"), 1) == 2 * 80 * 8 * 128 * 9 / 16
    assert kv_bytes_per_token(facts(GEMMA_27B), PLAIN, 1) == 2 * 62 * 16 * 128 * 2


def test_more_gpus_than_heads_of_keys_keep_them_more_than_once() -> None:
    assert kv_bytes_per_token(facts(GEMMA_1B), PLAIN, 2) == kv_bytes_per_token(facts(GEMMA_1B), PLAIN, 1)
    found = plan(GEMMA_27B, GEMMA_1B, gpu="H200", ranks=2)
    assert found.max_tokens == found.kv_tokens
    assert plan(GEMMA_27B, GEMMA_1B, gpu="H200").max_tokens is None


def test_the_whole_plan_of_an_8b_on_an_h100() -> None:
    found = plan()
    fixed = {
        "target weights": 16_060_522_496,
        "drafter weights": 2_471_628_800,
        "CUDA context and workspaces": 2 * GIB,
        # 8192 tokens x 2 bytes x (4 x 4096 + 3 x 14336).
        "activations of 8192 tokens": 973_078_528,
        "14 CUDA graphs": 2_800_000_000,
    }
    assert {what: size for what, size, _ in found.fixed} == fixed
    # 32 requests x 5 rows x 128256 logits x 4 bytes, and 4 rows for the drafter.
    target_rows, drafter_rows = 82_083_840, 65_667_072
    rounds = {
        "target logits [32, 5, 128256], and a copy": 2 * target_rows,
        "drafter logits [32, 4, 128256], and a copy": 2 * drafter_rows,
        "probabilities of sampler and verifier": 2 * target_rows + drafter_rows,
        "margin": GIB,
    }
    assert {what: size for what, size, _ in found.rounds} == rounds
    free = 81559 * MIB - sum(fixed.values())
    assert found.free == free == 61_068_096_512
    assert found.free_fraction == 0.95
    assert found.kv_tokens == int(free * 0.95 / (131072 + 32768)) // 32 * 32 == 354_080
    assert found.tokens_per_sequence == 8224
    assert found.sequences == 43
    assert found.max_tokens is None


def test_both_caches_hold_the_same_tokens() -> None:
    found = plan()
    assert found.target_kv / (found.target_kv + found.drafter_kv) == 0.8
    assert found.kv_tokens * (found.target_kv + found.drafter_kv) <= found.free * found.free_fraction


def test_the_fraction_leaves_room_for_the_rounds() -> None:
    found = plan(max_batch_size=512, draft_length=8, max_num_tokens=8192)
    needed = sum(size for _, size, _ in found.rounds)
    assert needed > 0.05 * found.free
    assert found.free * (1 - found.free_fraction) >= needed
    assert found.free * (1 - found.free_fraction - 0.01) < needed
    assert found.free_fraction == found.most_free_fraction


def test_what_a_user_chooses_is_taken() -> None:
    assert plan(fraction=0.5).free_fraction == 0.5
    limited = plan(max_tokens=10_001)
    assert limited.kv_tokens == limited.max_tokens == 9984
    assert plan(num_graphs=0).free == plan().free + 2_800_000_000


def test_where_nothing_is_left_nothing_fits() -> None:
    found = plan(LLAMA_70B)
    assert found.free < 0
    assert (found.free_fraction, found.kv_tokens, found.sequences) == (0.0, 0, 0)
