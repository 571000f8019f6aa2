"""The fake of TensorRT-LLM, and ours on it, as if this process had just begun."""

from __future__ import annotations

import importlib
import inspect
import sys
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.tensorrt_llm import injection
from tests.trtllm_fake.install import installed

if TYPE_CHECKING:
    from collections.abc import Iterator

# It is a subclass of a class of TensorRT-LLM's, and those are new ones each time.
_BOUND_TO_IT = "spec_cascade.engines.tensorrt_llm.sampler"


@contextmanager
def playing(shape: str) -> Iterator[ModuleType]:
    """Play TensorRT-LLM; at the end nothing of it is left, and nothing is active.

    Args:
        shape: See `installed`.
    """
    sys.modules.pop(_BOUND_TO_IT, None)
    try:
        with installed(shape, threaded=False) as package:
            yield package
            injection.deactivate()
    finally:
        sys.modules.pop(_BOUND_TO_IT, None)


def part(name: str) -> ModuleType:
    """A module of TensorRT-LLM's PyTorch workflow."""
    return importlib.import_module(f"tensorrt_llm._torch.{name}")


def _arguments(creator: ModuleType, **changes: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What the creator gives the sampler's maker, in the way that this shape does."""
    from tensorrt_llm.mapping import Mapping

    mode = part("speculative.interface").SpeculativeDecodingMode.DRAFT_TARGET
    speculative = SimpleNamespace(
        spec_dec_mode=changes.pop("mode", mode),
        max_draft_len=3,
        max_total_draft_tokens=3,
        max_concurrency=None,
        _allow_chain_drafter=True,
        _allow_greedy_draft_tokens=True,
    )
    settings = SimpleNamespace(
        disable_overlap_scheduler=changes.pop("disable_overlap_scheduler", True),
        disable_flashinfer_sampling=True,
        sampler_force_async_worker=False,
        attn_backend="TRTLLM",
        sampler_type="auto",
        guided_decoding_backend=None,
    )
    config = SimpleNamespace(is_generation=changes.pop("is_generation", True))
    engine = SimpleNamespace(max_seq_len=64, spec_config=speculative, model=SimpleNamespace(model_config=config))
    mapping = Mapping(
        rank=changes.pop("rank", 0),
        cp_size=changes.pop("cp_size", 1),
        enable_attention_dp=changes.pop("enable_attention_dp", False),
    )
    keywords = {
        "max_batch_size": 4,
        "max_beam_width": 1,
        "max_seq_len": 64,
        "mm_encoder_only": False,
        "speculative_config": speculative,
        "decoding_config": None,
        "kv_cache_config": None,
        "disable_flashinfer_sampling": True,
        **changes,
    }
    known = inspect.signature(creator.instantiate_sampler).parameters
    return (engine, settings, mapping), {name: value for name, value in keywords.items() if name in known}


def make(creator: ModuleType, **changes: Any) -> Any:
    """Have a sampler made as the creator does, of an engine that we support but for some changes."""
    positional, keywords = _arguments(creator, **changes)
    return creator.instantiate_sampler(*positional, **keywords)
