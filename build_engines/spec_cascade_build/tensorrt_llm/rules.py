"""What a pair file of `engine: tensorrt_llm` may say: everything that needs no look at the models."""

from __future__ import annotations

from typing import TYPE_CHECKING

from spec_cascade_build.section import refusal

if TYPE_CHECKING:
    from spec_cascade_build.pair import Pair
    from spec_cascade_build.tensorrt_llm.section import TensorrtLlmSection

_MODEL = "a model: {hub: ...} or {path: ...}"


def check_settings(pair: Pair, section: TensorrtLlmSection) -> None:
    """Refuse what this engine cannot do.

    Raises:
        PydanticCustomError: Of a field; see `section.refusal`.
    """
    if pair.dtype != "bfloat16":
        raise refusal("dtype", pair.dtype, "'bfloat16': TensorRT-LLM scores drafts with 16-bit attention kernels")
    for whose, source in (("target", pair.target), ("drafter", pair.drafter)):
        if source is not None and source.package is not None:
            raise refusal(f"{whose}.package", source.package.name, f"left out: TensorRT-LLM loads {_MODEL}")
        if source is not None and source.path is not None and source.path.endswith(".gguf"):
            raise refusal(f"{whose}.path", source.path, "a checkpoint directory: TensorRT-LLM reads no GGUF file")
    _check_drafter(pair)
    _check_defaults(pair)
    sizes = section.cuda_graph_batch_sizes or ()
    if sizes and sizes[-1] > pair.defaults.max_batch_size:
        limit = f"at most max_batch_size, which is {pair.defaults.max_batch_size}"
        raise refusal("tensorrt_llm.cuda_graph_batch_sizes", list(sizes), limit)


def _check_drafter(pair: Pair) -> None:
    drafter = pair.drafter
    if drafter is None:
        raise refusal("drafter", "none", f"{_MODEL}: without drafts, serve the target with TensorRT-LLM itself")
    for name in ("prune", "make", "prompt_lookup"):
        written = getattr(drafter, name)
        if written is not None:
            allowed = f"left out: TensorRT-LLM drafts with {_MODEL}"
            raise refusal(f"drafter.{name}", written.model_dump(exclude_unset=True), allowed)


def _check_defaults(pair: Pair) -> None:
    defaults = pair.defaults
    given = defaults.model_fields_set
    if defaults.draft_length == -1:
        allowed = "an integer >= 1: TensorRT-LLM drafts as many tokens in every round"
        raise refusal("defaults.draft_length", "auto", allowed)
    if defaults.draft_length == 0:
        raise refusal("defaults.draft_length", 0, "an integer >= 1")
    if "max_draft_length" in given and defaults.max_draft_length != defaults.draft_length:
        allowed = (
            f"left out, or draft_length, which is {defaults.draft_length}: TensorRT-LLM drafts as many for everybody"
        )
        raise refusal("defaults.max_draft_length", defaults.max_draft_length, allowed)
    if "fallback" in given and defaults.fallback:
        raise refusal("defaults.fallback", True, "false or left out: TensorRT-LLM drafts in every round")
    if defaults.draft_confidence:
        raise refusal("defaults.draft_confidence", defaults.draft_confidence, "0: TensorRT-LLM ends no draft early")
    if "prefill_chunk" in given:
        allowed = "left out: its counterpart is tensorrt_llm.max_num_tokens"
        raise refusal("defaults.prefill_chunk", defaults.prefill_chunk, allowed)
