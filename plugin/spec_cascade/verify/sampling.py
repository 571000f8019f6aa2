"""From logits to rows: temperature, top-k, top-p and min-p of each sequence in a batch, and draws by inverse CDF."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Protocol

import torch

from spec_cascade.verify.transfer import to_device
from spec_cascade.verify.truncation import truncated

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

_BLOCK = 256


class HasSampling(Protocol):
    """The fields of a request's sampling parameters that shape its rows."""

    @property
    def temperature(self) -> float: ...  # noqa: D102
    @property
    def top_k(self) -> int: ...  # noqa: D102
    @property
    def top_p(self) -> float: ...  # noqa: D102
    @property
    def min_p(self) -> float: ...  # noqa: D102


class Traits(NamedTuple):
    """What a batch's parameters ask for, on the host: decides which passes over the rows are needed.

    Attributes:
        greedy: Sequences at temperature 0.
        scaled: Whether a temperature is neither 0 nor 1.
        truncated: Sequences, not greedy, with top-k, top-p or min-p.
        size: Sequences in all.
    """

    greedy: tuple[int, ...]
    scaled: bool
    truncated: tuple[int, ...]
    size: int

    @classmethod
    def of(cls, params: Sequence[tuple[float, int, float, float]]) -> Traits:
        """From (temperature, top_k, top_p, min_p) of each sequence."""
        return cls(
            greedy=tuple(i for i, (temperature, *_) in enumerate(params) if temperature == 0),
            scaled=any(temperature not in (0, 1) for temperature, *_ in params),
            truncated=tuple(i for i, (t, k, p, m) in enumerate(params) if t > 0 and (k > 0 or p < 1 or m > 0)),
            size=len(params),
        )


@dataclass(frozen=True)
class BatchSampling:
    """Sampling parameters of the B sequences of a batch, each a tensor ``[B]``; see `SamplingParams` for meanings."""

    temperature: Tensor
    top_k: Tensor
    top_p: Tensor
    min_p: Tensor

    @classmethod
    def of(cls, params: Sequence[HasSampling], device: torch.device | str = "cpu") -> BatchSampling:
        """Collect the parameters of the sequences of a batch."""
        rows = [(p.temperature, p.top_k, p.top_p, p.min_p) for p in params]
        columns = to_device(torch.tensor(rows, dtype=torch.float64).view(-1, 4).T.contiguous(), torch.float64, device)
        batch = cls(columns[0], columns[1].long(), columns[2], columns[3])
        # Fills the cache below: what is known on the host need not be copied back from the device.
        batch.__dict__["traits"] = Traits.of(rows)
        return batch

    @cached_property
    def traits(self) -> Traits:
        """What the parameters ask for; read back from the device where `of` did not make the batch."""
        columns = (self.temperature, self.top_k, self.top_p, self.min_p)
        return Traits.of(list(zip(*(column.tolist() for column in columns), strict=True)))

    @property
    def plain(self) -> bool:
        """Whether every sampling row is the softmax of its raw logits, i.e. equal to its gate row."""
        return not (self.traits.greedy or self.traits.scaled or self.traits.truncated)

    def probs(self, logits: Tensor) -> Tensor:
        """Sampling rows of logits ``[B, R, V]``, float32 unless those are float64; one-hot at temperature 0."""
        logits = logits if logits.dtype == torch.float64 else logits.float()
        traits = self.traits
        if len(traits.greedy) == traits.size:
            return one_hot(argmax(logits), logits)
        if traits.scaled:
            temperature = self.temperature.to(logits.dtype)
            logits = logits / temperature.masked_fill(temperature == 0, 1)[:, None, None]
        if traits.truncated:
            logits = self._truncated(logits)
        probs = logits.softmax(-1)
        if traits.greedy:
            rows = to_device(traits.greedy, torch.long, logits.device)
            probs[rows] = one_hot(argmax(logits[rows]), probs)
        return probs

    def _truncated(self, logits: Tensor) -> Tensor:
        """Logits with -inf at what top-k, top-p and min-p drop."""
        rows, repeats = to_device(self.traits.truncated, torch.long, logits.device), logits.shape[1]
        whole = len(rows) == self.traits.size
        part = logits if whole else logits[rows]
        limits = (limit[rows].repeat_interleave(repeats) for limit in (self.top_k, self.top_p, self.min_p))
        part = truncated(part.flatten(0, 1), *limits).view_as(part)
        return part if whole else logits.index_copy(0, rows, part)


def argmax(row: Tensor) -> Tensor:
    """Index ``[...]`` of the largest entry of rows ``[..., V]``, the first where several tie."""
    width = row.shape[-1] // _BLOCK * _BLOCK
    if row.device.type != "cpu" or width < 16 * _BLOCK:
        return row.argmax(-1)
    # torch's argmax reads one number at a time on the CPU, its amax does not: look for the first best block.
    blocks = row[..., :width].view(*row.shape[:-1], -1, _BLOCK).amax(-1)
    if width < row.shape[-1]:
        blocks = torch.cat((blocks, row[..., width:].amax(-1, keepdim=True)), -1)
    start = blocks.argmax(-1) * _BLOCK
    inside = (start.unsqueeze(-1) + torch.arange(_BLOCK)).clamp_max(row.shape[-1] - 1)
    return start + row.gather(-1, inside).argmax(-1)


def one_hot(index: Tensor, like: Tensor) -> Tensor:
    """Rows as wide and of the type of ``like`` ``[..., V]``, 1 at ``index`` ``[...]``."""
    rows = like.new_zeros((*index.shape, like.shape[-1]))
    return rows.scatter_(-1, index.unsqueeze(-1), 1)


def draw(weights: Tensor, uniforms: Tensor) -> Tensor:
    """One token ``[...]`` from each row of ``weights`` ``[..., V]`` (not normalised) by inverse CDF.

    Token v is drawn where ``uniforms`` ``[...]`` falls in its share of the cumulated weights, taken in vocabulary
    order. Sums run in float64: over 150,000 tokens a float32 sum would move the borders.
    """
    cdf = weights.cumsum(-1, dtype=torch.float64)
    threshold = (uniforms.double() * cdf[..., -1]).unsqueeze(-1)
    index = torch.searchsorted(cdf, threshold, right=True)
    # u * total may round up to total: the last token that has weight is then meant.
    last = torch.searchsorted(cdf, cdf[..., -1:].contiguous(), right=False)
    return torch.minimum(index, last).squeeze(-1)
