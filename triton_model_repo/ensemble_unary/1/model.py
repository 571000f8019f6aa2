"""The ensemble for clients that want exactly one response; an instance serves one request at a time."""

from __future__ import annotations

from typing import Any

from spec_cascade.serving.backend import ask_ensemble, error_response


class TritonPythonModel:
    """What Triton's Python backend calls."""

    async def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each request with what the ensemble answers."""
        return [await self._answer(request) for request in requests]

    async def _answer(self, request: Any) -> Any:
        try:
            return await ask_ensemble(request)
        except Exception as error:  # answered to the client, and logged where it is not the client's fault
            return error_response(error)
