"""What TensorRT-LLM is told of a request: in its own parameters, and beside them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.tensorrt_llm.carrier import CascadeParams

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from spec_cascade.decoding.sampling import SamplingParams
    from spec_cascade.decoding.sequence import Sequence as LiveSequence
    from spec_cascade.engines.admission import Admission


@dataclass(frozen=True, slots=True)
class Translation:
    """Makes TensorRT-LLM's parameters of ours.

    Attributes:
        make_params: ``tensorrt_llm.SamplingParams``.
        admission: What made the requests sequences.
        end_ids: The target's own end tokens.
    """

    make_params: Callable[..., Any]
    admission: Admission
    end_ids: tuple[int, ...]

    def params(self, sequence: LiveSequence, tag: int) -> Any:
        """The parameters of a request, with those that travel beside them.

        Args:
            sequence: The request's.
            tag: By which its reports are known.

        Raises:
            ConfigError: It has bad words, and there is no tokenizer.
        """
        sampling = sequence.request.sampling
        own = self._own(sampling)
        return self.make_params(
            end_id=own[0] if own else -1,
            pad_id=own[0] if own else 0,
            ignore_eos=not own,
            stop_token_ids=[*own[1:], *sampling.stop_token_ids] or None,
            include_stop_str_in_output=True,
            max_tokens=self.admission.stop.room(len(sequence.request.prompt_ids), 0, sampling),
            temperature=sampling.temperature,
            top_k=sampling.top_k or None,
            top_p=sampling.top_p,
            detokenize=False,
            logits_processor=CascadeParams(
                tag=tag,
                rule=str(sequence.rule),
                # It has been parsed in this process, and whoever did so has seen to what it may import.
                trusted=True,
                draft_length=sequence.draft_length,
                seed=sampling.seed,
                min_p=sampling.min_p,
                repetition_penalty=sampling.repetition_penalty,
                presence_penalty=sampling.presence_penalty,
                frequency_penalty=sampling.frequency_penalty,
                bad_word_ids=tuple(self.admission.banned(sampling.bad_words)),
                end_ids=tuple(sorted(self.admission.stop.end_ids(sampling))),
                min_tokens=sampling.min_tokens,
                log_probs=sampling.log_probs,
            ),
        )

    def says_stop(self, sampling: SamplingParams, token_ids: Sequence[int]) -> bool:
        """Whether TensorRT-LLM ends a request by itself that stops with these tokens.

        It looks for end and stop tokens, unless it is told to ignore the end; stop strings it does not know.
        """
        return bool(self._own(sampling) and token_ids and token_ids[-1] in self.admission.stop.end_ids(sampling))

    def _own(self, sampling: SamplingParams) -> tuple[int, ...]:
        return () if sampling.ignore_eos else self.end_ids
