"""`llm.yaml`: what it says, and that it says it in the LLM API's words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

from spec_cascade_build.tensorrt_llm.llm_config import ModelPlace, llm_arguments, llm_yaml
from spec_cascade_build.tensorrt_llm.plan import plan_build
from tests.unit.build.tensorrt_llm.pairs import (
    COMMIT,
    GEMMA_1B,
    GEMMA_27B,
    LLAMA_1B,
    LLAMA_8B,
    PAIR_FILES,
    SHIPPED,
    checked,
    write_pair,
)

if TYPE_CHECKING:
    from pathlib import Path

# Fields of TensorRT-LLM 1.2.1 that may be given: of `TorchLlmArgs`, and of the sections used here. An unknown one ends
# the start of the LLM API.
KNOWN = {
    "": {
        *("model", "tokenizer", "tokenizer_mode", "skip_tokenizer_init", "trust_remote_code", "tensor_parallel_size"),
        *("dtype", "revision", "tokenizer_revision", "pipeline_parallel_size", "context_parallel_size"),
        *("gpus_per_node", "enable_attention_dp", "load_format", "enable_lora", "kv_cache_config"),
        *("enable_chunked_prefill", "guided_decoding_backend", "scheduler_config", "speculative_config"),
        *("max_batch_size", "max_input_len", "max_seq_len", "max_beam_width", "max_num_tokens", "backend"),
        *("gather_generation_logits", "cuda_graph_config", "disable_overlap_scheduler", "attn_backend"),
        *("sampler_type", "enable_autotuner", "stream_interval", "return_perf_metrics"),
    },
    "kv_cache_config": {
        *("enable_block_reuse", "max_tokens", "max_attention_window", "sink_token_length", "host_cache_size"),
        *("free_gpu_memory_fraction", "onboard_blocks", "event_buffer_max_size", "enable_partial_reuse"),
        *("copy_on_partial_reuse", "max_gpu_total_bytes", "dtype", "tokens_per_block"),
    },
    "cuda_graph_config": {"batch_sizes", "max_batch_size", "enable_padding"},
    "speculative_config": {"decoding_type", "max_draft_len", "speculative_model", "max_concurrency"},
}


def arguments(path: Path) -> dict[str, Any]:
    pair, found = checked(path)
    found_yaml: dict[str, Any] = yaml.safe_load(plan_build(pair, found, path.parent, path.parent / "engine").llm_config)
    return found_yaml


@pytest.mark.parametrize("name", PAIR_FILES)
def test_every_name_is_one_of_the_llm_api(name: str) -> None:
    found = arguments(SHIPPED / f"{name}.yaml")
    for section, known in KNOWN.items():
        values = found if not section else found[section]
        assert set(values or {}) <= known


@pytest.mark.parametrize("name", PAIR_FILES)
def test_what_drafts_need_is_always_there(name: str) -> None:
    found = arguments(SHIPPED / f"{name}.yaml")
    assert found["disable_overlap_scheduler"] is True
    assert (found["pipeline_parallel_size"], found["max_beam_width"]) == (1, 1)
    assert found["sampler_type"] == "TorchSampler"
    assert found["speculative_config"]["decoding_type"] == "DraftTarget"
    assert found["kv_cache_config"]["enable_block_reuse"] is False


def test_the_whole_file(tmp_path: Path) -> None:
    path = write_pair(
        tmp_path / "pair.yaml",
        defaults={"draft_length": 3, "max_batch_size": 10},
        tensorrt_llm={
            "tensor_parallel_size": 2,
            "kv_cache": "fp8",
            "enable_block_reuse": True,
            "enable_chunked_prefill": True,
            "max_num_tokens": 4096,
            "max_kv_tokens": 100_000,
        },
    )
    assert arguments(path) == {
        "model": LLAMA_8B,
        "revision": COMMIT,
        "backend": "pytorch",
        "dtype": "bfloat16",
        "trust_remote_code": False,
        "tensor_parallel_size": 2,
        "pipeline_parallel_size": 1,
        "attn_backend": "TRTLLM",
        "sampler_type": "TorchSampler",
        "disable_overlap_scheduler": True,
        "enable_chunked_prefill": True,
        "max_batch_size": 10,
        "max_beam_width": 1,
        "max_num_tokens": 4096,
        "max_seq_len": 8192,
        "kv_cache_config": {
            "dtype": "fp8",
            "enable_block_reuse": True,
            "enable_partial_reuse": True,
            "free_gpu_memory_fraction": 0.95,
            "tokens_per_block": 32,
            "max_tokens": 100_000,
        },
        "cuda_graph_config": {"batch_sizes": [1, 2, 4, 8, 10], "enable_padding": True},
        "speculative_config": {"decoding_type": "DraftTarget", "max_draft_len": 3, "speculative_model": LLAMA_1B},
    }


def test_a_file_is_read_as_it_was_written(tmp_path: Path) -> None:
    pair, found = checked(write_pair(tmp_path / "pair.yaml"))
    assert pair.tensorrt_llm is not None
    places = ModelPlace(name="a/b", revision=COMMIT), ModelPlace(name="/c d/ü")
    written = llm_arguments(pair.tensorrt_llm, pair.defaults, found.memory, *places)
    assert yaml.safe_load(llm_yaml(written)) == written


def test_quantised_models_are_where_the_build_puts_them(tmp_path: Path) -> None:
    found = arguments(write_pair(tmp_path / "pair.yaml", tensorrt_llm={"quantise": "fp8", "quantise_drafter": "none"}))
    assert found["model"] == str(tmp_path / "engine" / "target")
    assert "revision" not in found
    assert found["speculative_config"]["speculative_model"] == LLAMA_1B


def test_graphs_can_be_left_out(tmp_path: Path) -> None:
    found = arguments(write_pair(tmp_path / "pair.yaml", tensorrt_llm={"cuda_graph_batch_sizes": []}))
    assert found["cuda_graph_config"] is None


def test_where_gpus_share_heads_the_cache_is_limited(tmp_path: Path) -> None:
    path = write_pair(
        tmp_path / "pair.yaml",
        target={"hub": GEMMA_27B},
        drafter={"hub": GEMMA_1B},
        tensorrt_llm={"gpu": "H200", "tensor_parallel_size": 2, "attention_backend": "FLASHINFER"},
    )
    _, found = checked(path)
    assert arguments(path)["kv_cache_config"]["max_tokens"] == found.memory.kv_tokens
