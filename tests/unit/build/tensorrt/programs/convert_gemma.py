"""Plays `convert_checkpoint.py` of the family gemma, which spells its options in its own way."""

import argparse

from played import Played, write_checkpoint


def parse():
    """The options, with the real names and choices."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--ckpt-type", choices=["jax", "keras", "torch", "hf"], required=True)
    parser.add_argument("--model-dir", "--model_dir", required=True)
    parser.add_argument("--output-model-dir", "--output_dir", required=True)
    parser.add_argument("--world-size", type=int, default=1)
    parser.add_argument("--use_weight_only", action="store_true")
    parser.add_argument(
        "--weight_only_precision",
        "--use-weight-only-with-precision",
        choices=["int8", "int4", "w4a8_awq", "w4a16_awq"],
    )
    parser.add_argument("--dtype", default="auto", choices=["auto", "float16", "bfloat16", "float32"])
    parser.add_argument("--enable_fp8", action="store_true")
    parser.add_argument("--fp8_kv_cache", action="store_true")
    parser.add_argument("--load_model_on_cpu", action="store_true")
    return parser.parse_args()


def main():
    """Convert."""
    args = parse()
    played = Played(args.output_model_dir)
    played.begin()
    algo = {"int8": "W8A16", "int4": "W4A16"}[args.weight_only_precision] if args.use_weight_only else None
    quantisation = {"quant_algo": algo, "kv_cache_quant_algo": None}
    write_checkpoint(played, args.model_dir, args.world_size, args.dtype, quantisation)


main()
