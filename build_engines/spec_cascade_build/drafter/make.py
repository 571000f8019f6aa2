"""`spec-cascade drafter make`: a drafter from a target.

The target writes text, some of its layers learn from that text what it would have said, and what they have learnt is
written to a directory. A kill costs a shard of text or some batches: the same command goes on from there, to the same
drafter.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import torch

from spec_cascade.engines.pytorch.attention import ATTENTION
from spec_cascade.engines.pytorch.load import DTYPES
from spec_cascade.errors import ConfigError
from spec_cascade_build.build import library_versions
from spec_cascade_build.checkpoints import shared_tensors
from spec_cascade_build.digest import digest
from spec_cascade_build.directory import check_replaceable, replaced
from spec_cascade_build.drafter.card import card
from spec_cascade_build.drafter.distil import Distiller
from spec_cascade_build.drafter.frequent import coverage, frequent_tokens
from spec_cascade_build.drafter.layers import check_layers, importance, most_important, spread
from spec_cascade_build.drafter.lessons import Course
from spec_cascade_build.drafter.made import MadeDrafter, write_weights
from spec_cascade_build.drafter.student import TRAINED_ATTENTION, Head, check_head, make_student
from spec_cascade_build.drafter.writing import Making
from spec_cascade_build.errors import BuildError
from spec_cascade_build.progress import CountBar
from spec_cascade_build.recipe import LayerChoice
from spec_cascade_build.sources import MADE

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from rich.console import Console
    from torch import Tensor
    from transformers import PreTrainedModel

    from spec_cascade_build.drafter.distil import Progress
    from spec_cascade_build.drafter.text import Answer
    from spec_cascade_build.recipe import MakeRecipe

T = TypeVar("T")

_FORMAT = 1
"""Raised by hand when the same recipe and text give another drafter than before."""
_JUDGED = 32
"""Answers that the importance of layers is measured on."""


def make(
    pair_path: Path, work: Path | None, console: Console, *, device: str | None = None
) -> tuple[Path, MadeDrafter]:
    """Make the drafter of a pair file, and write it to the directory that the pair file names.

    Args:
        pair_path: The pair file.
        work: Where to keep text and checkpoints; None means ``engines/<name of the pair>.making``.
        console: Shows progress.
        device: Where to compute; None takes CUDA where there is one.

    Returns:
        The directory, and what stands in its `drafter.json`.

    Raises:
        PairError: The pair file is wrong, or its drafter is not one that is made.
        ConfigError: A field of it does not fit the target.
        BuildError: The target cannot be built, something else is where the drafter or the work is to be kept, or the
            training diverges.
    """
    place = device_of(device)
    making = Making(pair_path, work, console, place)
    recipe, directory = making.recipe, making.directory
    check_replaceable(directory, MADE, "a made drafter")
    target = making.target()
    vocab_size, eos = making.manifest.vocabulary.vocab_size, making.manifest.vocabulary.eos_token_ids
    whole = Head.of(target, vocab_size, None)
    _check(recipe, target, whole, eos)
    target.set_attn_implementation(ATTENTION)
    texts = making.write_texts(target)
    target.set_attn_implementation(TRAINED_ATTENTION)

    held_out, learnt = parted(texts, recipe.training.held_out)
    layers = _layers(making, target, whole, learnt, console)
    tokens = None if recipe.head is None else frequent_tokens(learnt, recipe.head, vocab_size, eos)
    progress = _train(making, target, whole, learnt, held_out, layers, tokens, console)

    names = shared_tensors(sorted(target.state_dict()), layers, target.config.num_hidden_layers)
    made = MadeDrafter(
        target=making.fingerprint,
        layers=list(layers),
        recipe=recipe.model_dump(mode="json", exclude={"directory"}),
        versions=library_versions(),
        figures=_figures(progress, learnt, held_out, tokens),
        shared={name: source for name, source in names.items() if name not in progress.best},
    )
    with replaced(directory) as new:
        dtype = DTYPES[making.pair.dtype]
        write_weights(new, {name: tensor.cpu().to(dtype) for name, tensor in progress.best.items()}, tokens)
        made.write(new)
        (new / "README.md").write_text(card(made, making.pair, pair_path.name), encoding="utf-8")
    return directory, made


def _train(
    making: Making,
    target: PreTrainedModel,
    whole: Head,
    learnt: Sequence[Answer],
    held_out: Sequence[Answer],
    layers: Sequence[int],
    tokens: Tensor | None,
    console: Console,
) -> Progress:
    recipe, vocabulary = making.recipe, making.manifest.vocabulary
    distiller = Distiller(
        make_student(target, layers),
        target,
        head=Head.of(target, vocabulary.vocab_size, tokens),
        whole=whole,
        course=Course(learnt, recipe.training.batch_size, recipe.seed, target.device),
        held_out=held_out,
        recipe=recipe.training,
        seed=recipe.seed,
        eos=vocabulary.eos_token_ids,
    )
    key = digest(
        {
            "format": _FORMAT,
            "recipe": recipe.model_dump(exclude={"directory", "license"}),
            "layers": layers,
            "text": making.key,
            "versions": library_versions(),
            "device": target.device.type,
        }
    )
    with CountBar(console, "the drafter learns", recipe.training.steps) as bar:
        return distiller.run(making.work.training, key, lambda now: bar.reach(now.step, _note(now)))


def device_of(name: str | None) -> torch.device:
    """The device of this name; without one CUDA where there is one.

    Raises:
        ConfigError: There is no such device.
    """
    try:
        device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))
        torch.empty(0, device=device)
    # An unknown name; no CUDA in this build; no such backend.
    except (RuntimeError, AssertionError, NotImplementedError):
        raise ConfigError("--device", name, "a device of this machine: cpu, cuda or cuda:<number>") from None
    return device


def _check(recipe: MakeRecipe, target: PreTrainedModel, whole: Head, eos: Sequence[int]) -> None:
    """Refuse what would fail behind hours of writing."""
    count = target.config.num_hidden_layers
    check_layers(recipe.layers, count)
    shared_tensors(sorted(target.state_dict()), (0,), count)
    parted([range(text.answers) for text in recipe.text], recipe.training.held_out)
    if recipe.head is not None and recipe.head < len(eos):
        raise ConfigError("drafter.make.head", recipe.head, f"at least {len(eos)}, the tokens that end an answer")
    target.set_attn_implementation(TRAINED_ATTENTION)
    check_head(target, whole, torch.arange(min(16, len(whole.weight)), device=target.device))


def parted(texts: Sequence[Sequence[T]], share: float) -> tuple[list[T], list[T]]:
    """The last answers of each text, a share of all, and the others; at least one of each.

    Raises:
        BuildError: A text has one answer only.
    """
    held_out: list[T] = []
    learnt: list[T] = []
    for answers in texts:
        count = max(1, round(share * len(answers)))
        if count >= len(answers):
            raise BuildError(f"{len(answers)} answers are too few to learn from some and be measured on others")
        held_out += answers[-count:]
        learnt += answers[:-count]
    return held_out, learnt


def _layers(
    making: Making, target: PreTrainedModel, whole: Head, answers: Sequence[Answer], console: Console
) -> tuple[int, ...]:
    choice, total = making.recipe.layers, target.config.num_hidden_layers
    if not isinstance(choice, LayerChoice):
        return choice
    if choice.by == "spread":
        return spread(choice.count, total)
    with CountBar(console, "leaving out each layer", total) as bar:
        missed = importance(target, whole, answers[:_JUDGED], making.recipe.training.batch_size, bar.gain)
    return most_important(missed, choice.count)


def _note(progress: Progress) -> str:
    newest = progress.agreements[max(progress.agreements)]
    return f"agreement {newest.overlap:.3f}, best {progress.best_agreement.overlap:.3f}"


def _figures(
    progress: Progress, learnt: Sequence[Answer], held_out: Sequence[Answer], tokens: Tensor | None
) -> dict[str, float | int]:
    return {
        "answers": len(learnt),
        "tokens": sum(len(answer.hidden) for answer in learnt),
        "held_out": len(held_out),
        "head": 0 if tokens is None else len(tokens),
        "coverage": 1.0 if tokens is None else coverage(held_out, tokens),
        "parameters": sum(tensor.numel() for tensor in progress.best.values()),
        "steps": progress.step,
        "best_step": progress.best_step,
        "overlap": progress.best_agreement.overlap,
        "argmax": progress.best_agreement.argmax,
    }
