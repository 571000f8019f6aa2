"""A drafter with a trimmed head: what is loaded, and that it is one that gives the other tokens no chance."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from safetensors.torch import save_file

from spec_cascade.decoding.request import GenerationRequest, TokenSource
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.engines.manifest import TRIMMED_HEAD, Manifest
from spec_cascade.engines.pytorch.load import head_tokens, load_drafter, load_target
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.engines.pytorch.open import open_pytorch
from spec_cascade.errors import EngineError
from spec_cascade.rules import parse_rule
from tests.built import build_tiny
from tests.tiny import CPU, VOCAB, noisy, standing_still, tiny_engine, tiny_llama, trimmed
from tests.unit.build.checkpoints import save_checkpoint
from tests.unit.engines.test_compiled import feeds
from tests.unit.engines.test_families import FAMILIES, model_of
from tests.unit.engines.twins import Twins, family_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from spec_cascade.engines.pytorch.engine import PytorchEngine

KNOWN = [3, 4, 7, *range(20, 80)]
EVEN = range(0, VOCAB, 2)


def write_head(drafter: Path, token_ids: torch.Tensor, name: str = "token_ids") -> None:
    save_file({name: token_ids}, drafter / TRIMMED_HEAD)


@pytest.fixture(params=["tied", "untied"])
def pruned(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """An engine directory whose drafter has a trimmed head."""
    engine = build_tiny(tmp_path, tied=request.param == "tied")
    write_head(engine / "drafter", torch.tensor(KNOWN))
    return engine


def last_logits(model: PreTrainedModel) -> torch.Tensor:
    cached = CachedModel(model, slots=1, max_seq_len=16)
    logits = cached.forward(feeds()[0])
    assert logits.shape == (1, cached.vocab_size)
    return logits


def test_its_logits_are_columns_of_the_whole_heads(pruned: Path) -> None:
    target = load_target(pruned / "target", torch.float32, CPU)
    whole = load_drafter(pruned / "drafter", target, whole_head=True)
    drafter = load_drafter(pruned / "drafter", target)
    assert whole.get_output_embeddings().weight.data_ptr() == target.get_output_embeddings().weight.data_ptr()
    assert drafter.config.vocab_size == target.config.vocab_size
    for _ in range(2):
        torch.testing.assert_close(last_logits(drafter), last_logits(whole)[:, KNOWN])
        drafter.tie_weights()


def test_its_rows_are_its_own_and_the_rest_is_the_targets(pruned: Path) -> None:
    target = load_target(pruned / "target", torch.float32, CPU)
    drafter = load_drafter(pruned / "drafter", target)
    head = drafter.get_output_embeddings().weight
    assert (head.shape, head.is_contiguous()) == ((len(KNOWN), target.config.hidden_size), True)
    assert head.untyped_storage().nbytes() == head.nbytes
    shared = {tensor.data_ptr() for tensor in target.parameters()}
    assert {name for name, tensor in drafter.named_parameters() if tensor.data_ptr() not in shared} == {
        "lm_head.weight"
    }


def test_a_drafter_with_tensors_of_its_own_may_have_one_too(tmp_path: Path) -> None:
    model = save_checkpoint(tmp_path / "drafter", layers=1)
    write_head(tmp_path / "drafter", torch.tensor(KNOWN))
    drafter = load_drafter(tmp_path / "drafter", model)
    assert torch.equal(drafter.get_output_embeddings().weight, model.lm_head.weight[KNOWN])


@pytest.mark.parametrize("family", FAMILIES)
def test_heads_of_all_families_are_trimmed_with_their_biases(family: str) -> None:
    model, ids = model_of(family, **FAMILIES[family]), torch.tensor([[3, 1, 2]])
    if model.get_output_embeddings().bias is not None:
        torch.nn.init.normal_(model.get_output_embeddings().bias)
    small = trimmed(model, range(0, 40, 7))
    torch.testing.assert_close(small(ids).logits, model(ids).logits[..., :40:7])


@pytest.mark.parametrize(
    ("token_ids", "name", "message"),
    [
        (torch.tensor([1, 2]), "ids", "drafter/head.safetensors has no tensor token_ids that can be read"),
        (torch.tensor([1, 2], dtype=torch.int32), "token_ids", "not one row of distinct int64 token ids in ascending"),
        (torch.tensor([[1, 2]]), "token_ids", "not one row of distinct"),
        (torch.tensor([], dtype=torch.int64), "token_ids", "not one row of distinct"),
        (torch.tensor([2, 1]), "token_ids", "not one row of distinct"),
        (torch.tensor([1, 2, 2]), "token_ids", "not one row of distinct"),
        (torch.tensor([-1, 2]), "token_ids", "not one row of distinct"),
        (
            torch.tensor([2, 300]),
            "token_ids",
            "drafter/head.safetensors: token_ids has 300, the vocabulary ends before",
        ),
    ],
)
def test_tokens_that_are_none_are_refused(tmp_path: Path, token_ids: torch.Tensor, name: str, message: str) -> None:
    target = save_checkpoint(tmp_path / "drafter", layers=1)
    write_head(tmp_path / "drafter", token_ids, name)
    with pytest.raises(EngineError, match=message):
        load_drafter(tmp_path / "drafter", target)
    assert load_drafter(tmp_path / "drafter", target, whole_head=True).lm_head.out_features == 300


def test_a_file_that_is_no_tensors_is_refused(tmp_path: Path) -> None:
    assert head_tokens(tmp_path) is None
    (tmp_path / TRIMMED_HEAD).write_bytes(b"nothing")
    with pytest.raises(EngineError, match=r"head.safetensors has no tensor token_ids"):
        head_tokens(tmp_path)


@cache
def target() -> PreTrainedModel:
    return tiny_llama()


@cache
def drafter() -> PreTrainedModel:
    return noisy(target(), 0.05)


def silent_outside(known: range) -> PreTrainedModel:
    """The drafter with its whole head, whose logits of other tokens than the ``known`` are -inf."""
    model = deepcopy(drafter())
    bias = torch.full((VOCAB,), -torch.inf)
    bias[list(known)] = 0
    model.lm_head.bias = torch.nn.Parameter(bias)
    return model


def outputs(engine: PytorchEngine, rule: str, **sampling: Any) -> list[list[tuple[int, TokenSource]]]:
    """What 12 requests get, and who wrote it."""
    unguarded = parse_rule(f"{rule}{',' if ':' in rule else ':'}strict_prefix_tokens=0")
    requests = [
        GenerationRequest(
            prompt_ids=tuple(range(3 + i, 9 + 2 * i)),
            rule=unguarded,
            sampling=SamplingParams(**{"seed": i, "max_tokens": 24, **sampling}),
        )
        for i in range(12)
    ]
    try:
        # Two engines get the same batches, in which matrix products round alike.
        with standing_still(engine):
            runs = [engine.submit(request) for request in requests]
        texts = [[pair for chunk in run for pair in zip(chunk.token_ids, chunk.sources, strict=True)] for run in runs]
        assert engine.statistics().num_drafter_failures == 0
        return texts
    finally:
        engine.close()


PENALTIES = {"repetition_penalty": 1.4, "presence_penalty": 0.5, "frequency_penalty": 0.3}


@pytest.mark.parametrize(
    ("rule", "way", "sampling"),
    [
        ("strict", {}, {}),
        ("strict", {}, {"temperature": 0}),
        ("token_v3:alpha=0.7", {}, {"top_p": 0.8, "temperature": 0.7}),
        ("opt:alpha=0.2", {}, {"top_k": 5, "min_p": 0.01}),
        ("mix:weight=0.5", {}, PENALTIES),
        ("strict", {"argmax": True}, PENALTIES),
        ("chow:alpha=0.6", {"confidence": 0.3}, {"temperature": 1.2}),
        ("token_v3:alpha=0.7", {"eos": frozenset(range(0, VOCAB, 6))}, {**PENALTIES, "min_tokens": 12}),
        # Until then nothing that the drafter knows may come.
        ("strict", {"eos": frozenset(EVEN)}, {"min_tokens": 12}),
    ],
)
def test_it_speaks_as_one_whose_other_logits_are_minus_infinity(
    rule: str, way: dict[str, Any], sampling: dict[str, Any]
) -> None:
    found = outputs(tiny_engine(target(), drafter(), known=EVEN, **way), rule, **sampling)
    assert found == outputs(tiny_engine(target(), silent_outside(EVEN), **way), rule, **sampling)
    drafted = {token for text in found for token, source in text if source is TokenSource.DRAFTER}
    assert drafted <= set(EVEN)
    assert drafted or "min_tokens" in sampling
    assert {token for text in found for token, _ in text} - set(EVEN), "the target says the rest"


@pytest.mark.parametrize("sampling", [PENALTIES, {"min_tokens": 12}])
def test_greedy_strict_output_is_the_targets_own_whatever_is_asked_of_the_logits(sampling: dict[str, Any]) -> None:
    eos = frozenset(EVEN)

    def texts(engine: PytorchEngine) -> list[list[int]]:
        return [[token for token, _ in text] for text in outputs(engine, "strict", temperature=0, **sampling)]

    assert texts(tiny_engine(target(), drafter(), known=EVEN, eos=eos)) == texts(tiny_engine(target(), None, eos=eos))


def test_it_runs_in_fixed_shapes() -> None:
    Twins(trimmed(family_model("Llama"), range(11))).live_through(1)


def test_an_engine_opens_with_it(pruned: Path) -> None:
    manifest = Manifest.read(pruned)
    engine = open_pytorch(pruned, manifest)
    vocabulary = replace(manifest.vocabulary, vocab_size=KNOWN[-1])
    found = outputs(engine, "drafter_only", max_tokens=12)
    drafted = {token for text in found for token, source in text if source is TokenSource.DRAFTER}
    assert drafted
    assert drafted <= set(KNOWN)
    with pytest.raises(EngineError, match=f"token_ids has 79, the vocabulary ends before {KNOWN[-1]}"):
        open_pytorch(pruned, replace(manifest, vocabulary=vocabulary))
