"""Where a request ends: a part of `TorchSampler`.

Two ways to know it: a table over all steps of all slots, made with the samples, and a look at a token that has just
been committed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tensorrt_llm._torch.pyexecutor.llm_request import LlmRequest, LlmRequestState, get_draft_token_length
from tensorrt_llm.bindings.executor import FinishReason
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from collections.abc import Sequence

SHAPE = current().shape

_ENDS = (FinishReason.END_ID, FinishReason.LENGTH, FinishReason.STOP_WORDS)


class Finishing:
    """See the module."""

    _PAD_ID = -1

    max_seq_len: int
    max_tokens: int
    store: Any
    _reason_tensors: dict[FinishReason, Tensor]
    _max_tokens_offset: Tensor

    # A look at the newest token.

    @staticmethod
    def _meet_max_token_stop_criteria(request: LlmRequest, max_seq_len: int, beam_idx: int = 0) -> bool:
        count = request.get_num_tokens(beam_idx)
        return count - request.py_orig_prompt_len >= request.py_max_new_tokens or count >= max_seq_len

    @staticmethod
    def _meet_stop_token_criteria(request: LlmRequest, new_token: int, beam_idx: int = 0) -> bool:
        if not request.py_stop_words_list:
            return False
        words = _stop_words(request)
        if max(map(len, words)) == 1:
            return new_token in request.py_stop_words_list[0]
        tokens = request.get_tokens(beam_idx)
        return any(tokens[-len(word) :] == word for word in words)

    @classmethod
    def _handle_stop_criteria(cls, request: LlmRequest, new_token: int, *, max_seq_len: int, beam_idx: int) -> bool:
        reason = None
        if new_token == request.py_end_id:
            reason = FinishReason.END_ID
        elif cls._meet_max_token_stop_criteria(request, max_seq_len, beam_idx):
            reason = FinishReason.LENGTH
        elif cls._meet_stop_token_criteria(request, new_token, beam_idx):
            reason = FinishReason.STOP_WORDS
        if reason is not None:
            request.finish_by(reason, beam_idx)
        return reason is not None

    # A look into the table.

    def _handle_finish_reasons(
        self, request: LlmRequest, finish_reasons: Tensor, finish_reasons_list: list[list[list[int]]]
    ) -> bool:
        beams = request.sampling_config.beam_width
        if not (finish_reasons[0, request.py_seq_slot, :beams] != FinishReason.NOT_FINISHED.value).all():
            return False
        request.state = LlmRequestState.GENERATION_COMPLETE
        assert request.py_seq_slot is not None
        for beam in range(beams):
            request.set_finished_reason(FinishReason(finish_reasons_list[request.py_seq_slot][0][beam]), beam)
        return True

    def finish_if_reason(
        self, request: LlmRequest, finish_reasons: list[list[list[int]]], *, step: int, beam_idx: int
    ) -> bool:
        """End the request where the table says so for this step."""
        assert request.py_seq_slot is not None
        reason = FinishReason(finish_reasons[request.py_seq_slot][step][beam_idx])
        if reason in _ENDS:
            request.finish_by(reason, beam_idx)
        return reason in _ENDS

    # The table.

    if SHAPE.since_1_3_0:

        def _write_finish_reasons(
            self,
            requests: list[LlmRequest],
            *,
            finish_reasons: Tensor,
            seq_slots: Tensor,
            seq_lens: Tensor,
            new_tokens: Tensor,
            first_finish_reasons: Tensor | None = None,
            predecessor_beams: Tensor | None = None,
        ) -> None:
            lengths = seq_lens.view(1, -1, 1) + self._max_tokens_offset
            is_full = lengths >= self.store.max_lengths_tensor[seq_slots].view(1, -1, 1)
            end_ids = self.store.end_ids[seq_slots].view(1, -1, 1)
            self._fill_table(requests, finish_reasons, seq_slots, new_tokens, is_full, end_ids)

    else:

        def _write_finish_reasons(  # type: ignore[misc]
            self,
            requests: list[LlmRequest],
            *,
            finish_reasons: Tensor,
            seq_slots: Tensor,
            new_tokens: Tensor,
            first_finish_reasons: Tensor | None = None,
            predecessor_beams: Tensor | None = None,
        ) -> None:
            lengths = torch.tensor([[[r.get_num_tokens(0) + s + 1] for r in requests] for s in range(self.max_tokens)])
            limits = [min(r.py_max_new_tokens + r.orig_prompt_len, self.max_seq_len) for r in requests]
            is_full = lengths >= torch.tensor(limits).view(1, -1, 1)
            ends = [self._PAD_ID if r.py_end_id is None else r.py_end_id for r in requests]
            end_ids = torch.tensor(ends, dtype=new_tokens.dtype).view(1, -1, 1)
            self._fill_table(requests, finish_reasons, seq_slots, new_tokens, is_full, end_ids)

    def _fill_table(
        self,
        requests: list[LlmRequest],
        finish_reasons: Tensor,
        seq_slots: Tensor,
        new_tokens: Tensor,
        is_full: Tensor,
        end_ids: Tensor,
    ) -> None:
        """Each reason overwrites those before it; all steps of a slot are judged, stale ones too."""
        tokens = new_tokens[:, seq_slots]
        reasons = torch.full_like(tokens, FinishReason.NOT_FINISHED.value)
        watched = [i for i, r in enumerate(requests) if r.py_stop_words_list and r.py_stop_words_list[0]]
        if watched:
            stops = self._are_stop_words([requests[i] for i in watched], tokens[:, watched])
            reasons[:, watched] = torch.where(stops, self._reason_tensors[FinishReason.STOP_WORDS], reasons[:, watched])
        reasons = torch.where(is_full, self._reason_tensors[FinishReason.LENGTH], reasons)
        reasons = torch.where(tokens == end_ids, self._reason_tensors[FinishReason.END_ID], reasons)
        finish_reasons[:, seq_slots] = reasons

    def _are_stop_words(
        self, requests: list[LlmRequest], tokens: Tensor, predecessor_beams: Tensor | None = None
    ) -> Tensor:
        """Which steps end with a stop word, ``[T, n, 1]``.

        Steps are counted from the end of all T rows of a slot. A request of fewer than T-1 drafts, a prompt above all,
        is therefore judged by rows that lie behind its own.
        """
        found = torch.zeros_like(tokens, dtype=torch.bool)
        lookback = max(len(word) for request in requests for word in _stop_words(request)) - 1
        for i, request in enumerate(requests):
            old = request.get_tokens(0)[-lookback:] if lookback else []
            row = [self._PAD_ID] * (lookback - len(old)) + old + tokens[:, i, 0].tolist()
            drafted = get_draft_token_length(request)
            for step in range(drafted + 1):
                end = len(row) - drafted + step
                if any(row[end - len(word) : end] == word for word in _stop_words(request)):
                    found[step, i, 0] = True
                    if not SHAPE.since_1_3_0:
                        break
        return found


def _stop_words(request: LlmRequest) -> Sequence[list[int]]:
    tokens, ends = request.py_stop_words_list  # type: ignore[misc]
    ends = [end for end in ends if end >= 0]
    return [tokens[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]
