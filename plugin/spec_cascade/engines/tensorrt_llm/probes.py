"""Small experiments on TensorRT-LLM's code, without a model and without a GPU: what signatures cannot tell."""

from __future__ import annotations

from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Modules = Mapping[str, ModuleType | str]


def _draft_token_length(modules: Modules) -> bool:
    """Whether the draft length is the number of draft tokens, padding included, and 0 where there is no list."""
    length = modules["sampler"].get_draft_token_length  # type: ignore[union-attr]
    lists: tuple[list[int] | None, ...] = ([], [7], [7, 0, 0], None)
    return all(length(SimpleNamespace(py_draft_tokens=tokens)) == len(tokens or ()) for tokens in lists)


class _Request:
    """As much of a request as the stop criteria read: tokens 1, 2, 3, of which two are the prompt's."""

    def __init__(self, *, end_id: int, max_new_tokens: int, stop_words: Any = None) -> None:
        self.py_end_id = end_id
        self.py_orig_prompt_len = 2
        self.py_max_new_tokens = max_new_tokens
        self.py_stop_words_list = stop_words
        self.reason: str | None = None

    def get_tokens(self, _beam: int) -> list[int]:
        return [1, 2, 3]

    def get_num_tokens(self, _beam: int) -> int:
        return 3

    def finish_by(self, reason: Any, _beam: int) -> None:
        self.reason = reason.name


def _stop_criteria(modules: Modules) -> bool:
    """Whether a committed token ends a request by the end token, the length or a stop word, in this order of rank."""
    criteria = modules["sampler"].TorchSampler._handle_stop_criteria  # type: ignore[union-attr]
    words = [[3], [1]]
    expected = {
        None: _Request(end_id=9, max_new_tokens=5),
        "END_ID": _Request(end_id=3, max_new_tokens=1, stop_words=words),
        "LENGTH": _Request(end_id=9, max_new_tokens=1, stop_words=words),
        "STOP_WORDS": _Request(end_id=-1, max_new_tokens=5, stop_words=words),
    }
    return all(
        bool(criteria(request, 3, max_seq_len=100, beam_idx=0)) == (reason is not None) and request.reason == reason
        for reason, request in expected.items()
    )


def _sample_values(modules: Modules) -> int:
    """How many values ``sample`` returns."""
    return len(_greedy_sample(modules))


def _greedy_probs(modules: Modules) -> str:
    """What ``sample`` calls the probabilities of a greedy choice."""
    import torch

    found = _greedy_sample(modules)[1]
    softmax = torch.softmax(_logits(), dim=-1)
    for name, rows in (("one_hot", torch.tensor([[0.0, 1.0, 0.0]])), ("softmax", softmax)):
        if torch.allclose(found.float().cpu(), rows):
            return name
    return "neither"


def _logits() -> Any:
    import torch

    return torch.tensor([[0.0, 2.0, 1.0]])


def _greedy_sample(modules: Modules) -> Any:
    return modules["sampling_utils"].sample(("greedy", None), _logits())  # type: ignore[union-attr]


PROBES: dict[str, Callable[[Modules], str | int | bool]] = {
    "draft_token_length": _draft_token_length,
    "stop_criteria": _stop_criteria,
    "sample_values": _sample_values,
    "greedy_probs": _greedy_probs,
}
"""By the names that contracts know them by."""
