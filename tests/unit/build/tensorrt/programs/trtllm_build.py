"""Plays `trtllm-build` of 1.2: its options, and what it changes of them before it writes `config.json`."""

import argparse
import json
from importlib.metadata import version
from pathlib import Path

from played import Played, content_of

SWITCH = ("enable", "disable")
TYPES = ("auto", "float16", "float32", "bfloat16", "int32", "disable")


def parse():
    """The options, with the real names and choices."""
    parser = argparse.ArgumentParser(allow_abbrev=False)
    parser.add_argument("--checkpoint_dir", required=True)
    parser.add_argument("--output_dir", default="engine_outputs")
    parser.add_argument("--max_batch_size", type=int, default=2048)
    parser.add_argument("--max_input_len", type=int, default=1024)
    parser.add_argument("--max_seq_len", "--max_decoder_seq_len", dest="max_seq_len", type=int)
    parser.add_argument("--max_beam_width", type=int, default=1)
    parser.add_argument("--max_num_tokens", type=int, default=8192)
    parser.add_argument("--opt_num_tokens", type=int)
    parser.add_argument("--kv_cache_type", type=str.upper, choices=["CONTINUOUS", "PAGED", "DISABLED"], default="PAGED")
    parser.add_argument("--input_timing_cache")
    parser.add_argument("--output_timing_cache", default="model.cache")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--log_level", default="info")
    parser.add_argument("--strip_plan", action="store_true")
    parser.add_argument("--logits_dtype", choices=["float16", "float32"])
    parser.add_argument("--gather_context_logits", action="store_true")
    parser.add_argument("--gather_generation_logits", action="store_true")
    parser.add_argument("--gather_all_token_logits", action="store_true")
    modes = ["draft_tokens_external", "lookahead_decoding", "medusa", "explicit_draft_tokens", "eagle"]
    parser.add_argument("--speculative_decoding_mode", choices=modes)
    parser.add_argument("--max_draft_len", type=int, default=0)
    parser.add_argument("--gpt_attention_plugin", default="auto", choices=TYPES)
    parser.add_argument("--gemm_plugin", choices=(*TYPES, "fp8", "nvfp4"))
    for name, default in (("context_fmha", 0), ("remove_input_padding", 0), ("use_paged_context_fmha", 0)):
        parser.add_argument(f"--{name}", default=SWITCH[default], choices=SWITCH)
    parser.add_argument("--multiple_profiles", default="disable", choices=SWITCH)
    parser.add_argument("--tokens_per_block", type=int, default=32)
    return parser.parse_args()


def build_config(args, quantisation):
    """What becomes of the options: limits grow with the drafts, paged context goes with some KV caches."""
    speculative = args.speculative_decoding_mode is not None
    kv_cache, weights = quantisation["kv_cache_quant_algo"], quantisation["quant_algo"]
    paged_context = args.use_paged_context_fmha == "enable" and args.context_fmha == "enable"
    if kv_cache == "INT8" or (kv_cache == "FP8" and weights not in ("FP8", "W4A8_AWQ", "NVFP4")):
        paged_context = False
    tokens = min(args.max_num_tokens, args.max_seq_len * args.max_batch_size)
    return {
        "max_input_len": min(args.max_input_len, args.max_seq_len),
        "max_seq_len": args.max_seq_len + (args.max_draft_len if speculative else 0),
        "opt_batch_size": 8,
        "max_batch_size": args.max_batch_size,
        "max_beam_width": args.max_beam_width,
        "max_num_tokens": max(tokens, args.max_batch_size * (args.max_draft_len + 1)) if speculative else tokens,
        "kv_cache_type": args.kv_cache_type,
        "gather_context_logits": args.gather_context_logits,
        "gather_generation_logits": args.gather_generation_logits,
        "strongly_typed": True,
        "max_draft_len": args.max_draft_len,
        "speculative_decoding_mode": 2 if speculative else 1,
        "use_refit": False,
        "input_timing_cache": args.input_timing_cache,
        "output_timing_cache": args.output_timing_cache,
        "use_strip_plan": args.strip_plan,
        "plugin_config": {
            "dtype": "bfloat16",
            "gpt_attention_plugin": None if args.gpt_attention_plugin == "disable" else args.gpt_attention_plugin,
            "gemm_plugin": None if args.gemm_plugin == "disable" else args.gemm_plugin,
            "context_fmha": args.context_fmha == "enable",
            "paged_kv_cache": args.kv_cache_type == "PAGED",
            "remove_input_padding": args.remove_input_padding == "enable",
            "tokens_per_block": args.tokens_per_block,
            "use_paged_context_fmha": paged_context,
            "manage_weights": False,
        },
    }


def main():
    """Build."""
    args = parse()
    if args.gather_context_logits and args.max_draft_len > 0:
        raise RuntimeError("Gather context logits is not support with draft len > 0.")
    played = Played(args.output_dir)
    played.begin()
    model = json.loads((Path(args.checkpoint_dir) / "config.json").read_text(encoding="utf-8"))
    model["logits_dtype"] = args.logits_dtype or model["logits_dtype"]
    config = {
        "version": version("tensorrt_llm"),
        "pretrained_config": model,
        "build_config": build_config(args, model["quantization"]),
    }
    cache = Path(args.input_timing_cache or "none")
    timings = cache.read_text(encoding="utf-8") if cache.is_file() else ""
    Path(args.output_timing_cache).write_text(timings + "timed\n", encoding="utf-8")
    weights = content_of(args.checkpoint_dir, "*.safetensors")
    ranks = {f"rank{rank}.engine": f"{weights} {rank}" for rank in range(model["mapping"]["tp_size"])}
    played.write({"config.json": played.config(config)} | ranks)


main()
