"""Which models the slot cache and the ragged attention serve exactly; the others are refused by name.

`check_config` looks at what a model says of itself, before its weights are read. `check_attention` looks at what its
layers really ask of an attention function, in one forward of two tokens: what a model does not say is found there.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from spec_cascade.engines.pytorch.attention import ATTENTION
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from torch import Tensor
    from transformers import PretrainedConfig, PreTrainedModel

_PROBE = "spec_cascade_probe"
_LAYER_TYPES = {"full_attention", "sliding_attention"}
# Tensors that models hand to their attention functions and that change nothing in ours.
_HARMLESS = {"position_ids", "cache_position", "position_embeddings"}


def check_config(config: PretrainedConfig, role: str) -> None:
    """Refuse a model by what its config and its class say.

    Args:
        config: The model's config.
        role: ``target`` or ``drafter``, for the message.

    Raises:
        EngineError: The engine cannot do its attention exactly; the model and the reason are named.
    """
    kind = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    # Some configs stand for several classes; the first is the plain decoder.
    kind = kind[0] if isinstance(kind, tuple) else kind
    reason = _shape_reason(config, kind) or _attention_reason(config, kind)
    if reason is not None:
        raise _refused(role, kind.__name__ if kind is not None else type(config).__name__, reason)


def _shape_reason(config: PretrainedConfig, kind: type[PreTrainedModel] | None) -> str | None:
    """Why a model is not a plain text decoder."""
    if config.is_encoder_decoder:
        return "it is an encoder-decoder"
    if config.get_text_config() is not config:
        return "it takes more than text"
    if kind is None:
        return "transformers has no decoder for it (AutoModelForCausalLM)"
    if kind._is_stateful:
        return "it keeps a recurrent state, which cannot forget rejected tokens"
    return None


def _attention_reason(config: PretrainedConfig, kind: type[PreTrainedModel] | None) -> str | None:
    """Why a decoder's attention is not ours."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is None and getattr(config, "attention_chunk_size", None) is not None:
        layer_types = ["chunked_attention"]
    other = sorted(set(layer_types or ()) - _LAYER_TYPES)
    if other:
        return f"it has layers of the type {other[0]} (layer_types)"
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return "it caps its attention scores (attn_logit_softcapping)"
    if getattr(config, "kv_lora_rank", None) is not None:
        return "its keys and values are compressed into a latent (kv_lora_rank)"
    if getattr(config, "num_kv_shared_layers", None):
        return "some of its layers share their keys and values (num_kv_shared_layers)"
    if kind is None or not kind._supports_attention_backend:
        return "its attention does not go through transformers' attention interface (_supports_attention_backend)"
    return None


def check_attention(model: PreTrainedModel, role: str) -> None:
    """Refuse a loaded model by what its layers ask of their attention function.

    Runs one forward of two tokens through a function that looks at its arguments and attends to nothing.

    Raises:
        EngineError: The engine cannot do its attention exactly; the model and the reason are named.
    """
    seen = _Seen(model.config)
    token_ids = torch.zeros(1, 2, dtype=torch.long, device=model.device)
    model.set_attn_implementation(_PROBE)
    try:
        with torch.inference_mode():
            model(
                input_ids=token_ids,
                position_ids=torch.arange(2, device=model.device).unsqueeze(0),
                use_cache=False,
                attention_probe=seen,
            )
    except _NoProbeError:
        seen.refuse("it does not hand its forward's keyword arguments to its attention layers")
    finally:
        model.set_attn_implementation(ATTENTION)
    layers = list(range(model.config.num_hidden_layers))
    if sorted(seen.layers) != layers:
        seen.refuse(f"its {len(layers)} layers attended {len(seen.layers)} times in one forward")
    if seen.reason is not None:
        raise _refused(role, type(model).__name__, seen.reason)


class _NoProbeError(Exception):
    """The probe's record did not reach an attention layer."""


@dataclass(slots=True)
class _Seen:
    """What the layers of one forward asked for; the first reason to refuse stands."""

    config: PretrainedConfig
    layers: list[int] = field(default_factory=list)
    reason: str | None = None

    def refuse(self, reason: str) -> None:
        """Note a reason."""
        self.reason = self.reason or reason

    def look(self, module: torch.nn.Module, widths: tuple[int, ...], options: dict[str, Any]) -> None:
        """Take one layer's call.

        Args:
            module: The attention layer.
            widths: Of queries, keys and values.
            options: The call's other arguments.
        """
        layer = int(module.layer_idx)  # type: ignore[arg-type]
        self.layers.append(layer)
        if len(set(widths)) > 1:
            self.refuse(f"its queries, keys and values differ in width: {', '.join(map(str, widths))}")
        if widths[1] != head_width(self.config):
            self.refuse(f"its keys are {widths[1]} wide, its config says {head_width(self.config)}")
        if not getattr(module, "is_causal", True):
            self.refuse("its tokens attend to later ones")
        if options.get("s_aux") is not None:
            self.refuse("it has attention sinks (s_aux)")
        if options.get("softcap") is not None:
            self.refuse("it caps its attention scores (softcap)")
        if options.get("sliding_window") is None and _slides(self.config, layer):
            self.refuse(f"layer {layer} slides but does not tell its attention function the window")
        for name, value in options.items():
            if isinstance(value, torch.Tensor) and name not in _HARMLESS:
                self.refuse(f"it hands its attention a tensor that the engine does not know: {name}")


def longest_context(config: PretrainedConfig) -> int | None:
    """Most positions that the model knows; None is no limit.

    ``max_position_embeddings`` includes a linear or Llama 3 scaling; YaRN's factor is applied to the original length
    where the config names one. Dynamic and long RoPE change the rotation of all tokens once a sequence outgrows the
    original length: cached keys would be wrong, and every other sequence with them, so that length is the limit.
    """
    positions: int | None = getattr(config, "max_position_embeddings", None)
    scaling = getattr(config, "rope_scaling", None) or {}
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    if positions is None:
        return None
    if kind == "longrope":
        return int(getattr(config, "original_max_position_embeddings", positions))
    if kind == "yarn":
        original = scaling.get("original_max_position_embeddings") or positions
        return max(positions, int(original * scaling.get("factor", 1)))
    return int(positions)


def check_context(config: PretrainedConfig, max_seq_len: int, role: str) -> None:
    """Refuse a ``max_seq_len`` that is beyond a model's positions.

    Raises:
        EngineError: It is; names both figures.
    """
    longest = longest_context(config)
    if longest is not None and max_seq_len > longest:
        raise EngineError(
            f"max_seq_len = {max_seq_len} is beyond the {role}'s {longest} positions (max_position_embeddings)"
        )


def head_width(config: PretrainedConfig) -> int:
    """Numbers in one head's key, and in its value."""
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def kv_heads(config: PretrainedConfig) -> int:
    """Heads that have a key and a value of their own."""
    return int(getattr(config, "num_key_value_heads", None) or config.num_attention_heads)


def _slides(config: PretrainedConfig, layer: int) -> bool:
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        return bool(layer_types[layer] == "sliding_attention")
    return getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)


def _look(
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    attention_probe: _Seen | None = None,
    **options: Any,
) -> tuple[Tensor, None]:
    """The probe's attention function; signature of transformers' attention functions."""
    if attention_probe is None:
        raise _NoProbeError
    widths = (query.shape[-1], key.shape[-1], value.shape[-1])
    attention_probe.look(module, widths, options | {"attention_mask": attention_mask})
    _, heads, tokens, _ = query.shape
    return value.new_zeros(1, tokens, heads, value.shape[-1]), None


def _refused(role: str, name: str, reason: str) -> EngineError:
    return EngineError(f"the {role} is a {name}, which the pytorch engine cannot run exactly: {reason}")


ALL_ATTENTION_FUNCTIONS.register(_PROBE, _look)
