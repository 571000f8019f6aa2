"""A compiled model gives what the model gives, and runs only where it was compiled for."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import AutoModelForCausalLM, PhiConfig

from spec_cascade.decoding.models import Feed
from spec_cascade.decoding.request import GenerationRequest
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.engines import open_engine
from spec_cascade.engines.manifest import FILE_NAME as MANIFEST
from spec_cascade.engines.manifest import Manifest
from spec_cascade.engines.pytorch.attention import ATTENTION
from spec_cascade.engines.pytorch.compiled import FILE_NAME, INT8_FILE_NAME, CompiledForward, compile_model
from spec_cascade.engines.pytorch.int8 import int8_model
from spec_cascade.engines.pytorch.load import load_drafter, load_target, trim_head
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.errors import EngineError
from spec_cascade.processor import instruction_sets
from tests.built import build_tiny
from tests.tiny import CPU, tiny_llama

if TYPE_CHECKING:
    from pathlib import Path

    from spec_cascade.engines.protocol import Engine


# The first test waits for three compilations.
pytestmark = pytest.mark.timeout(1200)


@pytest.fixture(scope="module")
def compiled_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny engine directory whose models are compiled: half a minute."""
    return build_tiny(tmp_path_factory.mktemp("compiled"), compile=True)


def feeds() -> list[list[Feed]]:
    """Forwards of every kind: one token, a prompt without wanted rows, drafts to score, two sequences."""
    return [
        [Feed(0, [5], 1)],
        [Feed(1, [6, 7, 8], 0)],
        [Feed(0, [9, 3, 4], 3), Feed(1, [4, 4], 1)],
        [Feed(0, [9], 1), Feed(1, [4], 1)],
        [Feed(0, list(range(20)), 1), Feed(1, [2], 0)],
    ]


@pytest.mark.parametrize("role", ["target", "drafter"])
def test_every_forward_gives_the_models_logits(compiled_engine: Path, role: str) -> None:
    target = load_target(compiled_engine / "target", torch.float32, CPU)
    model = target if role == "target" else load_drafter(compiled_engine / "drafter", target)
    plain = CachedModel(model, slots=2, max_seq_len=64)
    compiled = CachedModel(
        model, slots=2, max_seq_len=64, compiled=CompiledForward.load(compiled_engine / role / FILE_NAME)
    )
    for forward in feeds():
        expected = plain.forward(forward)
        torch.testing.assert_close(compiled.forward(forward), expected, rtol=1e-4, atol=1e-4)


def test_the_engine_runs_it_and_says_the_same_words(compiled_engine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    run = CompiledForward.__call__

    def counted(self: CompiledForward, *arguments: Any) -> torch.Tensor:
        calls.append(1)
        return run(self, *arguments)

    monkeypatch.setattr(CompiledForward, "__call__", counted)
    compiled = texts(open_engine(compiled_engine))
    assert len(calls) > 40, "both models"
    calls.clear()
    pretend(compiled_engine, monkeypatch, processor="another processor")
    plain = texts(open_engine(compiled_engine))
    assert not calls
    assert compiled == plain


def test_elsewhere_it_runs_uncompiled_and_says_so(
    compiled_engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for field in ("processor", "torch"):
        with monkeypatch.context() as patch, caplog.at_level(logging.WARNING):
            pretend(compiled_engine, patch, **{field: "another one"})
            caplog.clear()
            open_engine(compiled_engine).close()
            assert "the models run uncompiled, which is slower" in caplog.text
            assert "another one" in caplog.text
            assert instruction_sets() in caplog.text


def test_what_cannot_be_exported_is_an_engine_error_and_leaves_the_model_as_it_was(tmp_path: Path) -> None:
    model = tiny_llama(layers=1)
    model.set_attn_implementation(ATTENTION)
    model.model.norm.forward = lambda rows: rows * (1 if rows.sum().item() > 0 else 2)
    with pytest.raises(EngineError, match="LlamaForCausalLM cannot be compiled"):
        compile_model(model, tmp_path / FILE_NAME)
    assert model.config._attn_implementation == ATTENTION
    assert not (tmp_path / FILE_NAME).exists()


def test_what_computes_something_else_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_llama(layers=1)
    model.set_attn_implementation(ATTENTION)
    run = CompiledForward.load

    def wrong(package: Path) -> CompiledForward:
        right = run(package)
        return CompiledForward(lambda *inputs: right._run(*inputs).roll(1, -1))

    monkeypatch.setattr(CompiledForward, "load", wrong)
    with pytest.raises(EngineError, match="its compiled form is off by"):
        compile_model(model, tmp_path / FILE_NAME)
    assert not (tmp_path / FILE_NAME).exists()


def test_a_family_that_lays_its_rows_out_otherwise_is_compiled_right_and_with_a_trimmed_head(tmp_path: Path) -> None:
    """Phi hands the attention contiguous heads: once a layout that the compiler did not expect."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = PhiConfig(vocab_size=96, num_hidden_layers=2, initializer_range=0.3, **sizes)
    model = AutoModelForCausalLM.from_config(config, attn_implementation=ATTENTION).eval()
    trim_head(model, torch.arange(0, 96, 3))
    compile_model(model, tmp_path / FILE_NAME)
    plain = CachedModel(model, slots=2, max_seq_len=64)
    compiled = CachedModel(model, slots=2, max_seq_len=64, compiled=CompiledForward.load(tmp_path / FILE_NAME))
    for forward in feeds():
        torch.testing.assert_close(compiled.forward(forward), plain.forward(forward), rtol=1e-4, atol=1e-4)


def test_eight_bit_weights_run_a_drafters_forwards_of_few_tokens(tmp_path: Path) -> None:
    engine = build_tiny(tmp_path, compile=True, int8_drafter=True)
    assert not (engine / "target" / INT8_FILE_NAME).exists()
    target = load_target(engine / "target", torch.float32, CPU)
    model = load_drafter(engine / "drafter", target)
    package = CompiledForward.load(engine / "drafter" / FILE_NAME)
    for size, expected in ((4, int8_model(model)), (5, model)):
        feed = [Feed(0, list(range(3, 3 + size)), 2)]
        compiled = CachedModel(model, slots=1, max_seq_len=64, compiled=package).forward(feed)
        torch.testing.assert_close(
            compiled, CachedModel(expected, slots=1, max_seq_len=64).forward(feed), rtol=1e-4, atol=1e-4
        )
    plain, rounded = (CachedModel(m, slots=1, max_seq_len=64).forward(feeds()[0]) for m in (model, int8_model(model)))
    assert 0 < (rounded - plain).norm() < 0.05 * plain.norm()
    # The target judges what the rounded drafter says: greedily its own words, with drafts or without.
    assert texts(open_engine(engine), draft_length=3) == texts(open_engine(engine), draft_length=0)


def texts(engine: Engine, draft_length: int = 3) -> list[tuple[int, ...]]:
    try:
        generations = [
            engine.submit(
                GenerationRequest(
                    prompt_ids=tuple(range(3, 3 + size)),
                    sampling=SamplingParams(temperature=0, max_tokens=24, ignore_eos=True),
                    draft_length=draft_length,
                )
            )
            for size in (1, 4, 9)
        ]
        return [tuple(t for output in generation for t in output.token_ids) for generation in generations]
    finally:
        engine.close()


def pretend(engine_dir: Path, patch: pytest.MonkeyPatch, **fields: str) -> None:
    """Have the manifest say that the models were compiled by or for something else."""
    data = json.loads((engine_dir / MANIFEST).read_text())
    data["compiled"] |= fields
    read = Manifest._from_json(data)
    patch.setattr(Manifest, "read", lambda _directory: read)
