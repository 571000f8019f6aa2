"""Drafters of the embedded engine: a small model, or the text itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from spec_cascade.decoding.models import Feed, Proposal
from spec_cascade.verify import BatchSampling, Purpose, draw, uniforms

if TYPE_CHECKING:
    from collections.abc import Sequence as Seq

    from spec_cascade.decoding.sequence import Sequence
    from spec_cascade.engines.pytorch.model import CachedModel


class ModelDrafter:
    """Samples each token of the block from a small model's own sampling row.

    Args:
        model: The small model.
        vocab_size: Token ids that exist; wider logits are padding.
        prefill_chunk: Most tokens of one sequence in one forward while the drafter catches up with the target.
    """

    def __init__(self, model: CachedModel, *, vocab_size: int, prefill_chunk: int) -> None:
        self._model = model
        self._vocab_size = vocab_size
        self._prefill_chunk = prefill_chunk

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
            return Proposal.empty(len(sequences), self._model.cache.device)

        device, longest = self._model.cache.device, max(lengths)
        tokens = torch.zeros(len(sequences), longest, dtype=torch.long, device=device)
        logits = torch.zeros(
            len(sequences), longest, self._vocab_size, dtype=self._model.cache.keys.dtype, device=device
        )
        seeds = torch.tensor([s.seed for s in sequences], device=device)
        positions = torch.tensor([s.num_emitted for s in sequences], device=device)
        numbers = uniforms(seeds[:, None], positions[:, None] + torch.arange(longest, device=device), Purpose.DRAFT)
        for k in range(longest):
            rows = torch.tensor(drafting, device=device)
            # Catching up comes last, so that the wanted rows are those of the drafting sequences in order.
            logits[rows, k] = self._model.forward([*feeds, *catching_up])[:, : self._vocab_size]
            sampling = BatchSampling.of([sequences[b].request.sampling for b in drafting], device)
            probs = sampling.probs(logits[rows, k : k + 1].float())
            tokens[rows, k] = draw(probs.squeeze(1), numbers[rows, k])
            drafting = [b for b in drafting if lengths[b] > k + 1]
            newest = tokens[:, k].tolist()
            feeds, catching_up = [Feed(sequences[b].slot, [newest[b]], rows=1) for b in drafting], []
        return Proposal(tokens, logits, lengths)

    def _first_feeds(self, sequences: Seq[Sequence], lengths: Seq[int]) -> tuple[list[int], list[Feed], list[Feed]]:
        """The lengths that can be drafted this round, the feeds of sequences that only catch up, and of the others."""
        final = list(lengths)
        catching_up: list[Feed] = []
        feeds: list[Feed] = []
        for b, sequence in enumerate(sequences):
            unseen = sequence.token_ids[self._model.length(sequence.slot) :] if sequence.drafts else []
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
    """

    def __init__(self, *, min_ngram: int, max_ngram: int, device: torch.device) -> None:
        self._min_ngram = min_ngram
        self._max_ngram = max_ngram
        self._device = device

    def truncate(self, slot: int, length: int) -> None:
        """Nothing is cached."""

    def move(self, source: int, destination: int) -> None:
        """Nothing is cached."""

    def propose(self, sequences: Seq[Sequence], lengths: Seq[int]) -> Proposal:
        """Look every sequence's suffix up in its own tokens."""
        found = [self._lookup(s.token_ids, length) for s, length in zip(sequences, lengths, strict=True)]
        longest = max(map(len, found), default=0)
        padded = [tokens + [0] * (longest - len(tokens)) for tokens in found]
        token_ids = torch.tensor(padded, dtype=torch.long, device=self._device).view(len(found), longest)
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
