"""Token ids to token ids: the engine behind Triton. Batching, drafting and verifying happen inside it."""

from __future__ import annotations

import os
from typing import Any

from spec_cascade.engines import open_engine
from spec_cascade.serving import wire
from spec_cascade.serving.backend import ResponseSender, engine_dir, request_fields
from spec_cascade.serving.first_request import answer_first_request
from spec_cascade.serving.live import LiveRequests
from spec_cascade.serving.parse import parse_cascade_request
from spec_cascade.serving.policy import load_policy
from spec_cascade.serving.registry import open_registry
from spec_cascade.serving.repository import POLICY_VARIABLE


class TritonPythonModel:
    """What Triton's Python backend calls."""

    def initialize(self, args: dict[str, str]) -> None:
        """Start the engine; the server is not ready before this returns."""
        engine = open_engine(engine_dir(args))
        self._policy = load_policy(os.environ.get(POLICY_VARIABLE), engine.limits.default_rule)
        answer_first_request(engine, self._policy.default_rule)
        self._live = LiveRequests(engine, open_registry(args))

    def execute(self, requests: list[Any]) -> None:
        """Hand each request to the engine; its responses are sent from threads."""
        for request in requests:
            self._start(request, ResponseSender(request.get_response_sender(), wire.CASCADE_OUTPUTS))

    def finalize(self) -> None:
        """Stop the engine."""
        self._live.close()

    def _start(self, request: Any, sender: ResponseSender) -> None:
        try:
            fields = request_fields(request, wire.CASCADE_INPUTS, known=(*wire.PROMPT_INPUTS, wire.UNARY_TOKEN))
            if "cancel_token" in fields:
                self._live.cancel(str(fields["cancel_token"]))
                sender.finish()
            else:
                self._live.start(parse_cascade_request(fields, self._policy), sender)
        except Exception as error:  # answered to the client, and logged where it is not the client's fault
            sender.fail(error)
