"""The memory plan: what both models take on each GPU, and how many tokens the rest holds.

TensorRT-LLM loads the weights, runs its largest prompt batch and captures its CUDA graphs; of the memory that is then
free it gives the KV caches the part `free_gpu_memory_fraction`. Both caches hold the same number of tokens, so that
part is shared in the ratio of the models' bytes per token (`KvCacheCreator` in its `_torch/pyexecutor/_util.py`). What
rounds with drafts need on top - rows of logits, their captured copies, the verifier - it has not seen by then: that is
what the fraction has to leave free.

Weights, KV and logits are computed; the other lines are estimates on the safe side, to be held against the log of a
first start.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import floor
from typing import TYPE_CHECKING

from spec_cascade.engines.tensorrt_llm.gpus import Gpu
from spec_cascade_build.tensorrt_llm.gpus import GIB
from spec_cascade_build.tensorrt_llm.weights import Formats, kv_bytes_per_token, local_kv_heads, weight_bytes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade_build.tensorrt_llm.facts import ModelFacts

TOKENS_PER_BLOCK = 32
"""Of a page of the KV cache: TensorRT-LLM's default."""
MOST_FREE_FRACTION = 0.95
_ROW_BYTES = 4
_ACTIVATION_BYTES = 2
# CUDA's context, the driver's reserve, cuBLAS's and the attention kernels' workspaces.
_CONTEXT_BYTES = 2 * GIB
# NCCL's buffers and the workspace of fused all-reduces, where there is more than one GPU.
_PARALLEL_BYTES = GIB
# What TensorRT-LLM's documentation of `cuda_graph_config` gives as the most that one graph takes.
_GRAPH_BYTES = 200 * 10**6


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the engine is planned for.

    Attributes:
        ranks: GPUs that both models are split over.
        max_batch_size: Requests decoded at a time.
        draft_length: K.
        max_seq_len: Prompt and output of one request.
        max_num_tokens: Tokens in one forward.
        num_graphs: CUDA graphs of one model.
        margin: Bytes to leave free.
        fraction: `free_gpu_memory_fraction`, where the user has chosen it.
        max_tokens: Most tokens in the KV cache, where the user has chosen it.
    """

    ranks: int
    max_batch_size: int
    draft_length: int
    max_seq_len: int
    max_num_tokens: int
    num_graphs: int
    margin: int
    fraction: float | None = None
    max_tokens: int | None = None

    @property
    def tokens_per_sequence(self) -> int:
        """Tokens that the longest request takes, in whole pages: TensorRT-LLM keeps room for K more than its length."""
        return -(-(self.max_seq_len + self.draft_length) // TOKENS_PER_BLOCK) * TOKENS_PER_BLOCK


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes on each GPU.

    Attributes:
        gpu: Which.
        fixed: What TensorRT-LLM finds in use when it sizes the KV caches: what it is, bytes, whether that is estimated.
        rounds: What rounds with drafts need on top, likewise.
        free_fraction: `free_gpu_memory_fraction`.
        max_tokens: What `max_tokens` of the KV cache is to be; None leaves it to the fraction.
        kv_tokens: Tokens that both caches hold, in whole pages; 0 where nothing is left.
        target_kv: Bytes of a token in the target's cache.
        drafter_kv: Bytes of a token in the drafter's cache.
        tokens_per_sequence: Tokens that the longest request takes.
    """

    gpu: Gpu
    fixed: tuple[tuple[str, int, bool], ...]
    rounds: tuple[tuple[str, int, bool], ...]
    free_fraction: float
    max_tokens: int | None
    kv_tokens: int
    target_kv: float
    drafter_kv: float
    tokens_per_sequence: int

    @property
    def free(self) -> int:
        """Bytes that TensorRT-LLM finds free when it sizes the KV caches."""
        return self.gpu.memory - sum(size for _, size, _ in self.fixed)

    @property
    def most_free_fraction(self) -> float:
        """The largest `free_gpu_memory_fraction` that leaves room for the rounds."""
        return _fraction(self.free, sum(size for _, size, _ in self.rounds))

    @property
    def sequences(self) -> int:
        """Requests of the greatest length that fit at a time."""
        return self.kv_tokens // self.tokens_per_sequence


def plan_memory(
    target: ModelFacts, drafter: ModelFacts, formats: Sequence[Formats], gpu: Gpu, load: Load
) -> MemoryPlan:
    """Plan the memory of one GPU.

    Args:
        target: The target.
        drafter: The drafter.
        formats: What they run in, in this order.
        gpu: The GPU.
        load: What to plan for.
    """
    fixed = _fixed(target, drafter, formats, load)
    rounds = _rounds(target, drafter, load)
    target_kv = kv_bytes_per_token(target, formats[0], load.ranks)
    drafter_kv = kv_bytes_per_token(drafter, formats[1], load.ranks)
    free = gpu.memory - sum(size for _, size, _ in fixed)
    fraction = load.fraction or _fraction(free, sum(size for _, size, _ in rounds))
    tokens = max(0, int(free * fraction / (target_kv + drafter_kv))) // TOKENS_PER_BLOCK * TOKENS_PER_BLOCK
    if load.max_tokens is not None:
        tokens = min(tokens, load.max_tokens // TOKENS_PER_BLOCK * TOKENS_PER_BLOCK)
    # TensorRT-LLM divides the heads of keys and values by the number of GPUs even where GPUs keep the same ones: what
    # it takes a token to cost is then too little, and it has to be told how many fit.
    told = load.max_tokens is not None or any(
        local_kv_heads(m, load.ranks) * load.ranks != m.kv_heads for m in (target, drafter)
    )
    return MemoryPlan(
        gpu=gpu,
        fixed=fixed,
        rounds=rounds,
        free_fraction=fraction,
        max_tokens=tokens if told else None,
        kv_tokens=tokens,
        target_kv=target_kv,
        drafter_kv=drafter_kv,
        tokens_per_sequence=load.tokens_per_sequence,
    )


def _fixed(
    target: ModelFacts, drafter: ModelFacts, formats: Sequence[Formats], load: Load
) -> tuple[tuple[str, int, bool], ...]:
    graphs = 2 * load.num_graphs
    lines = [
        ("target weights", weight_bytes(target, formats[0], load.ranks), False),
        ("drafter weights", weight_bytes(drafter, formats[1], load.ranks), False),
        ("CUDA context and workspaces", _CONTEXT_BYTES, True),
        ("communication between GPUs", _PARALLEL_BYTES if load.ranks > 1 else 0, True),
        (
            f"activations of {load.max_num_tokens} tokens",
            max(_activation_bytes(facts, load) for facts in (target, drafter)),
            True,
        ),
        (f"{graphs} CUDA graphs", graphs * _GRAPH_BYTES, True),
    ]
    return tuple(line for line in lines if line[1])


def _activation_bytes(facts: ModelFacts, load: Load) -> int:
    """The widest moment of a layer: two copies of the residual stream in and out, and the feed-forward or q, k, v."""
    inner = 3 * facts.intermediate // load.ranks
    attention = (2 * facts.heads // load.ranks + 2 * local_kv_heads(facts, load.ranks)) * facts.head_dim
    return load.max_num_tokens * _ACTIVATION_BYTES * (4 * facts.hidden + max(inner, attention))


def _rounds(target: ModelFacts, drafter: ModelFacts, load: Load) -> tuple[tuple[str, int, bool], ...]:
    target_rows = load.max_batch_size * (load.draft_length + 1) * target.logits * _ROW_BYTES
    drafter_rows = load.max_batch_size * load.draft_length * drafter.logits * _ROW_BYTES
    return (
        (
            f"target logits [{load.max_batch_size}, {load.draft_length + 1}, {target.logits}], and a copy",
            2 * target_rows,
            False,
        ),
        (
            f"drafter logits [{load.max_batch_size}, {load.draft_length}, {drafter.logits}], and a copy",
            2 * drafter_rows,
            False,
        ),
        # TensorRT-LLM's sampler makes probabilities of every row, and so does the verifier, of the drafter's too.
        ("probabilities of sampler and verifier", 2 * target_rows + drafter_rows, True),
        ("margin", load.margin, False),
    )


def _fraction(free: int, needed: int) -> float:
    """In hundredths, as a user would write it; 0 where nothing is left."""
    if free <= needed:
        return 0.0
    return min(MOST_FREE_FRACTION, floor(100 * (free - needed) / free) / 100)
