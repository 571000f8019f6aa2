"""The fake of TensorRT-LLM has the names and signatures of the sources, and takes them away with it."""

from __future__ import annotations

import importlib
import inspect
import sys

import pytest

from tests.trtllm_fake import SHAPES, installed

SIGNATURES = {
    "pyexecutor.py_executor_creator:create_py_executor": "llm_args checkpoint_dir tokenizer profiling_stage_data",
    "pyexecutor.sampler:TorchSampler": "args",
    "pyexecutor.sampler:TorchSampler.sample_async": (
        "self scheduled_requests model_outputs num_context_logits_prefix_sum resource_manager"
    ),
    "pyexecutor.sampler:TorchSampler.update_requests": "self state resource_manager",
    "pyexecutor.sampler:TorchSampler.process_draft_tokens": (
        "self request new_tokens_tensor new_tokens_list finish_reasons resource_manager"
    ),
    "pyexecutor.sampler:TorchSampler._handle_stop_criteria": "request new_token * max_seq_len beam_idx",
    "pyexecutor.sampler:TorchSampler._speculation_could_use_rejection_sampling": "request strategy",
    "pyexecutor.sampler:TorchSampler.finish_if_reason": "self request finish_reasons * step beam_idx",
    "pyexecutor.sampler:TorchSampler._handle_finish_reasons": "self request finish_reasons finish_reasons_list",
    "pyexecutor.sampler:TorchSampler.should_provide_draft_probs": "self request",
    "pyexecutor.sampler:add_token": "request new_tokens * beam_idx step",
    "pyexecutor.sampling_utils:sample": "strategy logits * generator group_metadata return_probs",
    "pyexecutor.llm_request:get_draft_token_length": "request",
    "pyexecutor.py_executor:PyExecutor._sample_async": "self scheduled_batch batch_outputs",
    "speculative:get_spec_drafter": "model_engine draft_model_engine sampler spec_resource_manager guided_decoder",
    "speculative.model_drafter:ModelDrafter.prepare_draft_tokens": "self scheduled_requests resource_manager",
    "speculative.drafter:Drafter.pad_draft_tokens_for_cuda_graph": "self scheduled_requests",
}
BEFORE_1_2_0 = {
    "pyexecutor._util:instantiate_sampler": (
        "engine pytorch_backend_config mapping max_batch_size max_beam_width max_seq_len mm_encoder_only "
        "speculative_config decoding_config kv_cache_config"
    ),
    "speculative.model_drafter:ModelDrafter.process_static_draft_outputs": (
        "self outputs draft_batch req_id_to_old_request"
    ),
}
SINCE_1_2_0 = {
    "pyexecutor._util:instantiate_sampler": (
        "engine llm_args mapping * max_batch_size max_beam_width max_seq_len mm_encoder_only speculative_config "
        "decoding_config kv_cache_config disable_flashinfer_sampling"
    ),
    "pyexecutor.sampler:TorchSampler._select_generated_logits": (
        "scheduled_requests raw_logits_cuda * num_context_logits_prefix_sum"
    ),
    "pyexecutor.sampler:TorchSampler._can_use_fast_greedy_path": "self requests",
    "pyexecutor.sampler:TorchSampler._copy_to_host": "self src",
    "speculative.model_drafter:ModelDrafter.process_static_draft_outputs": "self outputs draft_batch",
    "speculative.model_drafter:ModelDrafter.process_decoded_tokens": (
        "self draft_batch draft_position cleanup_resources"
    ),
}
BEFORE_1_3_0 = {
    "pyexecutor.sampler:TorchSampler.handle_logprobs": "self request * count",
    "pyexecutor.sampler:TorchSampler.setup_sampler_step": "self requests",
}
SINCE_1_3_0 = {
    "pyexecutor.sampler:TorchSampler.handle_logprobs": "self request logprobs_state_list * count",
    "pyexecutor.sampler:TorchSampler.setup_sampler_step": "self scheduled_requests",
}


@pytest.fixture(params=list(SHAPES))
def shape(request):
    with installed(request.param, threaded=False):
        yield SHAPES[request.param]


def part(name):
    return importlib.import_module(f"tensorrt_llm._torch.{name}")


def found(path):
    module, _, names = path.partition(":")
    thing = part(module)
    for name in names.split("."):
        thing = getattr(thing, name)
    return thing


def parameters(thing):
    names = []
    for parameter in inspect.signature(thing).parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and "*" not in names:
            names.append("*")
        names.append(parameter.name)
    return " ".join(names)


def test_it_has_the_real_names_while_it_is_installed_and_leaves_none():
    assert "tensorrt_llm" not in sys.modules
    with installed("s15") as package:
        sampler = part("pyexecutor.sampler").TorchSampler
        assert package.__version__ == "1.2.1"
        assert sampler.__module__ == sampler.process_draft_tokens.__module__ == "tensorrt_llm._torch.pyexecutor.sampler"
        assert sampler.process_draft_tokens.__qualname__ == "TorchSampler.process_draft_tokens"
        assert [base.__name__ for base in sampler.__bases__] == ["Sampler", "AsyncWorkerMixin"]
        with pytest.raises(RuntimeError, match="imported already"), installed("s2"):
            pass
    assert not [name for name in sys.modules if name.startswith("tensorrt_llm")]
    with pytest.raises(ValueError, match="allowed: s1, s15, s2"), installed("s3"):
        pass
    with installed("s15"):
        assert part("pyexecutor.sampler").TorchSampler is not sampler


def test_signatures_are_those_of_the_sources(shape):
    wanted = SIGNATURES | (SINCE_1_2_0 if shape.since_1_2_0 else BEFORE_1_2_0)
    wanted |= SINCE_1_3_0 if shape.since_1_3_0 else BEFORE_1_3_0
    assert {path: parameters(found(path)) for path in wanted} == wanted
    creator, util = part("pyexecutor.py_executor_creator"), part("pyexecutor._util")
    assert creator.instantiate_sampler is util.instantiate_sampler
    absent = [] if shape.since_1_2_0 else ["_can_use_fast_greedy_path", "_copy_to_host", "async_worker_start"]
    absent += [] if shape.since_1_3_0 else ["_is_new_request", "_prepare_log_probs", "DEFAULT_MAX_TOPK_LOGPROBS"]
    assert not [name for name in absent if hasattr(part("pyexecutor.sampler").TorchSampler, name)]
