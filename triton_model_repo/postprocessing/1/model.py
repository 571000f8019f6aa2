"""Token ids to text in pieces; and the place where a client's leaving shows."""

from __future__ import annotations

from typing import Any

from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.serving import wire
from spec_cascade.serving.backend import ResponseSender, cancel_request, engine_dir, request_fields
from spec_cascade.serving.detokenise import is_heartbeat, to_text


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer."""
        self._tokenizer = Tokenizer.load(engine_dir(args) / "tokenizer")

    def execute(self, requests: list[Any]) -> None:
        """Answer each of the cascade's responses; a heartbeat is answered with nothing."""
        for request in requests:
            self._answer(request, ResponseSender(request.get_response_sender(), wire.ENSEMBLE_OUTPUTS))

    def _answer(self, request: Any, sender: ResponseSender) -> None:
        try:
            fields = request_fields(request, wire.CASCADE_OUTPUTS, known=(*wire.ENSEMBLE_INPUTS, wire.UNARY_TOKEN))
            if request.is_cancelled() and "request_token" in fields:
                cancel_request(str(fields["request_token"]))
            elif not is_heartbeat(fields):
                sender.send(to_text(fields, self._tokenizer))
            sender.finish()
        except Exception as error:  # answered to the client, and logged where it is not the client's fault
            sender.fail(error)
