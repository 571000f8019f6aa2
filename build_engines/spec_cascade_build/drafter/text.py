"""The target's own text: what a drafter learns from.

An answer is stored with the target's last hidden state in front of every token, from which its head makes the whole
row again: far smaller than the row, and the target need not run again to teach.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from spec_cascade.decoding.models import Feed
from spec_cascade.verify import Purpose
from spec_cascade_build.drafter.draws import drawn
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence
    from pathlib import Path

    from torch import Tensor

    from spec_cascade.engines.pytorch.model import CachedModel
    from spec_cascade_build.drafter.conversation import Conversation
    from spec_cascade_build.recipe import TextRecipe


@dataclass(frozen=True, slots=True)
class Answer:
    """A prompt, what the target answered, and from which states.

    Attributes:
        token_ids: Prompt and answer, int64 ``[T]``.
        prompt: Tokens of the prompt.
        hidden: The target's last hidden state in front of each token of the answer, ``[T - prompt, H]``.
    """

    token_ids: Tensor
    prompt: int
    hidden: Tensor


@dataclass(slots=True)
class _Line:
    """An answer that is being written in a slot."""

    number: int
    slot: int
    token_ids: list[int]
    asking: bool
    started: int
    """Where the part that is being written began: the user's words, or the answer."""
    seen: int = 0
    hidden: list[Tensor] = field(default_factory=list)


class TextWriter:
    """Lets the target answer prompts, many at a time; what an answer says depends on its number and the seed.

    Args:
        model: The target without its head: its rows are hidden states.
        head: From hidden states ``[n, H]`` to logits ``[n, V]``.
        conversation: The prompts.
        eos: Tokens that end an answer.
        vocab_size: Tokens that exist.
        recipe: How much, how long, how warm.
        seed: Of all draws.
    """

    def __init__(
        self,
        model: CachedModel,
        head: Callable[[Tensor], Tensor],
        conversation: Conversation,
        *,
        eos: Collection[int],
        vocab_size: int,
        recipe: TextRecipe,
        seed: int,
    ) -> None:
        self._model = model
        self._head = head
        self._conversation = conversation
        self._eos = frozenset(eos)
        self._vocab_size = vocab_size
        self._recipe = recipe
        self._seed = seed

    def write(self, numbers: Iterable[int], advance: Callable[[int], None] | None = None) -> list[Answer]:
        """The answers with these numbers, in order; ``advance`` is told how many have ended after each step."""
        waiting = deque(numbers)
        free = list(range(self._recipe.batch_size))[::-1]
        live: list[_Line] = []
        written: dict[int, Answer] = {}
        while waiting or live:
            while waiting and free:
                live.append(self._begin(waiting.popleft(), free.pop()))
            live.sort(key=lambda line: line.slot)
            before = len(written)
            self._step(live)
            for line in [line for line in live if self._is_over(line)]:
                live.remove(line)
                self._model.truncate(line.slot, 0)
                free.append(line.slot)
                written[line.number] = _answer(line)
            if advance is not None:
                advance(len(written) - before)
        return [written[number] for number in sorted(written)]

    def _begin(self, number: int, slot: int) -> _Line:
        token_ids, asking = self._conversation.begin(number)
        return _Line(number, slot, token_ids, asking, started=len(token_ids))

    @torch.inference_mode()
    def _step(self, live: Sequence[_Line]) -> None:
        """One token for each line."""
        hidden = self._model.forward([Feed(line.slot, line.token_ids[line.seen :], rows=1) for line in live])
        tokens = drawn(
            self._head(hidden),
            [(self._seed << 32) + line.number for line in live],
            [len(line.token_ids) for line in live],
            Purpose.DRAW,
            temperature=self._recipe.temperature,
            vocab_size=self._vocab_size,
        )
        states = hidden.cpu()
        for i, (line, token) in enumerate(zip(live, tokens.tolist(), strict=True)):
            line.seen = len(line.token_ids)
            self._take(line, token, states[i])

    def _take(self, line: _Line, token: int, state: Tensor) -> None:
        if not line.asking:
            line.token_ids.append(token)
            line.hidden.append(state.clone())
            return
        ended = token in self._eos
        if not ended:
            line.token_ids.append(token)
        if ended or len(line.token_ids) - line.started == self._recipe.max_prompt_tokens:
            line.token_ids.extend(self._conversation.closing)
            line.asking, line.started = False, len(line.token_ids)

    def _is_over(self, line: _Line) -> bool:
        if line.asking or not line.hidden:
            return False
        return line.token_ids[-1] in self._eos or len(line.hidden) == self._recipe.max_answer_tokens


def _answer(line: _Line) -> Answer:
    return Answer(torch.tensor(line.token_ids), line.started, torch.stack(line.hidden))


def save_answers(path: Path, answers: Sequence[Answer]) -> None:
    """Write answers to a file that appears whole or not at all."""
    tensors = {
        "token_ids": torch.cat([answer.token_ids for answer in answers]).to(torch.int32),
        "lengths": torch.tensor([[len(answer.token_ids), answer.prompt] for answer in answers]),
        "hidden": torch.cat([answer.hidden for answer in answers]),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    save_file(tensors, partial)
    partial.rename(path)


def load_answers(path: Path) -> list[Answer]:
    """Read what `save_answers` wrote.

    Raises:
        BuildError: The file is damaged.
    """
    try:
        tensors = load_file(path)
    except (OSError, SafetensorError) as error:
        raise BuildError(f"{path} is damaged: remove it") from error
    answers: list[Answer] = []
    token_ids, hidden = tensors["token_ids"].long(), tensors["hidden"]
    for length, prompt in tensors["lengths"].tolist():
        answers.append(Answer(token_ids[:length], prompt, hidden[: length - prompt]))
        token_ids, hidden = token_ids[length:], hidden[length - prompt :]
    return answers
