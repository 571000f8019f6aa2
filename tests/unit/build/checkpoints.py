"""Tiny checkpoints made by the tests: a trained byte-level tokenizer, a random Llama, as safetensors or as GGUF."""

from __future__ import annotations

import hashlib
import json
import zipfile
from typing import TYPE_CHECKING, Any

import torch
import yaml
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

VOCAB = 300
HEADS, KV_HEADS, HIDDEN, INNER = 4, 2, 32, 64
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
TEXT = [
    "the cat sat on the mat and the dog sat on the log",
    "in the beginning the earth was without form and void",
    "speculation is the other name of thinking ahead",
]
HARD_TEXTS = (
    "plain words",
    " leading and   inner spaces ",
    "digits 1234567890 ½ Ⅷ ٣",
    "日本語とemoji 😀👩‍👩‍👧",
    "combining e\u0301 a\u0308\n\ttabs\r\n\n\nlines",
    "it's WE'LL don't",
)


def tiny_tokenizer(vocab_size: int = VOCAB, text: Sequence[str] = TEXT) -> PreTrainedTokenizerFast:
    """A byte-level BPE trained on a few sentences."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[AddedToken(t, special=True, normalized=False) for t in SPECIALS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    backend.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        clean_up_tokenization_spaces=False,
        bos_token=SPECIALS[1],
        eos_token=SPECIALS[2],
        unk_token=SPECIALS[0],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def tiny_llama(*, seed: int = 0, layers: int = 4, vocab: int = VOCAB, tied: bool = True) -> LlamaForCausalLM:
    """A random Llama."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=HIDDEN,
        intermediate_size=INNER,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        num_key_value_heads=KV_HEADS,
        max_position_embeddings=256,
        initializer_range=0.3,
        tie_word_embeddings=tied,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=None,
    )
    return LlamaForCausalLM(config).eval()


def save_checkpoint(
    directory: Path, *, tokenizer: PreTrainedTokenizerFast | None = None, **model_options: Any
) -> LlamaForCausalLM:
    """Write a Hugging Face checkpoint, and return its model."""
    model = tiny_llama(**model_options)
    model.save_pretrained(directory)
    (tokenizer or tiny_tokenizer()).save_pretrained(directory)
    return model


def write_pair(path: Path, **fields: Any) -> Path:
    """Write a pair file for the checkpoint beside it; fields given as None are left out."""
    pair: dict[str, Any] = {
        "name": "tiny",
        "dtype": "float32",
        "target": {"path": "target"},
        "drafter": {"prune": {"layers": [0, 3]}},
        "defaults": {"rule": "strict", "max_seq_len": 128},
    }
    pair |= fields
    path.write_text(yaml.safe_dump({k: v for k, v in pair.items() if v is not None}), encoding="utf-8")
    return path


def write_gguf(
    path: Path,
    model: LlamaForCausalLM | None = None,
    *,
    tokenizer: PreTrainedTokenizerFast | None = None,
    unused: int = 0,
    kind: str = "gpt2",
    pre: str = "smollm",
    add_bos_token: bool = False,
) -> None:
    """Write a GGUF file: the tokenizer's metadata and, if given, the model's tensors in float32.

    Args:
        path: The file.
        model: The model to write.
        tokenizer: The tokenizer to describe.
        unused: Tokens of type UNUSED at the end.
        kind: ``tokenizer.ggml.model``.
        pre: ``tokenizer.ggml.pre``.
        add_bos_token: ``tokenizer.ggml.add_bos_token``.
    """
    from gguf import GGUFWriter, TokenType

    tokenizer = tokenizer or tiny_tokenizer()
    writer = GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_tokenizer_model(kind)
    writer.add_tokenizer_pre(pre)
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    types = [TokenType.CONTROL if piece in SPECIALS else TokenType.NORMAL for piece in pieces]
    writer.add_token_list(pieces + [f"[PAD{i}]" for i in range(unused)])
    writer.add_token_types(types + [TokenType.UNUSED] * unused)
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([" ".join(pair) for pair in merges])
    writer.add_unk_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(add_bos_token)
    writer.add_chat_template(TEMPLATE)
    if model is not None:
        _add_llama(writer, model)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _add_llama(writer: Any, model: LlamaForCausalLM) -> None:
    config = model.config
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    weights = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    writer.add_tensor("token_embd.weight", weights["model.embed_tokens.weight"])
    writer.add_tensor("output_norm.weight", weights["model.norm.weight"])
    for layer in range(config.num_hidden_layers):
        for ours, theirs in names.items():
            weight = weights[f"model.layers.{layer}.{ours}.weight"]
            heads = {"attn_q": HEADS, "attn_k": KV_HEADS}.get(theirs)
            if heads is not None:
                # GGUF interleaves the two halves of each head that Hugging Face's rotary embedding rotates.
                shape = weight.shape
                weight = weight.reshape(heads, 2, shape[0] // heads // 2, shape[1]).swapaxes(1, 2).reshape(shape)
            writer.add_tensor(f"blk.{layer}.{theirs}.weight", weight.copy())


def write_wheel(directory: Path, files: dict[str, Path], name: str = "tiny-model", version: str = "1.2.3") -> str:
    """Write a wheel that holds ``files`` and a module that must not be imported; return its SHA-256."""
    package = name.replace("-", "_")
    info = f"{package}-{version}.dist-info"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{package}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{package}/__init__.py", "raise SystemExit('the package was imported')\n")
        for member, source in files.items():
            archive.write(source, f"{package}/{member}")
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return hashlib.sha256(path.read_bytes()).hexdigest()
