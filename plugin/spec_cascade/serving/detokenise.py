"""What the postprocessing model does: the cascade's responses with text instead of all tokens so far."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.text import OutputText
from spec_cascade.errors import ConfigError
from spec_cascade.serving import wire
from spec_cascade.serving.errors import STATUSES, PassedOnError

if TYPE_CHECKING:
    from spec_cascade.decoding.tokenizer import Tokenizer
    from spec_cascade.serving.parse import Fields

_PASSED_ON = tuple(output.name for output in wire.ROUND_OUTPUTS)


def is_heartbeat(fields: Fields) -> bool:
    """Whether the cascade's response has no content."""
    return "output_ids" not in fields and "error_message" not in fields


def to_text(fields: Fields, tokenizer: Tokenizer) -> dict[str, Any]:
    """The ensemble's output values for one response of the cascade.

    Nothing is kept between responses: the text of a response is what its tokens add to the text of those before.

    Raises:
        ConfigError: This is no response of the cascade: a client asks postprocessing itself.
        PassedOnError: The response is an error.
    """
    if "error_message" in fields:
        status = fields.get("error_status")
        if status not in STATUSES:
            raise ConfigError("error_status", status, f"one of {', '.join(STATUSES)}")
        raise PassedOnError(str(fields["error_message"]), str(status))
    for name in ("num_output_tokens", "finish_reason"):
        if name not in fields:
            raise ConfigError(name, None, "given beside output_ids")
    ids: list[int] = fields["output_ids"]  # type: ignore[assignment]
    num_new: int = fields["num_output_tokens"]  # type: ignore[assignment]
    final = bool(fields["finish_reason"])
    stop_strings: tuple[str, ...] = tuple(fields.get("stop_strings", ()))  # type: ignore[arg-type]
    output = OutputText(tokenizer, stop_strings, int(fields.get("stop_strings_after", 0)))  # type: ignore[arg-type]
    values: dict[str, Any] = {name: fields[name] for name in _PASSED_ON if name in fields}
    values["token_ids"] = ids[len(ids) - num_new :]
    if "token_sources" in fields:
        values["token_texts"] = output.token_pieces(ids, num_new, final=final)
    values["text_output"] = str(fields.get("prompt_text", "")) + output.piece(ids, num_new, final=final)
    return values
