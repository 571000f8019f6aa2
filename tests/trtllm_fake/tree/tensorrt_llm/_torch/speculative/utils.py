"""Who drafts."""

from __future__ import annotations

from typing import Any


def get_num_extra_kv_tokens(spec_config: Any) -> int:
    """Further places in the KV cache; none where a model of its own drafts."""
    return 0


def get_spec_resource_manager(model_engine: Any, draft_model_engine: Any = None) -> Any:
    """What a way to speculate holds for requests; nothing where a model of its own drafts."""
    return None


def get_spec_decoder(sampler_args: Any, spec_config: Any) -> Any:
    """A way's own sampler."""
    raise ValueError(f"Unsupported speculative decoding mode: {spec_config.spec_dec_mode}")


def get_spec_drafter(
    model_engine: Any,
    draft_model_engine: Any,
    sampler: Any,
    spec_resource_manager: Any,
    guided_decoder: Any = None,
) -> Any:
    """The drafter; it samples with the target's sampler."""
    from tensorrt_llm._torch.pyexecutor.seq_slot_manager import SeqSlotManager
    from tensorrt_llm._torch.speculative.model_drafter import ModelDrafter

    spec_config = model_engine.spec_config
    if spec_config is None:
        return None
    if not spec_config.spec_dec_mode.is_draft_target():
        raise NotImplementedError("the fake drafts with a model of its own only")
    return ModelDrafter(
        spec_config,
        draft_model_engine,
        spec_config.max_draft_len,
        spec_config.max_total_draft_tokens,
        SeqSlotManager(model_engine.batch_size),
        sampler,
        spec_resource_manager=spec_resource_manager,
        guided_decoder=guided_decoder,
    )
