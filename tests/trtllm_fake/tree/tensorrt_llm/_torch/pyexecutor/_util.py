"""Makes the parts of an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tensorrt_llm._torch.pyexecutor.py_executor import PyExecutor
from tensorrt_llm._torch.pyexecutor.resource_manager import KVCacheManager, ResourceManager, ResourceManagerType
from tensorrt_llm._torch.pyexecutor.sampler import EarlyStopSampler, Sampler, TorchSampler
from tensorrt_llm._torch.pyexecutor.scheduler import SimpleScheduler
from tensorrt_llm._torch.pyexecutor.seq_slot_manager import SeqSlotManager
from tensorrt_llm._torch.speculative.utils import get_spec_decoder
from tensorrt_llm.bindings.executor import Request
from tests.trtllm_fake.stage import current

if TYPE_CHECKING:
    from tensorrt_llm.mapping import Mapping

SHAPE = current().shape


class KvCacheCreator:
    """Makes the KV caches; first small ones, to see how much memory is left beside a few requests."""

    def __init__(self, *, model_engine: Any, draft_model_engine: Any, kv_cache_config: Any, **further: Any) -> None:
        self._model_engine = model_engine
        self._draft_model_engine = draft_model_engine
        self._kv_cache_config = kv_cache_config

    def try_prepare_estimation(self) -> bool:
        """Whether the size is to be found out."""
        return self._kv_cache_config.max_tokens is None

    def build_managers(self, resources: dict[ResourceManagerType, Any], estimating_kv_cache: bool = False) -> None:
        """Make them."""
        resources[ResourceManagerType.KV_CACHE_MANAGER] = KVCacheManager()
        if self._draft_model_engine is not None:
            resources[ResourceManagerType.DRAFT_KV_CACHE_MANAGER] = KVCacheManager(is_draft=True)

    def configure_kv_cache_capacity(self, py_executor: PyExecutor) -> None:
        """Run requests that nobody sent, the longest there can be; each ends with its first token."""
        length = min(self._model_engine.max_num_tokens, self._model_engine.max_seq_len, 64) - 1
        # That loop is not played, and one that serves nobody needs it least.
        py_executor.disable_overlap_scheduler = True
        py_executor.start_worker()
        ids = py_executor.enqueue_requests([Request(input_token_ids=[1] * length, max_tokens=1) for _ in range(2)])
        for request_id in ids:
            py_executor.await_responses(request_id)
        py_executor.shutdown()

    def teardown_managers(self, resources: dict[ResourceManagerType, Any]) -> None:
        """Give them up."""
        del resources[ResourceManagerType.KV_CACHE_MANAGER]
        resources.pop(ResourceManagerType.DRAFT_KV_CACHE_MANAGER, None)


def create_py_executor_instance(
    *,
    dist: Any,
    resources: dict[ResourceManagerType, Any],
    mapping: Mapping,
    llm_args: Any,
    ctx_chunk_config: tuple[Any, int] | None,
    model_engine: Any,
    start_worker: bool,
    sampler: Sampler,
    drafter: Any,
    guided_decoder: Any,
    max_seq_len: int,
    max_batch_size: int,
    max_beam_width: int,
    max_num_tokens: int,
    **further: Any,
) -> PyExecutor:
    """An executor, with slots of its own."""
    spec_config = model_engine.spec_config
    max_num_sequences = max_batch_size * mapping.pp_size
    # Slots are given before anything else, and taken back last.
    managers = {ResourceManagerType.SEQ_SLOT_MANAGER: SeqSlotManager(max_num_sequences), **resources}
    return PyExecutor(
        ResourceManager(managers),
        SimpleScheduler(max_num_sequences, max_num_tokens, None if ctx_chunk_config is None else ctx_chunk_config[1]),
        model_engine=model_engine,
        sampler=sampler,
        dist=dist,
        max_num_sequences=max_num_sequences,
        drafter=drafter,
        disable_overlap_scheduler=llm_args.disable_overlap_scheduler,
        max_batch_size=max_batch_size,
        max_beam_width=max_beam_width,
        max_draft_len=0 if spec_config is None else spec_config.max_draft_len,
        max_total_draft_tokens=0 if spec_config is None else spec_config.max_total_draft_tokens,
        guided_decoder=guided_decoder,
        start_worker=start_worker,
        max_seq_len=max_seq_len,
    )


def validate_feature_combination(llm_args: Any, model_engine: Any, sampler_type: str) -> None:
    """Refuse what does not go together."""
    if llm_args.guided_decoding_backend is not None:
        raise NotImplementedError("the fake knows no grammars")


def is_mla(config: Any) -> bool:
    """Whether attention is latent."""
    return False


def _adjust_torch_mem_fraction(llm_args: Any = None) -> None:
    """Leave memory to others."""


if SHAPE.since_1_2_0:

    def create_torch_sampler_args(
        mapping: Mapping,
        *,
        max_seq_len: int,
        max_batch_size: int,
        speculative_config: Any,
        max_beam_width: int,
        disable_overlap_scheduler: bool,
        disable_flashinfer_sampling: bool,
        enable_async_worker: bool,
    ) -> TorchSampler.Args:
        """How much room a sampler needs."""
        return TorchSampler.Args(
            **_sizes(mapping, max_seq_len, max_batch_size, speculative_config, max_beam_width),
            disable_overlap_scheduler=disable_overlap_scheduler,
            disable_flashinfer_sampling=disable_flashinfer_sampling,
            enable_async_worker=enable_async_worker,
        )

    def instantiate_sampler(
        engine: Any,
        llm_args: Any,
        mapping: Mapping,
        *,
        max_batch_size: int,
        max_beam_width: int,
        max_seq_len: int,
        mm_encoder_only: bool,
        speculative_config: Any,
        decoding_config: Any,
        kv_cache_config: Any,
        disable_flashinfer_sampling: bool,
    ) -> Sampler:
        """The sampler that a configuration asks for; its window is the engine's, not the one given."""
        args = create_torch_sampler_args(
            mapping,
            max_seq_len=engine.max_seq_len,
            max_batch_size=max_batch_size,
            speculative_config=speculative_config,
            max_beam_width=max_beam_width,
            disable_overlap_scheduler=llm_args.disable_overlap_scheduler,
            disable_flashinfer_sampling=disable_flashinfer_sampling,
            enable_async_worker=llm_args.sampler_force_async_worker,
        )
        return _sampler(engine, llm_args.sampler_type, args, mm_encoder_only)

else:

    def create_torch_sampler_args(  # type: ignore[misc]
        mapping: Mapping, *, max_seq_len: int, max_batch_size: int, speculative_config: Any, max_beam_width: int
    ) -> TorchSampler.Args:
        """How much room a sampler needs."""
        return TorchSampler.Args(**_sizes(mapping, max_seq_len, max_batch_size, speculative_config, max_beam_width))

    def instantiate_sampler(  # type: ignore[misc]
        engine: Any,
        pytorch_backend_config: Any,
        mapping: Mapping,
        max_batch_size: int,
        max_beam_width: int,
        max_seq_len: int,
        mm_encoder_only: bool,
        speculative_config: Any,
        decoding_config: Any,
        kv_cache_config: Any,
    ) -> Sampler:
        """The sampler that a configuration asks for; its window is the engine's, not the one given."""
        args = create_torch_sampler_args(
            mapping,
            max_seq_len=engine.max_seq_len,
            max_batch_size=max_batch_size,
            speculative_config=speculative_config,
            max_beam_width=max_beam_width,
        )
        return _sampler(engine, pytorch_backend_config.sampler_type, args, mm_encoder_only)


def _sizes(
    mapping: Mapping, max_seq_len: int, max_batch_size: int, speculative_config: Any, max_beam_width: int
) -> dict[str, int]:
    drafts = (0, 0)
    if speculative_config is not None:
        drafts = (speculative_config.max_draft_len, speculative_config.max_total_draft_tokens)
    return {
        "max_seq_len": max_seq_len,
        "max_draft_len": drafts[0],
        "max_total_draft_tokens": drafts[1],
        "max_num_sequences": max_batch_size * mapping.pp_size,
        "max_beam_width": max_beam_width,
    }


def _sampler(engine: Any, sampler_type: str, args: TorchSampler.Args, mm_encoder_only: bool) -> Sampler:
    if engine.spec_config is not None and engine.spec_config.spec_dec_mode.has_spec_decoder():
        decoder: Sampler = get_spec_decoder(args, engine.spec_config)
        return decoder
    if mm_encoder_only or sampler_type == "TRTLLMSampler":
        raise NotImplementedError("the fake has a TorchSampler only")
    if not engine.model.model_config.is_generation:
        return EarlyStopSampler()
    return TorchSampler(args)
