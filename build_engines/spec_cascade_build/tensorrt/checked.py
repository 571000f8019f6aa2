"""Whether two models can be compiled and go together: all that is known without a GPU and without weights."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from spec_cascade.errors import ConfigError
from spec_cascade_build.lengths import check_length
from spec_cascade_build.progress import step
from spec_cascade_build.sources import Checkpoint
from spec_cascade_build.tensorrt.families import read_architecture
from spec_cascade_build.tensorrt.limits import check_pair
from spec_cascade_build.tensorrt_llm.configs import find_configs
from spec_cascade_build.tensorrt_llm.facts import read_eos_token_ids, read_facts
from spec_cascade_build.tensorrt_llm.families import FAMILIES
from spec_cascade_build.tensorrt_llm.shared_vocabulary import SharedVocabulary, shared_vocabulary, tokenizers_in
from spec_cascade_build.vocabulary import check_same_vocabulary, check_width, vocab_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.console import Console
    from transformers import PreTrainedTokenizerFast

    from spec_cascade_build.pair import Pair, Source
    from spec_cascade_build.tensorrt.families import Architecture
    from spec_cascade_build.tensorrt.section import Role, TensorrtSection
    from spec_cascade_build.tensorrt_llm.configs import Configs
    from spec_cascade_build.tensorrt_llm.facts import ModelFacts


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckedModels:
    """What a check found.

    Attributes:
        configs: Configuration files of both models.
        vocabulary: The ids that both can read and write.
        eos_token_ids: Ids that end the target's answers.
        tokenizer: The target's, which the drafter shares; None where they could not be compared.
        notes: What is right as far as it was looked at, and what was not looked at; sentences.
    """

    configs: dict[Role, Configs]
    vocabulary: SharedVocabulary
    eos_token_ids: tuple[int, ...]
    tokenizer: PreTrainedTokenizerFast | None
    notes: tuple[str, ...]


def sources_of(pair: Pair) -> dict[Role, Source]:
    """The two models of a pair that `check_pair` lets pass."""
    if pair.drafter is None:
        raise ValueError("a pair without a drafter")
    return {"drafter": pair.drafter, "target": pair.target}


def check_models(
    pair: Pair, section: TensorrtSection, base: Path, configs: Path | None, console: Console, *, tokenizers: bool
) -> CheckedModels:
    """Check all of two models but their weights.

    Args:
        pair: The pair.
        section: Its `tensorrt` section.
        base: Where relative paths start.
        configs: Configuration files of hub models; None asks the hub.
        console: Shows progress.
        tokenizers: Whether the tokenizer is to be written: then both must be there, whole. Otherwise they are compared
            where they are.

    Raises:
        ConfigError: A field does not fit the models.
        BuildError: A model cannot be found or converted, or the models do not share a vocabulary.
    """
    check_pair(pair)
    found = {role: find_configs(source, base, configs, console) for role, source in sources_of(pair).items()}
    models = {role: read_architecture(entry.directory, role) for role, entry in found.items()}
    facts: dict[Role, ModelFacts] = {
        role: read_facts(found[role].directory, role) for role, model in models.items() if model.model_type in FAMILIES
    }
    _check_ranks(facts, section.tensor_parallel_size)
    for role, model in facts.items():
        check_length(role, model.max_positions, pair.defaults.max_seq_len)
    both = None
    if tokenizers or tokenizers_in(found["target"].directory, found["drafter"].directory):
        both = _tokenizers(found, console)
    vocabulary = _vocabulary(models, facts, both)
    return CheckedModels(
        configs=found,
        vocabulary=vocabulary,
        eos_token_ids=read_eos_token_ids(found["target"].directory),
        tokenizer=None if both is None else both[0],
        notes=_notes(models, facts, vocabulary),
    )


def _check_ranks(facts: Mapping[Role, ModelFacts], ranks: int) -> None:
    """Verify that GPUs get equal shares; whose attention heads do not divide is refused when the build is planned."""
    field = "tensorrt.tensor_parallel_size"
    for role, model in facts.items():
        # Fewer heads of keys and values than GPUs are kept by several GPUs each.
        if model.kv_heads % ranks and ranks % model.kv_heads:
            allowed = f"a divisor or a multiple of the {role}'s {model.kv_heads} heads of keys and values"
            raise ConfigError(field, ranks, allowed)
        if model.intermediate % ranks:
            raise ConfigError(field, ranks, f"a divisor of the {role}'s intermediate_size, {model.intermediate}")


def _tokenizers(
    found: Mapping[Role, Configs], console: Console
) -> tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast]:
    from spec_cascade_build.checkpoints import read_tokenizer

    roles: tuple[Role, Role] = ("target", "drafter")
    with step(console, "reading the tokenizers"):
        target, drafter = (read_tokenizer(Checkpoint(found[role].directory, None, found[role].title)) for role in roles)
    return target, drafter


def _vocabulary(
    models: Mapping[Role, Architecture],
    facts: Mapping[Role, ModelFacts],
    tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast] | None,
) -> SharedVocabulary:
    if len(facts) == len(models):
        return shared_vocabulary(facts["target"], facts["drafter"], tokenizers)
    if tokenizers is None:
        return SharedVocabulary(min(model.vocab_size for model in models.values()), compared=False)
    check_same_vocabulary(*tokenizers)
    ids = vocab_size(tokenizers[0])
    for role, model in models.items():
        check_width(role, model.vocab_size, ids)
    return SharedVocabulary(ids, compared=True)


def _notes(
    models: Mapping[Role, Architecture], facts: Mapping[Role, ModelFacts], vocabulary: SharedVocabulary
) -> tuple[str, ...]:
    notes = [
        f"of the {role}, whose model_type is {models[role].model_type!r}, neither max_position_embeddings nor what "
        "tensor_parallel_size divides was looked at, but for its attention heads"
        for role in sorted(models.keys() - facts.keys())
    ]
    if not vocabulary.compared:
        target, drafter = models["target"].vocab_size, models["drafter"].vocab_size
        notes.append(
            "the tokenizers were not compared: there is no tokenizer.json for both; a build compares them before it "
            f"compiles (logits are {target} wide for the target and {drafter} for the drafter)"
        )
    if vocabulary.left_out:
        tokens = ", ".join(vocabulary.left_out)
        notes.append(f"special tokens that only one model has a row for are no tokens of this engine: {tokens}")
    return tuple(notes)
