"""One call: what is sent, how long it may take, and whether it may be sent again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_client.errors import PromptTooLongError
from spec_cascade_client.history import History
from spec_cascade_client.retry import SAFE_TO_REPEAT
from spec_cascade_client.wire import request_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from spec_cascade_client.clock import Clock
    from spec_cascade_client.errors import ClientError
    from spec_cascade_client.options import Message, Options
    from spec_cascade_client.retry import Retry
    from spec_cascade_client.wire import Tensor


class Request:
    """A call that is being made.

    Attributes:
        tensors: What is sent.
        stream: Whether one response for each round is asked for.
        clock: How long to wait.

    Raises:
        InvalidRequestError: A value does not fit its tensor.
    """

    def __init__(
        self, prompt: str | Sequence[Message] | History, options: Options, *, stream: bool, clock: Clock, retry: Retry
    ) -> None:
        self._prompt = prompt
        self._options = options
        self._retry = retry
        self._turns = prompt.turns if isinstance(prompt, History) else []
        self._failures = 0
        self.stream = stream
        self.clock = clock
        self.tensors = self._make_tensors()

    def pause_after(self, error: ClientError) -> float:
        """Decide about an attempt that failed before its first response.

        Returns:
            Seconds after which to send the request again.

        Raises:
            ClientError: The ``error``: it must not be sent again, or there is no time left to.
        """
        history = self._prompt
        if isinstance(error, PromptTooLongError) and isinstance(history, History) and history.forget_oldest():
            self.tensors = self._make_tensors()
            return 0.0
        self._failures += 1
        pause = self._retry.pause_after(self._failures)
        is_allowed = isinstance(error, SAFE_TO_REPEAT) and self._failures < self._retry.attempts
        if not is_allowed or pause >= self.clock.left():
            if isinstance(history, History):  # what it forgot did not help
                history.recall(self._turns)
            raise error
        return pause

    def _make_tensors(self) -> list[Tensor]:
        prompt = self._prompt.messages if isinstance(self._prompt, History) else self._prompt
        return request_tensors(prompt, self._options, stream=self.stream)
