"""Drafters of the embedded engine: a small model, or the text itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.models import Feed, Proposal
from spec_cascade.verify import BatchSampling, Purpose, sample, to_device, to_host, uniforms
from spec_cascade.verify.sampling import argmax
from spec_cascade.verify.scored import widened

if TYPE_CHECKING:
    from collections.abc import Mapping
    from collections.abc import Sequence as Seq

    from torch import Tensor

    from spec_cascade.decoding.models import Drafts
    from spec_cascade.decoding.sampling import SamplingParams
    from spec_cascade.decoding.sequence import Sequence
    from spec_cascade.engines.pytorch.model import CachedModel


class ModelDrafter:
    """Takes each token of the block from a small model's own row.

    Args:
        model: The small model.
        vocab_size: Token ids that exist; wider logits are padding.
        prefill_chunk: Most tokens of one sequence in one forward while the drafter catches up with the target.
        argmax: Propose the most likely token whatever the temperature, instead of a sample: q is then one-hot.
        head: The tokens that the model has logits for, ascending, ``[Vd]``: it proposes no others, q is 0 there. None
            is all.
        confidence: A block ends before the first position at which max q~, the number that the ``chow`` gate reads, is
            below this; 0 never ends one early. It does not depend on the token drawn there, so no law changes. On a
            GPU each drafted token then waits for the host once.

    Attributes:
        drafts: See `decoding.models.Drafter`.
    """

    def __init__(
        self,
        model: CachedModel,
        *,
        vocab_size: int,
        prefill_chunk: int,
        head: Tensor | None = None,
        argmax: bool = False,
        confidence: float = 0.0,
    ) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._prefill_chunk = prefill_chunk
        self._confidence = confidence
        self._device = model.cache.device
        self._head = None if head is None else head.to(self._device)
        self._width = vocab_size if head is None else len(head)
        self.drafts: Drafts = "argmax" if argmax else "sampled"

    def truncate(self, slot: int, length: int) -> None:
        """Forget all but the first ``length`` tokens of a slot."""
        self._model.truncate(slot, length)

    def move(self, source: int, destination: int) -> None:
        """Copy one slot over another and empty the source."""
        self._model.move(source, destination)

    def length(self, slot: int) -> int:
        """Tokens of the slot that the model has seen."""
        return self._model.length(slot)

    def propose(self, sequences: Seq[Sequence], lengths: Seq[int]) -> Proposal:
        """One forward per drafted token; the first also feeds what the drafter has not seen yet."""
        lengths, catching_up, feeds = self._first_feeds(sequences, lengths)
        drafting = [b for b, length in enumerate(lengths) if length]
        if not drafting:
            if catching_up:
                self._model.forward(catching_up)
            return Proposal.empty(len(sequences), self._device)

        batch, longest = len(sequences), max(lengths)
        # A block that was accepted whole leaves two tokens unseen, any other one.
        caught_up = not catching_up and all(len(feed.token_ids) <= 2 for feed in feeds)
        tokens = torch.zeros(batch, longest, dtype=torch.long, device=self._device)
        logits = torch.zeros(batch, longest, self._width, dtype=self._model.cache.keys.dtype, device=self._device)
        numbers = self._numbers(sequences, longest)
        for k in range(longest):
            # Catching up comes last, so that the wanted rows are those of the drafting sequences in order.
            rows = self._model.forward([*feeds, *catching_up])[:, : self._width]
            which = to_device(drafting, torch.long, self._device)
            logits[which, k] = rows
            self._shape({b: sequences[b] for b in drafting}, tokens, logits, k)
            if self._confidence > 0:
                drafting = self._confident(drafting, logits[which, k], lengths, k)
                if not drafting:
                    break
                which = to_device(drafting, torch.long, self._device)
            drafters = [sequences[b].request.sampling for b in drafting]
            tokens[which, k] = self._choose(drafters, logits[which, k], numbers[which, k])
            drafting = [b for b in drafting if lengths[b] > k + 1]
            if not drafting:
                break
            feeds = [Feed(sequences[b].slot, (), rows=1, drafted=tokens[b, k : k + 1]) for b in drafting]
            catching_up = []
        # Early ends leave columns that nobody drafted.
        longest = max(lengths)
        return Proposal(
            tokens[:, :longest],
            logits[:, :longest],
            lengths,
            argmax=self.drafts == "argmax",
            caught_up=caught_up,
            index=self._head,
        )

    def _numbers(self, sequences: Seq[Sequence], longest: int) -> Tensor:
        """What the draws of the block need, ``[B, longest]``."""
        seeds = to_device([s.seed for s in sequences], torch.long, self._device)
        positions = to_device([s.num_emitted for s in sequences], torch.long, self._device)
        steps = positions[:, None] + torch.arange(longest, device=self._device)
        return uniforms(seeds[:, None], steps, Purpose.DRAFT)

    def _confident(self, drafting: list[int], rows: Tensor, lengths: list[int], k: int) -> list[int]:
        """The sequences whose ``rows`` say that the drafter is sure enough of position k; the others' blocks end."""
        peaks = to_host(rows.float().softmax(-1).amax(-1)).tolist()
        # NaN is not for this to judge: the verifier finds it.
        sure = [b for b, peak in zip(drafting, peaks, strict=True) if not peak < self._confidence]
        for b in {*drafting} - {*sure}:
            lengths[b] = k
        return sure

    def _shape(self, drafting: Mapping[int, Sequence], tokens: Tensor, logits: Tensor, k: int) -> None:
        """Apply the requests' penalties and bans to position k, as they are applied to the target's rows."""
        for b, sequence in drafting.items():
            if sequence.shaping is not None:
                before = [*sequence.output_ids, *to_host(tokens[b, :k]).tolist()]
                row = logits[b, k] if self._head is None else widened(logits[b, k], self._head, self._vocab_size)
                shaped = sequence.shaping.apply(row, before)
                logits[b, k] = shaped if self._head is None else shaped[self._head]

    def _choose(self, sampling: Seq[SamplingParams], logits: Tensor, numbers: Tensor) -> Tensor:
        """Tokens ``[n]`` from rows ``[n, Vd]``: what is drawn comes from the very rows that the verifier will see."""
        if self.drafts == "argmax":
            columns = argmax(logits.float())
        else:
            # A row that makes no distribution is the verifier's to find: it reads them all.
            columns, _ = sample(logits, BatchSampling.of(sampling, self._device), numbers)
        return columns if self._head is None else self._head[columns]

    def _first_feeds(self, sequences: Seq[Sequence], lengths: Seq[int]) -> tuple[list[int], list[Feed], list[Feed]]:
        """The lengths that can be drafted this round, the feeds of sequences that only catch up, and of the others."""
        final = list(lengths)
        catching_up: list[Feed] = []
        feeds: list[Feed] = []
        for b, sequence in enumerate(sequences):
            unseen = sequence.token_ids[self._model.length(sequence.slot) :] if sequence.speculates else []
            if len(unseen) > self._prefill_chunk or (lengths[b] == 0 and len(unseen) > 1):
                # The newest token stays unseen: feeding it yields the first draft row.
                final[b] = 0
                catching_up.append(Feed(sequence.slot, unseen[: min(self._prefill_chunk, len(unseen) - 1)], rows=0))
            elif lengths[b]:
                feeds.append(Feed(sequence.slot, unseen, rows=1))
        return final, catching_up, feeds


class PromptLookupDrafter:
    """Proposes what followed the newest n-gram the last time it stood in the text; needs no weights.

    The proposals are one-hot: no row stands behind them, so only rules that keep a meaning there may run.
    Source: Saxena, "Prompt lookup decoding", 2023.

    Args:
        min_ngram: Shortest suffix that is looked up.
        max_ngram: Longest suffix that is looked up; longer matches win, then later ones.
        device: Where the proposals go.

    Attributes:
        drafts: See `decoding.models.Drafter`.
    """

    def __init__(self, *, min_ngram: int, max_ngram: int, device: torch.device) -> None:
        self._min_ngram = min_ngram
        self._max_ngram = max_ngram
        self._device = device
        self.drafts: Drafts = "lookup"

    def truncate(self, slot: int, length: int) -> None:
        """Nothing is cached."""

    def move(self, source: int, destination: int) -> None:
        """Nothing is cached."""

    def propose(self, sequences: Seq[Sequence], lengths: Seq[int]) -> Proposal:
        """Look every sequence's suffix up in its own tokens."""
        found = [self._lookup(s.token_ids, length) for s, length in zip(sequences, lengths, strict=True)]
        longest = max(map(len, found), default=0)
        padded = [tokens + [0] * (longest - len(tokens)) for tokens in found]
        token_ids = to_device(padded, torch.long, self._device).view(len(found), longest)
        return Proposal(token_ids, None, [len(tokens) for tokens in found])

    def _lookup(self, token_ids: list[int], length: int) -> list[int]:
        """Up to ``length`` tokens that followed the longest suffix found earlier in ``token_ids``."""
        if length == 0:
            return []
        for size in range(min(self._max_ngram, len(token_ids) - 1), self._min_ngram - 1, -1):
            suffix = token_ids[-size:]
            for start in range(len(token_ids) - size - 1, -1, -1):
                if token_ids[start : start + size] == suffix:
                    return token_ids[start + size : start + size + length]
        return []
