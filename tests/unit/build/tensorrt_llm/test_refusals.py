"""Every wrong configuration is refused with the field, its value and what is allowed; no GPU is asked."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from spec_cascade.errors import ConfigError
from spec_cascade_build.pair import load_pair
from spec_cascade_build.pair_error import PairError
from spec_cascade_build.tensorrt_llm.gpus import GPUS
from tests.unit.build.tensorrt_llm.pairs import (
    CHECKPOINTS,
    GEMMA_1B,
    GEMMA_27B,
    LLAMA_1B,
    LLAMA_8B,
    LLAMA_70B,
    checked,
    write_pair,
)

if TYPE_CHECKING:
    from pathlib import Path

# What the pair file alone shows.
FILE: dict[str, tuple[dict[str, Any], str]] = {
    "no section": (
        {"tensorrt_llm": None},
        "tensorrt_llm = None is not allowed: must be a mapping: {gpu: ..., ...}, what the pair is planned for",
    ),
    "a section of another engine": (
        {"engine": "pytorch"},
        "tensorrt_llm = {'gpu': 'H100'} is not allowed: must be left out: the engine is 'pytorch'",
    ),
    "no gpu": (
        {"tensorrt_llm": {"gpu": 80}},
        "tensorrt_llm.gpu = 80 is not allowed: must be the name of a GPU (H100, H200, B200, L40S, ...), or this",
    ),
    "a misspelt field": (
        {"tensorrt_llm": {"tensor_paralel_size": 2}},
        "tensorrt_llm.tensor_paralel_size is not a field (did you mean 'tensor_parallel_size'?): must be one of gpu, "
        "tensor_parallel_size, pipeline_parallel_size, quantise, quantise_drafter, calibration_size, "
        "calibration_dataset, kv_cache, enable_block_reuse, max_kv_tokens, free_gpu_memory_fraction, "
        "free_memory_margin_gib, max_num_tokens, enable_chunked_prefill, cuda_graph_batch_sizes, attention_backend, "
        "overlap_scheduler, guided_decoding, beam_width",
    ),
    "overlap": (
        {"tensorrt_llm": {"overlap_scheduler": True}},
        "tensorrt_llm.overlap_scheduler = True is not allowed: must be false: where rounds overlap, TensorRT-LLM keeps "
        "drafts that equal the target's tokens, and no rule is asked",
    ),
    "pipeline parallel": (
        {"tensorrt_llm": {"pipeline_parallel_size": 2}},
        "tensorrt_llm.pipeline_parallel_size = 2 is not allowed: must be 1: TensorRT-LLM does not draft across "
        "pipeline stages; split with tensor_parallel_size",
    ),
    "guided decoding": (
        {"tensorrt_llm": {"guided_decoding": "xgrammar"}},
        "tensorrt_llm.guided_decoding = 'xgrammar' is not allowed: must be none: a grammar is followed by "
        "TensorRT-LLM's own verifier only, not by a rule",
    ),
    "beams": (
        {"tensorrt_llm": {"beam_width": 4}},
        "tensorrt_llm.beam_width = 4 is not allowed: must be 1: beams are not drafted",
    ),
    "a quantisation that ModelOpt is not asked for": (
        {"tensorrt_llm": {"quantise": "int4_awq"}},
        "tensorrt_llm.quantise = 'int4_awq' is not allowed: must be 'none', 'fp8' or 'nvfp4'",
    ),
    "a fraction of 1": (
        {"tensorrt_llm": {"free_gpu_memory_fraction": 1.0}},
        "tensorrt_llm.free_gpu_memory_fraction = 1.0 is not allowed: must be a number in (0, 1), or left out to have "
        "it planned",
    ),
    "graphs in disorder": (
        {"tensorrt_llm": {"cuda_graph_batch_sizes": [4, 2]}},
        "tensorrt_llm.cuda_graph_batch_sizes = [4, 2] is not allowed: must be in ascending order without repeats",
    ),
    "graphs of batches that do not occur": (
        {"tensorrt_llm": {"cuda_graph_batch_sizes": [1, 64]}},
        "tensorrt_llm.cuda_graph_batch_sizes = [1, 64] is not allowed: must be at most max_batch_size, which is 32",
    ),
    "float32": (
        {"dtype": "float32"},
        "dtype = 'float32' is not allowed: must be 'bfloat16': TensorRT-LLM scores drafts with 16-bit attention "
        "kernels",
    ),
    "compiled for a processor": (
        {"compile": True},
        "compile = True is not allowed: must be left out: the engine 'tensorrt_llm' compiles for no processor",
    ),
    "a drafter in eight bits": (
        {"compile": True, "int8_drafter": True, "engine": "tensorrt_llm"},
        "compile = True is not allowed: must be left out: the engine 'tensorrt_llm' compiles for no processor",
    ),
    "no drafter": (
        {"drafter": "none", "defaults": {"draft_length": 0}},
        "drafter = 'none' is not allowed: must be a model: {hub: ...} or {path: ...}: without drafts, serve the target "
        "with TensorRT-LLM itself",
    ),
    "prompt lookup": (
        {"drafter": {"prompt_lookup": {}}},
        "drafter.prompt_lookup = {} is not allowed: must be left out: TensorRT-LLM drafts with a model: "
        "{hub: ...} or {path: ...}",
    ),
    "a pruned target": (
        {"drafter": {"prune": {"layers": [0, 1]}}},
        "drafter.prune = {'layers': (0, 1)} is not allowed: must be left out: TensorRT-LLM "
        "drafts with a model: {hub: ...} or {path: ...}",
    ),
    "a made drafter": (
        {"drafter": {"make": {"directory": "x", "layers": [0]}}},
        "drafter.make = {'directory': 'x', 'layers': (0,)} is not allowed: must be left out: TensorRT-LLM "
        "drafts with a model: {hub: ...} or {path: ...}",
    ),
    "a model in a wheel": (
        {"target": {"package": {"name": "m", "version": "1", "sha256": "0" * 64, "file": "*.gguf"}}},
        "target.package = 'm' is not allowed: must be left out: TensorRT-LLM loads a model: {hub: ...} or {path: ...}",
    ),
    "a GGUF file": (
        {"target": {"path": "m.gguf"}},
        "target.path = 'm.gguf' is not allowed: must be a checkpoint directory: TensorRT-LLM reads no GGUF file",
    ),
    "automatic draft length": (
        {"defaults": {"draft_length": "auto"}},
        "defaults.draft_length = 'auto' is not allowed: must be an integer >= 1: TensorRT-LLM drafts as many tokens in "
        "every round",
    ),
    "no drafts": (
        {"defaults": {"draft_length": 0}},
        "defaults.draft_length = 0 is not allowed: must be an integer >= 1",
    ),
    "longer drafts on request": (
        {"defaults": {"max_draft_length": 8}},
        "defaults.max_draft_length = 8 is not allowed: must be left out, or draft_length, which is 4: TensorRT-LLM "
        "drafts as many for everybody",
    ),
    "fallback": (
        {"defaults": {"fallback": True}},
        "defaults.fallback = True is not allowed: must be false or left out: TensorRT-LLM drafts in every round",
    ),
    "a draft that ends early": (
        {"defaults": {"draft_confidence": 0.3}},
        "defaults.draft_confidence = 0.3 is not allowed: must be 0: TensorRT-LLM ends no draft early",
    ),
    "a chunk of the other engine": (
        {"defaults": {"prefill_chunk": 256}},
        "defaults.prefill_chunk = 256 is not allowed: must be left out: its counterpart is tensorrt_llm.max_num_tokens",
    ),
}

_ROWS_27B = {"target": {"hub": GEMMA_27B, "revision": "main"}, "drafter": {"hub": GEMMA_1B}}
# What the models and the GPU add.
MODELS: dict[str, tuple[dict[str, Any], str]] = {
    "an unknown GPU": (
        {"tensorrt_llm": {"gpu": "H10"}},
        "tensorrt_llm.gpu = 'H10' is not allowed: must be one of A100-40GB, A100, L4, L40S, H100, H100-NVL, H200, "
        "B200, GB200, RTX-PRO-6000, or this (did you mean 'H100'?)",
    ),
    "fp8 on Ampere": (
        {"tensorrt_llm": {"gpu": "A100", "quantise": "fp8"}},
        "tensorrt_llm.quantise = 'fp8' is not allowed: must be 'none' on A100 (compute capability 8.0)",
    ),
    "nvfp4 on Hopper": (
        {"tensorrt_llm": {"quantise": "none", "quantise_drafter": "nvfp4"}},
        "tensorrt_llm.quantise_drafter = 'nvfp4' is not allowed: must be 'none' or 'fp8' on H100 (compute capability "
        "9.0)",
    ),
    "an fp8 cache on Ampere": (
        {"tensorrt_llm": {"gpu": "A100", "kv_cache": "fp8"}},
        "tensorrt_llm.kv_cache = 'fp8' is not allowed: must be 'auto' on A100 (compute capability 8.0)",
    ),
    "heads that do not divide": (
        {**_ROWS_27B, "tensorrt_llm": {"tensor_parallel_size": 8, "attention_backend": "FLASHINFER"}},
        "tensorrt_llm.tensor_parallel_size = 8 is not allowed: must be one of 1, 2, 4: the drafter has 4 "
        "attention heads",
    ),
    "three GPUs": (
        {"tensorrt_llm": {"tensor_parallel_size": 3}},
        "tensorrt_llm.tensor_parallel_size = 3 is not allowed: must be one of 1, 2, 4, 8, 16: the target has 32 "
        "attention heads",
    ),
    "a context that is too long": (
        {**_ROWS_27B, "defaults": {"max_seq_len": 65536}, "tensorrt_llm": {"gpu": "H200"}},
        "defaults.max_seq_len = 65536 is not allowed: must be at most 32768, the drafter's max_position_embeddings",
    ),
    "too few tokens for a round": (
        {"defaults": {"max_seq_len": 128}, "tensorrt_llm": {"max_num_tokens": 128}},
        "tensorrt_llm.max_num_tokens = 128 is not allowed: must be at least 160: a round scores 5 tokens of each of 32 "
        "requests",
    ),
    "prompts that do not go through": (
        {"defaults": {"max_seq_len": 16384}},
        "tensorrt_llm.max_num_tokens = 8192 is not allowed: must be at least defaults.max_seq_len, which is 16384, or "
        "enable_chunked_prefill: true beside it",
    ),
    "an attention that the model does not have": (
        _ROWS_27B,
        "tensorrt_llm.attention_backend = 'TRTLLM' is not allowed: must be 'FLASHINFER': the attention that "
        "TensorRT-LLM gives Gemma3ForConditionalGeneration",
    ),
    "argmax drafts with FlashInfer": (
        {"defaults": {"draft_mode": "argmax"}, "tensorrt_llm": {"attention_backend": "FLASHINFER"}},
        "defaults.draft_mode = 'argmax' is not allowed: must be 'sampled': with FLASHINFER TensorRT-LLM asks its "
        "sampler for every drafted token",
    ),
    "shared prefixes with FlashInfer": (
        {"tensorrt_llm": {"attention_backend": "FLASHINFER", "enable_block_reuse": True}},
        "tensorrt_llm.enable_block_reuse = True is not allowed: must be false with attention_backend FLASHINFER",
    ),
    "shared prefixes with windows": (
        {"target": {"hub": GEMMA_1B}, "drafter": {"hub": GEMMA_1B}, "tensorrt_llm": {"enable_block_reuse": True}},
        "tensorrt_llm.enable_block_reuse = True is not allowed: must be false: sharing prefixes is not exact in "
        "TensorRT-LLM where layers have sliding windows",
    ),
    "a drafter that is wider": (
        {
            "target": {"hub": LLAMA_8B},
            "drafter": {"hub": "Qwen/Qwen3-0.6B"},
            "defaults": {"draft_mode": "argmax", "max_seq_len": 4096},
        },
        "defaults.draft_mode = 'argmax' is not allowed: must be 'sampled': the drafter has 151936 logits and the "
        "target 128256, and TensorRT-LLM takes the argmax of all of them",
    ),
    "a model that does not fit": (
        {"target": {"hub": LLAMA_70B}, "defaults": {"max_batch_size": 4}},
        "tensorrt_llm.gpu = 'H100' is not allowed: must be a GPU with more memory: 139.7 GiB are needed before the "
        "first token of KV, it has 79.6: tensor_parallel_size: 2 or gpu: B200 would fit",
    ),
    "a request that does not fit": (
        {
            "target": {"hub": LLAMA_70B},
            "defaults": {"max_batch_size": 4, "max_seq_len": 131072},
            "tensorrt_llm": {"tensor_parallel_size": 2, "enable_chunked_prefill": True},
        },
        "defaults.max_seq_len = 131072 is not allowed: must be less, for 38016 tokens of KV fit on 2 x H100: "
        "a max_seq_len of at most 38012 or tensor_parallel_size: 4 or gpu: H200 would fit",
    ),
    "a cache that is cut too short": (
        {"tensorrt_llm": {"max_kv_tokens": 4096}},
        "tensorrt_llm.max_kv_tokens = 4096 is not allowed: must be at least 8224, which one request of "
        "defaults.max_seq_len takes",
    ),
    "a fraction that is too small": (
        {"tensorrt_llm": {"free_gpu_memory_fraction": 0.01}},
        "tensorrt_llm.free_gpu_memory_fraction = 0.01 is not allowed: must be larger or left out: it holds 3712 tokens "
        "of KV, and one request of defaults.max_seq_len takes 8224",
    ),
    "a fraction that holds not one token": (
        {"tensorrt_llm": {"free_gpu_memory_fraction": 0.00001}},
        "tensorrt_llm.free_gpu_memory_fraction = 1e-05 is not allowed: must be larger or left out: it holds 0 tokens "
        "of KV, and one request of defaults.max_seq_len takes 8224",
    ),
    "a fraction that leaves nothing for drafts": (
        {"defaults": {"max_batch_size": 512}, "tensorrt_llm": {"free_gpu_memory_fraction": 0.95}},
        "tensorrt_llm.free_gpu_memory_fraction = 0.95 is not allowed: must be at most 0.74: rounds with drafts need "
        "the rest",
    ),
}


@pytest.mark.parametrize("case", FILE)
def test_a_wrong_file_is_refused_when_it_is_read(tmp_path: Path, case: str) -> None:
    change, message = FILE[case]
    path = write_pair(tmp_path / "pair.yaml", **change)
    with pytest.raises(PairError) as caught:
        load_pair(path)
    assert str(caught.value) == f"{path}: {message}"


@pytest.mark.parametrize("case", MODELS)
def test_what_does_not_fit_is_refused_by_a_check(tmp_path: Path, case: str) -> None:
    change, message = MODELS[case]
    path = write_pair(tmp_path / "pair.yaml", **change)
    with pytest.raises(ConfigError) as caught:
        checked(path)
    assert str(caught.value) == f"{path}: {message}"


def test_what_would_fit_does(tmp_path: Path) -> None:
    base = {"target": {"hub": LLAMA_70B}, "defaults": {"max_batch_size": 4}}
    for advised in ({"tensor_parallel_size": 2}, {"gpu": "B200"}):
        assert checked(write_pair(tmp_path / "a.yaml", **base, tensorrt_llm=advised))[1].memory.sequences > 0
    longest = {"max_batch_size": 4, "max_seq_len": 38012}
    section = {"tensor_parallel_size": 2, "enable_chunked_prefill": True}
    path = write_pair(tmp_path / "b.yaml", target={"hub": LLAMA_70B}, defaults=longest, tensorrt_llm=section)
    assert checked(path)[1].memory.sequences == 1


@pytest.mark.parametrize(
    ("quantised", "section", "message"),
    [
        (
            {"quant_algo": "NVFP4"},
            {},
            "tensorrt_llm.gpu = 'H100' is not allowed: must be one that computes in NVFP4, as the target is quantised",
        ),
        (
            {"quant_algo": "FP8"},
            {"quantise": "fp8"},
            "tensorrt_llm.quantise = 'fp8' is not allowed: must be 'none': the target is quantised already (FP8)",
        ),
        (
            {"quant_algo": "FP8", "kv_cache_quant_algo": "NVFP4"},
            {"gpu": "B200", "kv_cache": "fp8"},
            "tensorrt_llm.kv_cache = 'fp8' is not allowed: must be 'auto': the target's KV cache is in NVFP4",
        ),
    ],
)
def test_a_quantised_checkpoint_has_to_fit(
    tmp_path: Path, quantised: dict[str, str], section: dict[str, str], message: str
) -> None:
    shutil.copytree(CHECKPOINTS / LLAMA_8B, tmp_path / "target")
    (tmp_path / "target" / "hf_quant_config.json").write_text(json.dumps({"quantization": quantised}))
    path = write_pair(tmp_path / "pair.yaml", target={"path": "target"}, tensorrt_llm=section)
    with pytest.raises(PairError) as caught:
        checked(path)
    assert str(caught.value) == f"{path}: {message}"


def test_this_gpu_is_asked_of_the_machine(tmp_path: Path) -> None:
    path = write_pair(tmp_path / "pair.yaml", tensorrt_llm={"gpu": "this"})
    with pytest.raises(PairError, match=r"tensorrt_llm\.gpu = 'this' .* this machine has none"):
        checked(path, present=list)
    assert checked(path, present=lambda: [GPUS["L40S"]])[1].memory.gpu.name == "L40S"


def test_an_older_gpu_is_refused(tmp_path: Path) -> None:
    from spec_cascade.engines.tensorrt_llm.gpus import Gpu

    path = write_pair(tmp_path / "pair.yaml", target={"hub": LLAMA_1B}, tensorrt_llm={"gpu": "this"})
    with pytest.raises(PairError, match=r"tensorrt_llm\.gpu = 'V100' .* compute capability 8\.0 or later"):
        checked(path, present=lambda: [Gpu("V100", 32 << 30, (7, 0))])
