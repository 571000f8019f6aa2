"""Text or a conversation to the prompt's tokens."""

from __future__ import annotations

import secrets
from typing import Any

from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.engines.manifest import Manifest
from spec_cascade.serving import wire
from spec_cascade.serving.backend import engine_dir, error_response, request_fields, response
from spec_cascade.serving.prompt import make_prompt


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the tokenizer."""
        directory = engine_dir(args)
        self._tokenizer = Tokenizer.load(directory / "tokenizer")
        self._longest_prompt = Manifest.read(directory).defaults.max_seq_len - 1

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request."""
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            fields = request_fields(request, (*wire.PROMPT_INPUTS, wire.UNARY_TOKEN), known=wire.ENSEMBLE_INPUTS)
            prompt = make_prompt(fields, self._tokenizer, self._longest_prompt)
        except Exception as error:  # answered to the client, and logged where it is not the client's fault
            return error_response(error)
        token = fields.get("unary_token") or secrets.token_hex(16)
        values: dict[str, Any] = {"input_ids": prompt.token_ids, "request_token": token}
        if prompt.is_echoed:
            values["prompt_text"] = prompt.text
        return response(values, wire.PREPROCESSING_OUTPUTS)
