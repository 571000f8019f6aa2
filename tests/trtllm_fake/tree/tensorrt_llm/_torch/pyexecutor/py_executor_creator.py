"""Makes an executor from arguments."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tensorrt_llm._torch.pyexecutor._util import (
    KvCacheCreator,
    _adjust_torch_mem_fraction,
    create_py_executor_instance,
    instantiate_sampler,
    validate_feature_combination,
)
from tensorrt_llm._torch.pyexecutor.model_engine import PyTorchModelEngine, TrtllmAttention
from tensorrt_llm._torch.pyexecutor.resource_manager import ResourceManagerType
from tensorrt_llm._torch.speculative import (
    get_num_extra_kv_tokens,
    get_spec_drafter,
    get_spec_resource_manager,
)
from tensorrt_llm.logger import logger
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from tensorrt_llm._torch.pyexecutor.py_executor import PyExecutor
    from tensorrt_llm.llmapi.llm_args import TorchLlmArgs

SHAPE = current().shape


def create_py_executor(
    llm_args: TorchLlmArgs,
    checkpoint_dir: str | None = None,
    tokenizer: Any = None,
    profiling_stage_data: dict[str, Any] | None = None,
) -> PyExecutor:
    """An executor that runs, or waits to be stepped.

    The sampler is made once, by the name that this module has for its maker, and serves two executors where the size
    of the KV cache is found out first.
    """
    # What the loop and the sampler are told; before 1.2.0rc8 it was a part of the arguments.
    backend = llm_args if SHAPE.since_1_2_0 else llm_args.get_pytorch_backend_config()
    max_beam_width, max_num_tokens, _, max_batch_size = llm_args.get_runtime_sizes()
    spec_config = llm_args.speculative_config
    mapping = llm_args.parallel_config.to_mapping()
    if spec_config is not None and not spec_config.spec_dec_mode.support_overlap_scheduler():
        backend.disable_overlap_scheduler = True
    model_engine = PyTorchModelEngine(
        model_path=checkpoint_dir or llm_args.model, llm_args=llm_args, mapping=mapping, spec_config=spec_config
    )
    validate_feature_combination(llm_args, model_engine, backend.sampler_type)
    draft_model_engine = None
    if spec_config is not None and spec_config.spec_dec_mode.has_draft_model():
        draft_model_engine = _draft_engine(llm_args, spec_config, mapping, model_engine)
        uses_trtllm_attention = issubclass(draft_model_engine.attn_backend, TrtllmAttention)
        if SHAPE.since_1_2_0 and not (draft_model_engine.model_is_wrapped and uses_trtllm_attention):
            logger.warning("Overlap scheduler is not supported for this drafter. Disable overlap scheduler.")
            backend.disable_overlap_scheduler = True
    max_seq_len = _max_seq_len(model_engine, backend, spec_config)
    unit = (None, llm_args.kv_cache_config.tokens_per_block) if llm_args.enable_chunked_prefill else None

    further = {"disable_flashinfer_sampling": llm_args.disable_flashinfer_sampling} if SHAPE.since_1_2_0 else {}
    sampler = instantiate_sampler(
        model_engine,
        backend,
        mapping,
        max_batch_size=max_batch_size,
        max_beam_width=max_beam_width,
        max_seq_len=max_seq_len,
        mm_encoder_only=llm_args.mm_encoder_only,
        speculative_config=spec_config,
        decoding_config=llm_args.decoding_config,
        kv_cache_config=llm_args.kv_cache_config,
        **further,
    )
    logger.info("Using Sampler: %s", type(sampler).__name__)

    resources: dict[ResourceManagerType, Any] = {}
    caches = KvCacheCreator(
        model_engine=model_engine,
        draft_model_engine=draft_model_engine,
        kv_cache_config=llm_args.kv_cache_config,
    )
    estimating = caches.try_prepare_estimation()
    caches.build_managers(resources, estimating)
    spec_resource_manager = get_spec_resource_manager(model_engine, draft_model_engine)
    if spec_resource_manager is not None:
        resources[ResourceManagerType.SPEC_RESOURCE_MANAGER] = spec_resource_manager
    drafter = get_spec_drafter(
        model_engine,
        draft_model_engine,
        sampler,
        spec_resource_manager=spec_resource_manager,
        guided_decoder=None,
    )

    def executor() -> PyExecutor:
        return create_py_executor_instance(
            dist=None,
            resources=resources,
            mapping=mapping,
            llm_args=backend,
            ctx_chunk_config=unit,
            model_engine=model_engine,
            start_worker=False,
            sampler=sampler,
            drafter=drafter,
            guided_decoder=None,
            max_seq_len=max_seq_len,
            max_batch_size=max_batch_size,
            max_beam_width=max_beam_width,
            max_num_tokens=max_num_tokens,
        )

    py_executor = executor()
    if estimating:
        caches.configure_kv_cache_capacity(py_executor)
        caches.teardown_managers(resources)
        del py_executor
        caches.build_managers(resources, False)
        py_executor = executor()
    _adjust_torch_mem_fraction(backend)
    py_executor.start_worker()
    return py_executor


def _draft_engine(
    llm_args: Any, spec_config: Any, mapping: Any, model_engine: PyTorchModelEngine
) -> PyTorchModelEngine:
    draft_spec_config = copy.copy(spec_config)
    in_one_call = (
        llm_args.guided_decoding_backend is None
        and draft_spec_config._allow_chain_drafter
        and draft_spec_config._allow_greedy_draft_tokens
        and llm_args.attn_backend == "TRTLLM"
        and (not SHAPE.since_1_2_0 or spec_config.draft_len_schedule is None)
    )

    def wrap(model: Any) -> Any:
        from tensorrt_llm._torch.speculative import drafting_loops

        name = "LinearDraftingLoopWrapper" if SHAPE.since_1_2_0 else "ChainDrafter"
        loop = getattr(drafting_loops, name)
        return loop(spec_config.max_draft_len, spec_config.max_total_draft_tokens, model)

    path = spec_config.speculative_model if SHAPE.since_1_2_0 else spec_config.speculative_model_dir
    engine = PyTorchModelEngine(
        model_path=str(path),
        llm_args=copy.copy(llm_args),
        mapping=mapping,
        spec_config=draft_spec_config,
        is_draft_model=True,
        drafting_loop_wrapper=wrap if in_one_call else None,
    )
    engine.kv_cache_manager_key = ResourceManagerType.DRAFT_KV_CACHE_MANAGER
    engine.load_weights_from_target_model(model_engine.model)
    return engine


def _max_seq_len(model_engine: PyTorchModelEngine, backend: Any, spec_config: Any) -> int:
    """What the caches need; more than the engine's own window, which the sampler goes by."""
    drafts = 0 if spec_config is None else spec_config.max_total_draft_tokens
    extra = 0 if spec_config is None else get_num_extra_kv_tokens(spec_config) + drafts
    overlap = 0 if backend.disable_overlap_scheduler else 1 + drafts
    return model_engine.max_seq_len + extra + overlap
