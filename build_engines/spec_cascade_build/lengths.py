"""Whether a model knows positions enough."""

from __future__ import annotations

from spec_cascade.errors import ConfigError


def check_length(whose: str, limit: int | None, length: int) -> None:
    """Verify that a model can hold the longest sequences.

    Args:
        whose: ``target`` or ``drafter``.
        limit: Positions that it knows; None where its configuration has no such number.
        length: ``defaults.max_seq_len``.

    Raises:
        ConfigError: It cannot.
    """
    if limit is not None and length > limit:
        allowed = f"at most {limit}, the {whose}'s max_position_embeddings"
        raise ConfigError("defaults.max_seq_len", length, allowed)
