"""What the target alone would say, from plain forwards over the whole text."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.shaping import Shaping
from tests.unit.decoding.bench import MAX_SEQ_LEN, target_model

if TYPE_CHECKING:
    from torch import Tensor

    from spec_cascade.decoding.sampling import SamplingParams

TIE = 1e-4


@dataclass(slots=True)
class Greedy:
    """The target's own greedy output for one request, as far as it was asked for.

    Attributes:
        prompt_ids: The prompt.
        sampling: Its parameters; the temperature is taken to be 0.
        ends: The tokens that end it.
        output_ids: The output so far.
        gaps: Per token, how far its logit was above the next best.
    """

    prompt_ids: list[int]
    sampling: SamplingParams
    ends: frozenset[int]
    output_ids: list[int] = field(default_factory=list)
    gaps: list[float] = field(default_factory=list)

    @torch.inference_mode()
    def _row(self) -> Tensor:
        row: Tensor = target_model()(torch.tensor([self.prompt_ids + self.output_ids])).logits[0, -1]
        shaping = Shaping.of(self.sampling, self.prompt_ids, bad_word_ids=(), end_ids=self.ends)
        return row if shaping is None else shaping.apply(row, self.output_ids)

    @property
    def has_ended(self) -> bool:
        """Whether a token, a length or the model's end came."""
        count, sampling = len(self.output_ids), self.sampling
        stopped = count > sampling.min_tokens and self.output_ids[-1] in self.ends
        return stopped or count >= min(sampling.max_tokens, MAX_SEQ_LEN - len(self.prompt_ids))

    def agrees(self, output: list[int], *, complete: bool) -> bool:
        """Whether this, or its beginning, is what the target says; from an exact tie on nothing is asked."""
        while len(self.output_ids) < len(output) and not self.has_ended:
            best = self._row().topk(2)
            self.gaps.append(float(best.values[0] - best.values[1]))
            self.output_ids.append(int(best.indices[0]))
        differs = [i for i, (ours, theirs) in enumerate(zip(output, self.output_ids, strict=False)) if ours != theirs]
        if differs:
            return self.gaps[differs[0]] <= TIE
        if len(output) > len(self.output_ids):
            return False
        return not complete or (len(output) == len(self.output_ids) and self.has_ended)
