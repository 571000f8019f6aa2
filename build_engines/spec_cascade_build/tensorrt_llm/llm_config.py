"""`llm.yaml`: the arguments of TensorRT-LLM 1.2.x's LLM API for a pair.

Stock tools read it as it is (`trtllm-serve`, `trtllm-bench`, Triton's `llmapi` model). The engine takes the models'
places from the manifest, which pins both: the LLM API has a revision for the target only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import yaml

from spec_cascade_build.tensorrt_llm.memory import TOKENS_PER_BLOCK

if TYPE_CHECKING:
    from spec_cascade_build.pair import PairDefaults
    from spec_cascade_build.tensorrt_llm.memory import MemoryPlan
    from spec_cascade_build.tensorrt_llm.section import TensorrtLlmSection

_HEAD = """\
# Arguments of tensorrt_llm.LLM (1.2.x), written by spec-cascade build; spec-cascade puts its verifier behind them.
# Changed by hand, they no longer have the hash that the manifest knows: change the pair file and build again.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPlace:
    """Where the LLM API finds a model.

    Attributes:
        name: A hub id, or the path of a directory.
        revision: The commit of a hub model; None for a directory, and where it is not known yet.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        """As one word: ``org/name@commit``."""
        return self.name if self.revision is None else f"{self.name}@{self.revision}"


def llm_arguments(
    section: TensorrtLlmSection,
    defaults: PairDefaults,
    memory: MemoryPlan,
    target: ModelPlace,
    drafter: ModelPlace,
) -> dict[str, Any]:
    """The arguments, as YAML would have them.

    Args:
        section: What the pair file says of this engine.
        defaults: Its defaults and limits.
        memory: The memory plan.
        target: Where the target is.
        drafter: Where the drafter is.
    """
    revision = {} if target.revision is None else {"revision": target.revision}
    return {
        "model": target.name,
        **revision,
        "backend": "pytorch",
        "dtype": "bfloat16",
        "trust_remote_code": False,
        "tensor_parallel_size": section.tensor_parallel_size,
        "pipeline_parallel_size": 1,
        "attn_backend": section.attention_backend,
        "sampler_type": "TorchSampler",
        "disable_overlap_scheduler": True,
        "enable_chunked_prefill": section.enable_chunked_prefill,
        "max_batch_size": defaults.max_batch_size,
        "max_beam_width": 1,
        "max_num_tokens": section.max_num_tokens,
        "max_seq_len": defaults.max_seq_len,
        "kv_cache_config": _kv_cache(section, memory),
        "cuda_graph_config": _cuda_graphs(section.graph_batch_sizes(defaults.max_batch_size)),
        "speculative_config": {
            "decoding_type": "DraftTarget",
            "max_draft_len": defaults.draft_length,
            "speculative_model": drafter.name,
        },
    }


def _kv_cache(section: TensorrtLlmSection, memory: MemoryPlan) -> dict[str, Any]:
    return {
        "dtype": section.kv_cache,
        "enable_block_reuse": section.enable_block_reuse,
        "enable_partial_reuse": section.enable_block_reuse,
        "free_gpu_memory_fraction": memory.free_fraction,
        "tokens_per_block": TOKENS_PER_BLOCK,
        **({} if memory.max_tokens is None else {"max_tokens": memory.max_tokens}),
    }


def _cuda_graphs(sizes: tuple[int, ...]) -> dict[str, Any] | None:
    """Of batch sizes and the largest one TensorRT-LLM wants only one."""
    return {"batch_sizes": list(sizes), "enable_padding": True} if sizes else None


def llm_yaml(arguments: dict[str, Any]) -> str:
    """The content of `llm.yaml`."""
    return _HEAD + yaml.safe_dump(arguments, sort_keys=False)
