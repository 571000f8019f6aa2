"""Which pairs can be compiled, and the bounds that their engines are built for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError

if TYPE_CHECKING:
    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt.section import TensorrtSection


@dataclass(frozen=True, slots=True)
class Limits:
    """What both engines are built for.

    Attributes:
        max_batch_size: Requests decoded at a time.
        max_input_len: Longest input, in tokens.
        max_seq_len: Input and output of one request, in tokens.
        max_num_tokens: Tokens of all requests in one forward.
        max_draft_len: Largest K.
    """

    max_batch_size: int
    max_input_len: int
    max_seq_len: int
    max_num_tokens: int
    max_draft_len: int


def check_pair(pair: Pair) -> None:
    """Verify that a pair is one that can be compiled.

    Raises:
        ConfigError: It is not; one field is named.
    """
    drafter = pair.drafter
    if drafter is None or not drafter.is_model:
        written = "none" if drafter is None else drafter.model_dump(exclude_none=True)
        allowed = "a checkpoint of its own where engine is tensorrt: {hub: ...} or {path: ...}"
        raise ConfigError("drafter", written, allowed)
    for field, source in (("target", pair.target), ("drafter", drafter)):
        if source.package is not None or (source.path or "").endswith(".gguf"):
            allowed = "a checkpoint in safetensors where engine is tensorrt: {hub: ...} or {path: ...}"
            raise ConfigError(field, source.model_dump(exclude_none=True), allowed)
    if pair.defaults.max_draft_length < 1:
        allowed = "an integer >= 1 where engine is tensorrt: trtllm-build builds no target for drafts without it"
        raise ConfigError("defaults.max_draft_length", pair.defaults.max_draft_length, allowed)


def limits_of(pair: Pair, section: TensorrtSection) -> Limits:
    """The bounds of both engines; those that trtllm-build would change without a word are refused instead.

    Raises:
        ConfigError: A bound does not fit another.
    """
    defaults = pair.defaults
    longest = section.max_input_len or defaults.max_seq_len
    if longest > defaults.max_seq_len:
        allowed = f"an integer <= defaults.max_seq_len, which is {defaults.max_seq_len}"
        raise ConfigError("tensorrt.max_input_len", longest, allowed)
    least = defaults.max_batch_size * (defaults.max_draft_length + 1)
    if section.max_num_tokens < max(least, section.tokens_per_block):
        allowed = (
            f"an integer >= {max(least, section.tokens_per_block)}: defaults.max_batch_size x "
            "(defaults.max_draft_length + 1), and not less than tokens_per_block"
        )
        raise ConfigError("tensorrt.max_num_tokens", section.max_num_tokens, allowed)
    return Limits(
        max_batch_size=defaults.max_batch_size,
        max_input_len=longest,
        max_seq_len=defaults.max_seq_len,
        # More than all requests can have is cut down by trtllm-build.
        max_num_tokens=min(section.max_num_tokens, defaults.max_seq_len * defaults.max_batch_size),
        max_draft_len=defaults.max_draft_length,
    )
