"""Plays `quantize.py`, the calibrated quantisation of every family."""

import argparse

from played import Played, write_checkpoint


def parse():
    """The options, with the real names and choices."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--model_dir")
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--calib_dataset", default="cnn_dailymail")
    parser.add_argument("--dtype", default="auto", choices=["auto", "float16", "bfloat16", "float32"])
    formats = ["nvfp4", "fp8", "int8_sq", "int4_awq", "w4a8_awq", "int8_wo", "int4_wo", "full_prec"]
    parser.add_argument("--qformat", default="full_prec", choices=formats)
    parser.add_argument("--calib_size", type=int, default=512)
    parser.add_argument("--output_dir", default="exported_model")
    parser.add_argument("--tp_size", type=int, default=1)
    parser.add_argument("--pp_size", type=int, default=1)
    parser.add_argument("--kv_cache_dtype", choices=["int8", "fp8"])
    return parser.parse_args()


def main():
    """Quantise."""
    args = parse()
    played = Played(args.output_dir)
    played.begin()
    algo = {"fp8": "FP8", "nvfp4": "NVFP4", "int4_awq": "W4A16_AWQ"}[args.qformat]
    quantisation = {"quant_algo": algo, "kv_cache_quant_algo": "FP8" if args.kv_cache_dtype == "fp8" else None}
    write_checkpoint(played, args.model_dir, args.tp_size, args.dtype, quantisation)


main()
