"""Options of the commands, one function for each program.

Every option is given, also where it is the default of one version: defaults have changed between versions
(`use_paged_context_fmha` was off, pages had 64 and 128 tokens), and what runs is what is written down.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from pathlib import Path

    from spec_cascade_build.tensorrt.families import Family
    from spec_cascade_build.tensorrt.limits import Limits
    from spec_cascade_build.tensorrt.section import Role, TensorrtSection


class QuantAlgos(NamedTuple):
    """What an engine's `config.json` calls a quantisation of the weights, and of the KV cache."""

    weights: str | None
    kv_cache: str | None


# As config.json of a converted checkpoint names them.
QUANT_ALGO = {
    "none": None,
    "int8": "W8A16",
    "int4": "W4A16",
    "fp8": "FP8",
    "int4_awq": "W4A16_AWQ",
    "nvfp4": "NVFP4",
}
# Those that convert_checkpoint.py does itself; quantize.py calibrates the others.
_WEIGHT_ONLY = ("int8", "int4")
# quantize.py cuts more down without a word in its result.
_MOST_AWQ_TEXTS = 32


@dataclass(frozen=True, slots=True)
class Flags:
    """Options of one command; an empty value is a switch.

    Attributes:
        deciding: Those that the output depends on.
        neutral: Places and the number of workers.
    """

    deciding: dict[str, str] = field(default_factory=dict)
    neutral: dict[str, str] = field(default_factory=dict)

    def arguments(self) -> list[str]:
        """As a command line has them."""
        return [f"{name}={value}" if value else name for name, value in (self.neutral | self.deciding).items()]


def is_calibrated(section: TensorrtSection, role: Role) -> bool:
    """Whether quantize.py takes the place of convert_checkpoint.py."""
    return section.quantisation(role) not in ("none", *_WEIGHT_ONLY)


def quant_algos(section: TensorrtSection, role: Role) -> QuantAlgos:
    """What `config.json` of the engine will say."""
    kv_cache = "FP8" if section.kv_cache_of(role) == "fp8" else None
    return QuantAlgos(QUANT_ALGO[section.quantisation(role)], kv_cache)


def convert_flags(
    section: TensorrtSection, role: Role, family: Family, dtype: str, source: Path, output: Path
) -> Flags:
    """Of the family's `convert_checkpoint.py`."""
    deciding = dict(family.always)
    deciding |= {"--dtype": dtype, family.parallel: str(section.tensor_parallel_size)}
    quantisation = section.quantisation(role)
    if quantisation in _WEIGHT_ONLY:
        deciding |= {"--use_weight_only": "", "--weight_only_precision": quantisation}
    neutral = {family.source: str(source), family.output: str(output)}
    if family.workers:
        neutral["--workers"] = str(section.workers)
    return Flags(deciding, neutral)


def quantise_flags(section: TensorrtSection, role: Role, dtype: str, source: Path, output: Path) -> Flags:
    """Of `quantize.py`, which is the same for every family."""
    quantisation, texts = section.quantisation(role), section.calibration_size
    deciding = {
        "--dtype": dtype,
        "--tp_size": str(section.tensor_parallel_size),
        "--qformat": quantisation,
        "--calib_size": str(min(texts, _MOST_AWQ_TEXTS) if quantisation == "int4_awq" else texts),
    }
    if section.calibration_dataset is not None:
        deciding["--calib_dataset"] = section.calibration_dataset
    if section.kv_cache_of(role) == "fp8":
        deciding["--kv_cache_dtype"] = "fp8"
    return Flags(deciding, {"--model_dir": str(source), "--output_dir": str(output)})


def build_flags(
    section: TensorrtSection, role: Role, limits: Limits, checkpoint: Path, output: Path, caches: tuple[Path, Path]
) -> Flags:
    """Of `trtllm-build`.

    Args:
        section: The pair's section.
        role: Which engine.
        limits: What it is built for.
        checkpoint: The converted checkpoint.
        output: Where the engine is written.
        caches: The timing cache to read, and the one to write.
    """
    deciding = {
        "--max_batch_size": str(limits.max_batch_size),
        "--max_input_len": str(limits.max_input_len),
        "--max_seq_len": str(limits.max_seq_len),
        "--max_num_tokens": str(limits.max_num_tokens),
        "--max_beam_width": "1",
        # In-flight batching: pages of KV cache, and requests packed without padding.
        "--kv_cache_type": "paged",
        "--remove_input_padding": "enable",
        "--gpt_attention_plugin": "auto",
        # Without these the KV cache of a prefix cannot be used again in the next round.
        "--context_fmha": "enable",
        "--use_paged_context_fmha": "enable",
        "--tokens_per_block": str(section.tokens_per_block),
        "--gemm_plugin": section.gemm_plugin_of(role),
        # The rule reads the rows of both models. The tool calls the switch deprecated, and still writes it down.
        "--gather_generation_logits": "",
        "--logits_dtype": section.logits_dtype,
    }
    if role == "target":
        deciding["--speculative_decoding_mode"] = "draft_tokens_external"
        deciding["--max_draft_len"] = str(limits.max_draft_len)
    read, written = caches
    neutral = {
        "--checkpoint_dir": str(checkpoint),
        "--output_dir": str(output),
        "--workers": str(section.workers),
        "--input_timing_cache": str(read),
        "--output_timing_cache": str(written),
    }
    return Flags(deciding, neutral)
