"""What stands of a round, given to TensorRT-LLM's request."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def commit(request: Any, token_ids: Sequence[int], ends: Callable[[int], bool], *, already_added: int = 0) -> int:
    """Add a block's tokens to a request, up to the one that ends it.

    Args:
        request: TensorRT-LLM's ``LlmRequest``.
        token_ids: What its round gave it.
        ends: Told each token once it has been added; ends the request where the token does.
        already_added: How many of the first ones TensorRT-LLM has added itself.

    Returns:
        How many of the tokens the request has now.
    """
    for number, token in enumerate(token_ids):
        if number >= already_added:
            request.add_new_token(token, 0)
        if ends(token):
            return number + 1
    return len(token_ids)
