"""Draws from rows, without knowing of requests."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from tensorrt_llm.sampling_params import SamplingParams
from tests.trtllm_fake.stage import current

SHAPE = current().shape

Strategy: TypeAlias = tuple[Any, ...]
GREEDY: Strategy = ("greedy", None)
GenericStrategyKeyType: TypeAlias = Any
if SHAPE.since_1_3_0:
    BEAM_SEARCH_PAD_TOKEN = -1


@dataclass(kw_only=True)
class StrategyMetadata:
    """What a strategy needs beside rows; only beams do."""


@dataclass(frozen=True, kw_only=True)
class UtilsSamplingParams:
    """The parameters that are heeded."""

    temperature: float | None
    top_p: float | None
    top_k: int | None
    use_beam_search: bool | None
    beam_width_in: int | None = None
    beam_width_out: int | None = None


def resolve_sampling_strategy(params: UtilsSamplingParams, *, vocab_size: int) -> Strategy:
    """The strategy that parameters ask for."""
    if not params.use_beam_search and SamplingParams.params_imply_greedy_decoding(
        temperature=params.temperature, top_p=params.top_p, top_k=params.top_k
    ):
        return GREEDY
    temperature = params.temperature or 1.0
    if params.use_beam_search:
        return ("beam_search", params.beam_width_in, params.beam_width_out, temperature)
    top_p, top_k = params.top_p or 1.0, params.top_k or vocab_size
    if top_p < 1:
        return ("top_k_top_p", top_k, top_p, temperature) if top_k < vocab_size else ("top_p", top_p, temperature)
    return ("top_k", top_k, temperature) if top_k < vocab_size else ("temperature", temperature)


def top_k_top_p_sampling_batch(
    logits: Tensor, *, top_k: int, top_p: float, temperature: float, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """Tokens ``[n]`` and the rows ``[n, V]`` that they were drawn from: the k likeliest, of those the nucleus."""
    assert logits.dim() == 2, "logits should be [n, V]"
    logits = logits / max(temperature, 1e-5)
    if top_k < logits.size(1):
        kth = torch.topk(logits, top_k, dim=-1).values[:, -1:]
        logits = logits.masked_fill(logits < kth, float("-inf"))
    if top_p < 1:
        ordered, order = torch.sort(logits, descending=True, dim=-1)
        mass = torch.softmax(ordered, dim=-1).cumsum(dim=-1)
        beyond = (mass >= top_p if SHAPE.since_1_3_0 else mass > top_p).roll(1, dims=-1)
        beyond[:, 0] = False
        logits = logits.masked_fill(beyond.scatter(1, order, beyond), float("-inf"))
    probs = torch.softmax(logits, dim=-1)
    return torch.multinomial(probs, num_samples=1, generator=generator).squeeze(-1), probs


def greedy_search_sampling_batch(logits: Tensor, *, return_probs: bool = True) -> tuple[Tensor, Tensor | None]:
    """The likeliest tokens; their probabilities are one-hot, in older shapes what softmax makes of the rows."""
    tokens = torch.argmax(logits, dim=-1)
    if not return_probs:
        return tokens, None
    if SHAPE.since_1_3_0:
        return tokens, torch.nn.functional.one_hot(tokens, logits.size(-1)).to(logits.dtype)
    return tokens, torch.softmax(logits, dim=-1)


def sample(
    strategy: Strategy,
    logits: Tensor,
    *,
    generator: torch.Generator | None = None,
    group_metadata: StrategyMetadata | None = None,
    return_probs: bool = True,
) -> tuple[Tensor | float | None, ...]:
    """Tokens and probabilities; newer shapes name the temperature too."""
    temperature: float | None = None
    if strategy == GREEDY:
        tokens, probs = greedy_search_sampling_batch(logits, return_probs=return_probs)
    else:
        kind, *values, temperature = strategy
        if kind == "beam_search":
            raise NotImplementedError("the fake has no beam search")
        top_k = values[0] if kind in ("top_k", "top_k_top_p") else logits.size(1)
        top_p = values[-1] if kind in ("top_p", "top_k_top_p") else 1.0
        tokens, probs = top_k_top_p_sampling_batch(
            logits, top_k=top_k, top_p=top_p, temperature=temperature, generator=generator
        )
        probs = probs if return_probs else None
    return (tokens, probs, temperature) if SHAPE.since_1_3_0 else (tokens, probs)


def get_rejected_indices(
    draft_probs: Tensor, target_probs: Tensor, generator: torch.Generator, draft_tokens: list[int]
) -> Tensor:
    """The places of drafted tokens that do not pass, ``[m, 1]``; only as many are tested as the drafter has rows."""
    tested = torch.tensor(draft_tokens[: draft_probs.size(0)], dtype=torch.int32)
    places = torch.arange(draft_probs.size(0))
    ratio = target_probs[places, tested] / draft_probs[places, tested]
    passing = torch.minimum(torch.ones(()), ratio)
    return (torch.rand(passing.shape, generator=generator) > passing).nonzero()


def sample_rejected(draft_probs: Tensor, target_probs: Tensor, generator: torch.Generator, num_accepted: int) -> int:
    """A token of what the target has more than the drafter at that place."""
    residual = (target_probs[num_accepted] - draft_probs[num_accepted]).clamp(min=0)
    return int(torch.multinomial(residual, num_samples=1, generator=generator).item())


class GroupedStrategySampler:
    """Samples the rows of requests of one kind in one call."""


class SimpleGroupedStrategySampler(GroupedStrategySampler):
    """Of one kind are requests of exactly the same strategy."""

    @staticmethod
    def strategy_grouping_key(strategy: Strategy, return_probs: bool) -> GenericStrategyKeyType:  # noqa: ARG004
        """What requests of one kind have in common."""
        return strategy

    if SHAPE.since_1_3_0:

        @staticmethod
        def get_metadata_type_for_group(strategy_key: Any) -> type[StrategyMetadata] | None:  # noqa: ARG004
            """What a kind needs beside rows."""
            return None

    @staticmethod
    def sample_grouped_strategies(
        group_key: GenericStrategyKeyType,
        strategies: list[Strategy],
        logits: Tensor,
        *,
        group_logit_indices: Tensor | None = None,
        generator: torch.Generator | None = None,
        return_probs: bool,
        group_metadata: StrategyMetadata | None = None,
    ) -> tuple[Tensor | float | None, ...]:
        """As `sample`, for the rows that are the group's."""
        logits = logits if group_logit_indices is None else logits[group_logit_indices]
        assert all(strategy == group_key for strategy in strategies), "group must be uniform"
        return sample(group_key, logits, generator=generator, group_metadata=group_metadata, return_probs=return_probs)
