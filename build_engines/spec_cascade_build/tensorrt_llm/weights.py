"""Parameters of a model, and the bytes that they take on one GPU of those it is split over."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade_build.tensorrt_llm.quantisation import KV_BYTES, PLAIN_BYTES, WEIGHT_BYTES

if TYPE_CHECKING:
    from spec_cascade_build.tensorrt_llm.facts import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class Formats:
    """Number formats that a model runs in.

    Attributes:
        weights: Of its linear layers, as `Quantisation.weights`; None is bfloat16.
        kv_cache: As `Quantisation.kv_cache`; None is bfloat16.
    """

    weights: str | None
    kv_cache: str | None


def local_kv_heads(facts: ModelFacts, ranks: int) -> int:
    """Heads of keys and values that each GPU keeps: where there are fewer heads than GPUs, several keep the same."""
    return -(-facts.kv_heads // ranks)


def num_parameters(facts: ModelFacts) -> int:
    """Parameters of the whole model, tied ones once, its image encoder included."""
    vocabulary = facts.logits * facts.hidden * (1 if facts.tied else 2)
    return facts.layers * (_linear(facts, 1) + _small(facts, 1)) + vocabulary + facts.hidden + facts.vision_parameters


def weight_bytes(facts: ModelFacts, formats: Formats, ranks: int) -> int:
    """Bytes of the weights on each of ``ranks`` GPUs.

    Linear layers are split and may be quantised; embeddings and output head are split and never quantised; norms and
    the image encoder are whole on every GPU.
    """
    linear = facts.layers * _linear(facts, ranks) * WEIGHT_BYTES.get(formats.weights or "", PLAIN_BYTES)
    vocabulary = -(-facts.logits // ranks) * facts.hidden * (1 if facts.tied else 2)
    small = facts.layers * _small(facts, ranks) + facts.hidden
    return int(linear + PLAIN_BYTES * (vocabulary + small + facts.vision_parameters))


def kv_bytes_per_token(facts: ModelFacts, formats: Formats, ranks: int) -> float:
    """Bytes that a token takes in the KV cache of each of ``ranks`` GPUs; layers with a window count as others do."""
    numbers = 2 * facts.layers * local_kv_heads(facts, ranks) * facts.head_dim
    return numbers * KV_BYTES.get(formats.kv_cache or "", PLAIN_BYTES)


def _linear(facts: ModelFacts, ranks: int) -> int:
    """Weights of the linear layers of one decoder layer on one GPU."""
    queries = facts.heads // ranks * facts.head_dim
    keys = local_kv_heads(facts, ranks) * facts.head_dim
    return facts.hidden * (2 * queries + 2 * keys + 3 * (facts.intermediate // ranks))


def _small(facts: ModelFacts, ranks: int) -> int:
    """Norms and biases of one decoder layer on one GPU."""
    total = facts.family.norms * facts.hidden + (2 * facts.head_dim if facts.family.qk_norm else 0)
    if facts.attention_bias:
        total += (facts.heads // ranks + 2 * local_kv_heads(facts, ranks)) * facts.head_dim
    if facts.output_bias:
        total += facts.hidden
    if facts.mlp_bias:
        total += 2 * (facts.intermediate // ranks) + facts.hidden
    return total
