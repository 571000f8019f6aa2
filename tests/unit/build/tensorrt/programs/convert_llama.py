"""Plays `convert_checkpoint.py` of the families llama and qwen: their options, of which qwen has fewer."""

import argparse
from pathlib import Path

from played import Played, write_checkpoint


def parse():
    """The options, with the real names and choices."""
    family = Path(__file__).parent.name
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model_dir", required=True)
    parser.add_argument("--tp_size", type=int, default=1)
    parser.add_argument("--pp_size", type=int, default=1)
    parser.add_argument("--cp_size", type=int, default=1)
    parser.add_argument("--dtype", default="auto", choices=["auto", "float16", "bfloat16", "float32"])
    parser.add_argument("--use_weight_only", action="store_true")
    parser.add_argument("--disable_weight_only_quant_plugin", action="store_true")
    precisions = ["int8", "int4", "int8_gptq", "int4_gptq", *(["int4_awq"] if family == "llama" else [])]
    parser.add_argument("--weight_only_precision", default="int8", choices=precisions)
    parser.add_argument("--smoothquant", type=float)
    parser.add_argument("--int8_kv_cache", action="store_true")
    parser.add_argument("--load_model_on_cpu", action="store_true")
    parser.add_argument("--output_dir", default="tllm_checkpoint")
    parser.add_argument("--workers", type=int, default=1)
    if family == "llama":
        parser.add_argument("--fp8_kv_cache", action="store_true")
        parser.add_argument("--use_fp8", action="store_true")
        parser.add_argument("--load_by_shard", action="store_true")
    return parser.parse_args()


def main():
    """Convert."""
    args = parse()
    played = Played(args.output_dir)
    played.begin()
    algo = {"int8": "W8A16", "int4": "W4A16"}[args.weight_only_precision] if args.use_weight_only else None
    quantisation = {"quant_algo": algo, "kv_cache_quant_algo": "INT8" if args.int8_kv_cache else None}
    write_checkpoint(played, args.model_dir, args.tp_size, args.dtype, quantisation)


main()
