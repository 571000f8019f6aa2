"""The values of an engine's `config.json` that a decoder relies on, each with the option that sets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from spec_cascade_build.tensorrt.limits import Limits
    from spec_cascade_build.tensorrt.section import Role

ABSENT: Any = object()
"""The value of a key that is not there."""
# `SpeculativeDecodingMode` as it is written down.
_NONE, _DRAFT_TOKENS_EXTERNAL = 1, 2
# Weights whose attention reads a paged context from an FP8 KV cache.
_FP8_KV_CACHE = ("FP8", "NVFP4")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What an engine's `config.json` must say.

    Attributes:
        role: Which engine.
        version: Of TensorRT-LLM; None takes any that is supported.
        dtype: Of what is not quantised.
        quant_algo: Of the weights; None is none.
        kv_cache_quant_algo: Of the KV cache; None takes what the weights brought along.
        tensor_parallel_size: Ranks.
        vocab_size: The checkpoint's.
        logits_dtype: Of the returned rows.
        tokens_per_block: Of a page of the KV cache.
        limits: What it was built for.
    """

    role: Role
    version: str | None
    dtype: str
    quant_algo: str | None
    kv_cache_quant_algo: str | None
    tensor_parallel_size: int
    vocab_size: int
    logits_dtype: str
    tokens_per_block: int
    limits: Limits


@dataclass(frozen=True, slots=True)
class Demand:
    """One value.

    Attributes:
        key: Where it stands, with dots.
        holds: Whether a value will do.
        allowed: Which would, as a phrase.
        advice: What to do about another.
    """

    key: str
    holds: Callable[[Any], bool]
    allowed: str
    advice: str


def demands(expected: Expected) -> list[Demand]:
    """All that must hold of one engine."""
    return [
        *_speculation(expected),
        *_batching(expected),
        *_rows(expected),
        *_bounds(expected),
        *_model(expected, "pretrained_config."),
        Demand(
            "build_config.use_strip_plan",
            lambda value: value in (ABSENT, False),
            "false, for the weights must be in the engine",
            "leave --strip_plan out",
        ),
    ]


def checkpoint_demands(expected: Expected) -> list[Demand]:
    """What must hold of a converted checkpoint, before `trtllm-build` spends hours on it."""
    return [*_model(expected, ""), _paged_kv_cache(expected)]


def _speculation(expected: Expected) -> list[Demand]:
    mode = "build_config.speculative_decoding_mode"
    if expected.role == "drafter":
        return [Demand(mode, _is(_NONE), f"{_NONE} (none)", "leave --speculative_decoding_mode out")]
    longest = expected.limits.max_draft_len
    return [
        Demand(
            mode,
            _is(_DRAFT_TOKENS_EXTERNAL),
            # The executor reads the number; a word is no number to it, and then means none.
            f"the number {_DRAFT_TOKENS_EXTERNAL} (draft_tokens_external)",
            "add --speculative_decoding_mode=draft_tokens_external",
        ),
        _at_least("max_draft_len", longest, f"add --max_draft_len={longest}"),
    ]


def _batching(expected: Expected) -> list[Demand]:
    plugins = "build_config.plugin_config"
    paged = "add --kv_cache_type=paged"
    return [
        Demand("build_config.kv_cache_type", _is_paged, '"PAGED", for in-flight batching', paged),
        Demand(f"{plugins}.paged_kv_cache", _is(True), "true, for in-flight batching", paged),
        Demand(
            f"{plugins}.remove_input_padding",
            _is(True),
            "true, for in-flight batching",
            "add --remove_input_padding=enable",
        ),
        Demand(
            f"{plugins}.gpt_attention_plugin",
            lambda value: value not in (ABSENT, None, False),
            "a type, for in-flight batching",
            "add --gpt_attention_plugin=auto",
        ),
        Demand(f"{plugins}.context_fmha", _is(True), "true, which paged context needs", "add --context_fmha=enable"),
        Demand(
            f"{plugins}.use_paged_context_fmha",
            _is(True),
            "true, so that the KV cache of a prefix is used again",
            "add --use_paged_context_fmha=enable; where it was given, trtllm-build switched it off, as it does for an "
            "int8 KV cache, and for an fp8 one without fp8 weights or on a GPU before Ada: convert with another",
        ),
        _equals(f"{plugins}.tokens_per_block", expected.tokens_per_block, "--tokens_per_block"),
        Demand("build_config.max_beam_width", _is(1), "1", "add --max_beam_width=1"),
    ]


def _rows(expected: Expected) -> list[Demand]:
    return [
        Demand(
            "build_config.gather_generation_logits",
            _is(True),
            "true, for the rule reads the rows of both models",
            "add --gather_generation_logits",
        ),
        _equals("pretrained_config.logits_dtype", expected.logits_dtype, "--logits_dtype"),
    ]


def _bounds(expected: Expected) -> list[Demand]:
    limits = expected.limits
    length = limits.max_seq_len
    # trtllm-build adds the drafts to what a target was asked for.
    needed = length + (limits.max_draft_len if expected.role == "target" else 0)
    return [
        _at_least("max_batch_size", limits.max_batch_size, f"add --max_batch_size={limits.max_batch_size}"),
        _at_least("max_seq_len", needed, f"add --max_seq_len={length}"),
        _at_least("max_num_tokens", limits.max_num_tokens, f"add --max_num_tokens={limits.max_num_tokens}"),
    ]


def _model(expected: Expected, prefix: str) -> list[Demand]:
    """What the conversion decides; ``prefix`` is where an engine's file has it."""
    ranks = expected.tensor_parallel_size
    split = f"convert for {ranks} ranks"
    found = [
        _equals(f"{prefix}dtype", expected.dtype, "--dtype"),
        Demand(
            f"{prefix}vocab_size",
            lambda value: _is_number(value) and value >= expected.vocab_size,
            f"at least {expected.vocab_size}, the checkpoint's",
            "convert the checkpoint again",
        ),
        Demand(f"{prefix}mapping.tp_size", _is(ranks), str(ranks), split),
        Demand(f"{prefix}mapping.pp_size", _one_or_absent, "1, for drafts need all layers on every rank", split),
        Demand(f"{prefix}mapping.cp_size", _one_or_absent, "1", split),
        Demand(
            f"{prefix}quantization.quant_algo",
            lambda value: (None if value is ABSENT else value) == expected.quant_algo,
            "null" if expected.quant_algo is None else f'"{expected.quant_algo}"',
            "convert it again with this tensorrt.quantise",
        ),
    ]
    if expected.kv_cache_quant_algo is not None:
        algo = expected.kv_cache_quant_algo
        key = f"{prefix}quantization.kv_cache_quant_algo"
        found.append(Demand(key, _is(algo), f'"{algo}"', "convert it with --kv_cache_dtype=fp8"))
    return found


def _paged_kv_cache(expected: Expected) -> Demand:
    """`quantize.py` leaves the KV cache of int4_awq in what ModelOpt chose, which may be FP8."""
    weights = expected.quant_algo
    allowed = (None, "FP8") if weights in _FP8_KV_CACHE else (None,)
    field = "quantise_drafter" if expected.role == "drafter" else "quantise"
    return Demand(
        "quantization.kv_cache_quant_algo",
        lambda value: value is ABSENT or value in allowed,
        f"null{' or FP8' if len(allowed) > 1 else ''}, where quant_algo is {'null' if weights is None else weights}",
        f"trtllm-build switches paged context attention off for it: set tensorrt.{field} to another, 'fp8' and "
        "'nvfp4' have such a KV cache, 'int8' and 'int4' none",
    )


def _equals(key: str, value: object, option: str) -> Demand:
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return Demand(key, _is(value), shown, f"add {option}={value}")


def _at_least(name: str, least: int, advice: str) -> Demand:
    return Demand(
        f"build_config.{name}", lambda value: _is_number(value) and value >= least, f"at least {least}", advice
    )


def _is(wanted: object) -> Callable[[Any], bool]:
    """Equal and of the same type: the executor reads no 1 as true and no true as 1."""
    return lambda value: type(value) is type(wanted) and value == wanted


def _one_or_absent(value: object) -> bool:
    return value is ABSENT or _is(1)(value)


def _is_number(value: object) -> bool:
    return type(value) is int


def _is_paged(value: object) -> bool:
    return isinstance(value, str) and value.upper() == "PAGED"
