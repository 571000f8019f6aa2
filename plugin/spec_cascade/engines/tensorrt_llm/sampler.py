"""`CascadeSampler`: TensorRT-LLM's sampler with our verifier in the place of its own.

Importing this module imports tensorrt_llm; nothing else of this package does. A round of the target goes

    sample_async           decides for all requests that are ours, in one call of the verifier, from raw logits;
                           then lets TensorRT-LLM sample as it would, for everybody else and for its own books
    update_requests        puts our first tokens in the place of its own, then lets it walk through the requests, asking
      process_draft_tokens   what stands of a block: the decision is taken from the cache and committed
      _handle_finish_reasons whether a prompt's first token ends it: its own table speaks of another token

and rounds of the drafter, where TensorRT-LLM drafts step by step, take the same way with one token each.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import torch
from tensorrt_llm._torch.pyexecutor import sampler as stock
from tensorrt_llm._torch.pyexecutor.sampler import TorchSampler
from tensorrt_llm.bindings.executor import FinishReason

from spec_cascade.engines.tensorrt_llm.commit import commit
from spec_cascade.engines.tensorrt_llm.decision import Decisions, Turn, decide
from spec_cascade.engines.tensorrt_llm.drafts import DraftBook, Drawn
from spec_cascade.engines.tensorrt_llm.followed import Followed, is_ours, leave, reject_unheard, spare, tag_of
from spec_cascade.engines.tensorrt_llm.injection import give_up
from spec_cascade.engines.tensorrt_llm.inspection import check_instance
from spec_cascade.engines.tensorrt_llm.reports import Report
from spec_cascade.engines.tensorrt_llm.rows import RowSpan, add_biases, rows_of
from spec_cascade.errors import ConfigError
from spec_cascade.verify import to_device

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from torch import Tensor

    from spec_cascade.decoding.judging import Block
    from spec_cascade.engines.tensorrt_llm.contract import Contract
    from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings

log = logging.getLogger(__name__)

_BEAM = 0
_GREEDY = getattr(stock, "GREEDY", None)


class CascadeSampler(TorchSampler):  # type: ignore[misc]  # tensorrt_llm publishes no types
    """Decides by deferral rules which drafted tokens stand; made from a `TorchSampler` by `adopt`."""

    _settings: SamplerSettings
    _contract: Contract | None
    _drafts: DraftBook
    _report: Callable[[list[Report]], None]
    _reports: list[Report]
    _current: Decisions

    @classmethod
    def adopt(
        cls,
        sampler: Any,
        settings: SamplerSettings,
        report: Callable[[list[Report]], None] = lambda _: None,
        *,
        contract: Contract | None = None,
    ) -> CascadeSampler:
        """Turn TensorRT-LLM's sampler into ours, with all the memory that it has taken.

        Args:
            sampler: A `TorchSampler`, and no subclass of it.
            settings: What to do.
            report: Told after every round what became of its requests.
            contract: What the first request has to have; None takes it on trust.
        """
        if type(sampler) is not TorchSampler:
            raise TypeError(f"{type(sampler).__name__} is not TensorRT-LLM's TorchSampler")
        sampler.__class__ = cls
        adopted: CascadeSampler = sampler
        adopted._settings = settings
        adopted._report = report
        adopted._reports = []
        adopted._contract = contract
        adopted._drafts = DraftBook(settings.vocab_size)
        adopted._current = Decisions()
        return adopted

    def should_provide_draft_probs(self, request: Any) -> bool:
        """Whether the drafter is to hand on its rows through host memory: ours are taken where they are made."""
        return False if is_ours(request) else bool(super().should_provide_draft_probs(request))

    @torch.inference_mode()
    def sample_async(
        self,
        scheduled_requests: Any,
        model_outputs: dict[str, Tensor],
        num_context_logits_prefix_sum: list[int],
        resource_manager: Any = None,
    ) -> Any:
        """Decide, then sample as TensorRT-LLM does; see the module."""
        requests = scheduled_requests.all_requests()
        if requests and not self._keeps_promises(requests[0]):
            self.__class__ = TorchSampler
            return self.sample_async(scheduled_requests, model_outputs, num_context_logits_prefix_sum, resource_manager)
        decisions = self._decide(scheduled_requests, model_outputs["logits"], num_context_logits_prefix_sum)
        state = super().sample_async(scheduled_requests, model_outputs, num_context_logits_prefix_sum, resource_manager)
        if decisions.drawn is not None:
            self._feed_on(requests, decisions.drawn)
        state.spec_cascade = decisions
        return state

    @torch.inference_mode()
    def update_requests(self, state: Any, resource_manager: Any = None) -> None:
        """Commit what was decided."""
        decisions: Decisions = state.spec_cascade
        if state.sampler_event is not None:
            state.sampler_event.synchronize()  # the copy to the host would overwrite what is written there now
        decisions.drafted = self._drafts.fetch(decisions.drawn)
        for request in state.scheduled_requests.context_requests:
            block = decisions.block(request)
            if block is not None:
                state.host.new_tokens[0, request.py_seq_slot, _BEAM] = block.token_ids[0]
        self._current, self._reports = decisions, []
        if decisions.decided.broken:
            self._break_off(state.scheduled_requests.all_requests(), decisions.decided.broken)
        try:
            super().update_requests(state, resource_manager)
        finally:
            self._current = Decisions()
            for request in state.scheduled_requests.generation_requests:
                # Nobody else does: what is not drafted for in the next round would still carry this one's rows.
                request.py_draft_logits = None
            if self._reports:
                self._report(self._reports)

    def process_draft_tokens(
        self,
        request: Any,
        new_tokens_tensor: Tensor,
        new_tokens_list: list[list[list[int]]],
        finish_reasons: Any,
        resource_manager: Any = None,
    ) -> int:
        """Commit what stands of a request's block; returns how many of its drafted tokens that were."""
        drafted = self._current.drafted_token(request)
        if drafted is not None:
            request.add_new_token(drafted, _BEAM)
            self._end_when_full(request)
            return 0
        block = self._current.block(request)
        if block is None:
            return int(
                super().process_draft_tokens(
                    request,
                    new_tokens_tensor=new_tokens_tensor,
                    new_tokens_list=new_tokens_list,
                    finish_reasons=finish_reasons,
                    resource_manager=resource_manager,
                )
            )
        return self._commit(request, block) - 1

    def _handle_finish_reasons(self, request: Any, *args: Any, **kwargs: Any) -> bool:
        """Whether a prompt's first token, which has been added, ends the request.

        The base class looks it up in a table that was made for its own sample, and for a request without drafts in the
        wrong row of that table.
        """
        block = self._current.block(request)
        if block is None:
            return bool(super()._handle_finish_reasons(request, *args, **kwargs))
        self._commit(request, block, already_added=1)
        return bool(request.is_finished)

    @staticmethod
    def _apply_embedding_bias(logits: Tensor, requests: Sequence[Any], request_steps: Tensor) -> None:
        """With drafts the base class adds a bias to rows of others, and for some batches fails for everybody."""
        add_biases(logits, requests, request_steps.tolist())

    def _decide(self, scheduled: Any, logits: Tensor, context_rows: Sequence[int]) -> Decisions:
        """What is ours to decide of a batch, before the base class changes its rows: it adds biases in place."""
        requests = scheduled.all_requests()
        if requests and requests[0].py_is_draft:
            drawn = self._drafts.draw(scheduled, logits, context_rows)
            for request in requests:
                if drawn is not None and request.py_request_id in drawn.request_ids:
                    spare(request, _GREEDY)
            return Decisions(drawn=drawn)
        refused: dict[int, str] = {}
        turns = list(self._turns(scheduled, context_rows, refused))
        decided = decide(turns, logits, vocab_size=self._settings.vocab_size)
        decided.broken.update(refused)
        self._drafts.forget()
        return Decisions(decided)

    def _turns(self, scheduled: Any, context_rows: Sequence[int], refused: dict[int, str]) -> Iterator[Turn]:
        for rows in rows_of(scheduled, context_rows):
            request = rows.request
            if request.is_finished or (request.is_context_init_state and not request.is_last_context_chunk):
                continue
            try:
                followed = self._follow(request)
            except ConfigError as error:
                refused[request.py_request_id] = str(error)
                continue
            if followed is not None:
                yield self._turn(rows, followed)

    def _turn(self, rows: RowSpan, followed: Followed) -> Turn:
        request, sequence = rows.request, followed.sequence
        followed.catch_up(request)
        limit = min(sequence.request.sampling.max_tokens, self.max_seq_len - len(sequence.request.prompt_ids))
        # The token that follows a block needs a place too.
        room = min(followed.max_draft_length, limit - sequence.num_emitted - 1)
        return Turn(followed, rows, self._drafts.take(request, followed, room))

    def _follow(self, request: Any) -> Followed | None:
        """A request as one of ours; None where TensorRT-LLM decides for it.

        Raises:
            ConfigError: It asks for what cannot be done, and nobody has allowed the stock verifier to stand in.
        """
        followed = Followed.of(request)
        if followed is not None:
            return followed
        if not is_ours(request):
            reject_unheard(request)
            return None
        try:
            followed = Followed.begin(request, self._settings)
        except Exception as error:  # a rule may be anybody's code: what it raises here would end every other request
            log.exception("request %s cannot be decoded by its rule", request.py_client_id)
            if self._settings.fallback == "stock" and tag_of(request) is None:
                leave(request)
                return None
            if isinstance(error, ConfigError):
                raise
            raise ConfigError("deferral_rule", "of the request", "one that can be made; see the server's log") from None
        self._drafts.follow(followed)
        spare(request, _GREEDY)
        return followed

    def _keeps_promises(self, request: Any) -> bool:
        """See on the first request that it has what we read: its class does not show that.

        Returns:
            False where it has not, and TensorRT-LLM's own verifier is to stand in.

        Raises:
            EngineError: It has not, and nobody has allowed that.
        """
        contract = self._contract
        if contract is None:
            return True
        broken = [str(promise) for promise in check_instance(contract, "LlmRequest", request) if promise.need == "must"]
        if broken:
            give_up(self._settings, f"requests are not as the contract {contract.name} says", broken)
            return False
        self._contract = None
        return True

    def _feed_on(self, requests: Sequence[Any], drawn: Drawn) -> None:
        """Write drafted tokens where the drafter's next forward reads them, behind what the base class wrote there."""
        slot_of = {request.py_request_id: request.py_seq_slot for request in requests}
        store = self.store.new_tokens
        slots = to_device([slot_of[request_id] for request_id in drawn.request_ids], torch.long, store.device)
        store[0, slots, _BEAM] = drawn.token_ids.to(store.dtype)

    def _commit(self, request: Any, block: Block, already_added: int = 0) -> int:
        """Add what stands of a block; returns how many tokens the request has of it."""
        followed = Followed.of(request)
        assert followed is not None
        position = followed.sequence.num_emitted
        added = commit(request, block.token_ids, self._ends(request), already_added=already_added)
        followed.sequence.token_ids += block.token_ids[:added]
        if followed.tag is not None:
            self._reports.append(Report(followed.tag, position, block))
        return added

    def _ends(self, request: Any) -> Callable[[int], bool]:
        return lambda token: bool(
            self._handle_stop_criteria(request, token, max_seq_len=self.max_seq_len, beam_idx=_BEAM)
        )

    def _end_when_full(self, request: Any) -> None:
        """End a drafter's request where its window is full, and never else: a block goes on behind an end token."""
        if request.get_num_tokens(_BEAM) >= self.max_seq_len:
            request.finish_by(FinishReason.LENGTH, _BEAM)

    def _break_off(self, requests: Sequence[Any], broken: dict[int, str]) -> None:
        """End the requests that nothing was decided for, before the base class gives them a token."""
        for request in requests:
            if request.py_request_id not in broken:
                continue
            request.finish_by(FinishReason.CANCELLED, _BEAM)
            followed, tag = Followed.of(request), tag_of(request)
            if tag is not None:
                position = followed.sequence.num_emitted if followed else 0
                self._reports.append(Report(tag, position, None, broken[request.py_request_id]))
