"""A conversation that stays within the model's window."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from spec_cascade_client.options import Message


class History:
    """The messages of a conversation, fit to be sent as a prompt.

    When the server answers that it is too long, the client forgets its oldest turns and sends it again; if not even the
    question alone is short enough, or the request fails in another way before its answer begins, it forgets nothing.

    >>> history = History(system="Answer in one sentence.")
    >>> history.ask("Why is the sky blue?")
    >>> history.answer(client.chat(history).text)

    Args:
        system: Instructions that come before every turn and are never forgotten.
    """

    def __init__(self, system: str | None = None) -> None:
        self._system: list[Message] = [] if system is None else [{"role": "system", "content": system}]
        self._turns: list[list[Message]] = []

    @property
    def messages(self) -> list[Message]:
        """What is sent: instructions, turns, and the question that waits for its answer."""
        return [*self._system, *(message for turn in self._turns for message in turn)]

    @property
    def num_turns(self) -> int:
        """Questions that are remembered."""
        return len(self._turns)

    def ask(self, text: str) -> None:
        """Add a question; one that was not answered is taken back."""
        self.retract()
        self._turns.append([{"role": "user", "content": text}])

    def answer(self, text: str) -> None:
        """Add the answer to the question asked last.

        Raises:
            ValueError: There is none.
        """
        if not self._is_waiting:
            raise ValueError("there is no question to answer")
        self._turns[-1].append({"role": "assistant", "content": text})

    def retract(self) -> None:
        """Take back a question that was not answered, if there is one."""
        if self._is_waiting:
            self._turns.pop()

    def forget_oldest(self) -> bool:
        """Forget the oldest turn; answers whether there was one before the last question."""
        if len(self._turns) < 2:
            return False
        del self._turns[0]
        return True

    @property
    def turns(self) -> list[list[Message]]:
        """What `recall` takes."""
        return list(self._turns)

    def recall(self, turns: list[list[Message]]) -> None:
        """Have these turns again, and no others."""
        self._turns = list(turns)

    def clear(self) -> None:
        """Forget every turn."""
        self._turns.clear()

    @property
    def _is_waiting(self) -> bool:
        return bool(self._turns) and len(self._turns[-1]) == 1
