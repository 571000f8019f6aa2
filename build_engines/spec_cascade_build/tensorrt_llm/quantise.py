"""`python -m spec_cascade_build.tensorrt_llm.quantise`: a checkpoint quantised by NVIDIA's ModelOpt.

The result is what ModelOpt calls a unified Hugging Face checkpoint, which TensorRT-LLM's PyTorch workflow loads:
safetensors, `config.json`, `hf_quant_config.json`. A process of its own, for the model's memory is free again only when
it ends.
"""

from __future__ import annotations

import argparse
import copy
import sys
from pathlib import Path
from typing import Any

from spec_cascade.errors import SpecCascadeError
from spec_cascade_build.errors import BuildError
from spec_cascade_build.tensorrt_llm.places import checkpoint_at

CONFIGS = {"fp8": "FP8_DEFAULT_CFG", "nvfp4": "NVFP4_DEFAULT_CFG"}
"""ModelOpt's names of what `--format` names."""
_KV_CONFIG = "FP8_KV_CFG"
_BATCH = 4


def main(words: list[str] | None = None) -> None:
    """Quantise a checkpoint; errors raised on purpose end as one line."""
    parser = argparse.ArgumentParser(prog="quantise", description="Quantise a checkpoint with ModelOpt.")
    parser.add_argument("model", help="a checkpoint directory, or organisation/name@commit")
    parser.add_argument("output", type=Path, help="the directory to write")
    parser.add_argument("--format", choices=sorted(CONFIGS), required=True)
    parser.add_argument("--kv-cache", choices=("auto", "fp8"), default="auto", help="fp8 finds scales for it, too")
    parser.add_argument("--dataset", default="cnn_dailymail", help="texts to look at, as ModelOpt names them")
    parser.add_argument("--samples", type=int, default=512, help="how many of them")
    given = parser.parse_args(words)
    try:
        quantise(checkpoint_at(given.model), given.output, given.format, given.kv_cache, given.dataset, given.samples)
    except SpecCascadeError as error:
        sys.exit(f"quantise: {error}")


def quantise(model_dir: Path, output: Path, format_: str, kv_cache: str, dataset: str, samples: int) -> None:
    """Quantise a checkpoint.

    Args:
        model_dir: A Hugging Face checkpoint.
        output: The directory to write.
        format_: ``fp8`` or ``nvfp4``.
        kv_cache: ``fp8`` finds scales for the KV cache; ``auto`` leaves it alone.
        dataset: Texts to calibrate with, as ModelOpt names them.
        samples: How many of them.

    Raises:
        BuildError: ModelOpt, or a GPU, is not there.
    """
    try:
        import modelopt.torch.quantization as mtq
        from modelopt.torch.export import export_hf_checkpoint
        from modelopt.torch.utils.dataset_utils import create_forward_loop, get_dataset_dataloader
    except ModuleNotFoundError as error:
        raise BuildError(f"quantising needs NVIDIA's ModelOpt (pip install nvidia-modelopt): {error}") from error
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    if not torch.cuda.is_available():
        raise BuildError("quantising needs a GPU: ModelOpt runs the model over the calibration texts")
    tokenizer = AutoTokenizer.from_pretrained(model_dir, local_files_only=True, padding_side="left")
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    model = AutoModelForCausalLM.from_pretrained(
        model_dir, dtype=torch.bfloat16, device_map="auto", local_files_only=True, trust_remote_code=False
    ).eval()
    texts = get_dataset_dataloader(
        dataset_name=dataset, tokenizer=tokenizer, batch_size=_BATCH, num_samples=samples, device=model.device
    )
    model = mtq.quantize(model, quantisation_config(mtq, format_, kv_cache), create_forward_loop(dataloader=texts))
    with torch.inference_mode():
        export_hf_checkpoint(model, export_dir=str(output))
    # What a service of the model needs beside the weights, and what the export may leave out.
    tokenizer.save_pretrained(output)


def quantisation_config(mtq: Any, format_: str, kv_cache: str) -> Any:
    """ModelOpt's configuration.

    Args:
        mtq: ``modelopt.torch.quantization``.
        format_: ``fp8`` or ``nvfp4``.
        kv_cache: ``fp8`` or ``auto``.
    """
    config = copy.deepcopy(getattr(mtq, CONFIGS[format_]))
    if kv_cache == "auto":
        return config
    return mtq.utils.update_quant_cfg_with_kv_cache_quant(config, getattr(mtq, _KV_CONFIG)["quant_cfg"])


if __name__ == "__main__":
    main()
