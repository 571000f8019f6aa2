"""What one request does to logits before any rule reads them: penalties, banned tokens, a least length.

Both models' rows are shaped alike, before temperature and truncation, so that a rule compares like with like and the
drafter does not propose what the target may not take.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from spec_cascade.verify.transfer import to_device

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import Tensor

    from spec_cascade.decoding.sampling import SamplingParams

_LARGEST = 1e30
"""Penalised logits stay within this: divided by the coldest temperature they are still float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shaping:
    """What one request does to both models' logits before any rule reads them.

    In this order, on each row:

    * *Repetition penalty* on every token that stands in the prompt or in the output: a positive logit is divided by it,
      a negative one multiplied (Keskar et al. 2019, arXiv 1909.05858, as transformers and vLLM have it).
    * *Frequency* times the token's count in the output and *presence* if it stands there are subtracted (OpenAI's
      formula, as in vLLM). TensorRT-LLM counts the prompt here too, but for its first ``prompt_ignore_length`` tokens.
    * *Bad words* ban the last token of each of their token sequences (its logit becomes -inf) where the tokens before
      it stand at the end of prompt and output.
    * *min_tokens* bans the tokens that would end the output until that many stand before the row.

    A row of which the bans would leave nothing finite has its bans lifted: there would be nothing to draw from.

    Token ids at or beyond a row's width are left out. Nothing is read back from the device.

    Attributes:
        repetition_penalty: 1 is none.
        presence_penalty: 0 is none.
        frequency_penalty: 0 is none.
        prompt_ids: The prompt's distinct tokens.
        prompt_end: The prompt's last tokens, as many as the longest bad word can look back on.
        bans: The tokens that may not follow a sequence of tokens, by that sequence.
        end_ids: The tokens that end the output.
        min_tokens: Output tokens before which none of them may come.
    """

    repetition_penalty: float
    presence_penalty: float
    frequency_penalty: float
    prompt_ids: tuple[int, ...]
    prompt_end: tuple[int, ...]
    bans: dict[tuple[int, ...], frozenset[int]]
    end_ids: frozenset[int]
    min_tokens: int
    _prompt_tensors: dict[tuple[torch.device, int], Tensor] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of(
        cls,
        sampling: SamplingParams,
        prompt_ids: Sequence[int],
        *,
        bad_word_ids: Sequence[Sequence[int]],
        end_ids: frozenset[int],
    ) -> Shaping | None:
        """The shaping of one request; None where the request asks for nothing.

        Args:
            sampling: Its parameters.
            prompt_ids: Its prompt.
            bad_word_ids: Token sequences of all its bad words; empty ones are left out.
            end_ids: What ends its output: the model's end tokens unless ``ignore_eos``, and its stop tokens.
        """
        by_prefix: dict[tuple[int, ...], set[int]] = {}
        for *prefix, last in filter(None, bad_word_ids):
            by_prefix.setdefault(tuple(prefix), set()).add(last)
        longest = max(map(len, by_prefix), default=0)
        shaping = cls(
            repetition_penalty=sampling.repetition_penalty,
            presence_penalty=sampling.presence_penalty,
            frequency_penalty=sampling.frequency_penalty,
            prompt_ids=tuple(sorted(set(prompt_ids))) if sampling.repetition_penalty != 1 else (),
            prompt_end=tuple(prompt_ids[max(0, len(prompt_ids) - longest) :]),
            bans={prefix: frozenset(tokens) for prefix, tokens in by_prefix.items()},
            end_ids=end_ids,
            min_tokens=sampling.min_tokens,
        )
        asks = shaping._penalises or shaping.bans or (shaping.min_tokens and shaping.end_ids)
        return shaping if asks else None

    def apply(self, logits: Tensor, output_ids: Sequence[int]) -> Tensor:
        """Shape one row.

        Args:
            logits: ``[V]``, of any float type; stays as it is.
            output_ids: The output before this row, the drafted tokens of the block included.

        Returns:
            ``[V]``, float32, or float64 if given that.
        """
        return self.apply_block(logits.unsqueeze(0), output_ids, ()).squeeze(0)

    def apply_block(self, logits: Tensor, output_ids: Sequence[int], drafted: Sequence[int]) -> Tensor:
        """Shape the rows of one round, each bit as `apply` would one by one.

        Args:
            logits: ``[R, V]``, of any float type, R at most ``len(drafted) + 1``; stays as it is.
            output_ids: The output before the first row.
            drafted: Row k has ``drafted[:k]`` before it.

        Returns:
            ``[R, V]``, float32, or float64 if given that.
        """
        rows = logits.to(torch.float64 if logits.dtype == torch.float64 else torch.float32, copy=True)
        if self._penalises:
            self._penalise(rows, logits, output_ids, drafted)
        if self.bans or len(output_ids) < self.min_tokens:
            self._ban(rows, output_ids, drafted)
        return rows

    def num_allowed(self, output_ids: Sequence[int], drafted: Sequence[int]) -> int:
        """How many of the drafted tokens come before the first that is banned where it stands.

        For drafts that were made without regard to the bans: a rule that would keep such a token must not see it.
        """
        if not self.bans and len(output_ids) >= self.min_tokens:
            return len(drafted)
        places = enumerate(drafted)
        return next((n for n, token in places if token in self._banned(output_ids, drafted[:n])), len(drafted))

    @property
    def _penalises(self) -> bool:
        return (self.repetition_penalty, self.presence_penalty, self.frequency_penalty) != (1, 0, 0)

    def _penalise(self, rows: Tensor, logits: Tensor, output_ids: Sequence[int], drafted: Sequence[int]) -> None:
        """Write penalised logits into ``rows``: the prompt's tokens, over them the output's, over them the drafted."""
        width, device = rows.shape[1], rows.device
        prompt = self._prompt_on(device, width)
        if len(prompt):
            rows[:, prompt] = self._penalised(logits[:, prompt], torch.zeros_like(prompt)).to(rows.dtype)
        counts = Counter(token for token in output_ids if token < width)
        if counts:
            tokens, times = to_device([list(counts.keys()), list(counts.values())], torch.long, device)
            rows[:, tokens] = self._penalised(logits[:, tokens], times).to(rows.dtype)
        places = []
        for row, token in zip(range(1, len(rows)), drafted, strict=False):
            if token < width:
                counts[token] += 1
            places += [(row, seen, counts[seen]) for seen in {t for t in drafted[:row] if t < width}]
        if places:
            index, tokens, times = to_device(places, torch.long, device).T
            rows[index, tokens] = self._penalised(logits[index, tokens], times).to(rows.dtype)

    def _penalised(self, values: Tensor, times: Tensor) -> Tensor:
        """Logits ``[..., n]`` of tokens that stand in the text, ``times`` ``[n]`` of these in the output."""
        values, times = values.double(), times.double()
        scaled = torch.where(values < 0, values * self.repetition_penalty, values / self.repetition_penalty)
        shaped = scaled - (self.frequency_penalty * times + self.presence_penalty * times.clamp_max(1))
        return torch.where(values.isinf(), values, shaped.clamp(-_LARGEST, _LARGEST))

    def _prompt_on(self, device: torch.device, width: int) -> Tensor:
        key = (device, width)
        if key not in self._prompt_tensors:
            known = [token for token in self.prompt_ids if token < width]
            self._prompt_tensors[key] = to_device(known, torch.long, device)
        return self._prompt_tensors[key]

    def _ban(self, rows: Tensor, output_ids: Sequence[int], drafted: Sequence[int]) -> None:
        places = [
            (row, token)
            for row in range(len(rows))
            for token in self._banned(output_ids, drafted[:row])
            if token < rows.shape[1]
        ]
        if not places:
            return
        index, tokens = to_device(places, torch.long, rows.device).T
        before = rows[index, tokens]
        rows[index, tokens] = torch.full_like(before, float("-inf"))
        holds = rows.amax(-1) > float("-inf")
        rows[index, tokens] = before.masked_fill(holds[index], float("-inf"))

    def _banned(self, output_ids: Sequence[int], drafted: Sequence[int]) -> set[int]:
        """The tokens that may not come next."""
        num_output = len(output_ids) + len(drafted)
        banned = set(self.end_ids) if num_output < self.min_tokens else set()
        longest = max(map(len, self.bans), default=0)
        end = (*self.prompt_end, *output_ids[max(0, len(output_ids) - longest) :], *drafted)
        for prefix in self._prefixes(end):
            banned |= self.bans.get(prefix, frozenset())
        return banned

    def _prefixes(self, end: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
        """The ends of the text that are as long as what a ban looks back on."""
        for length in {len(prefix) for prefix in self.bans}:
            if length <= len(end):
                yield end[len(end) - length :]
