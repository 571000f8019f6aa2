"""`spec-cascade drafter make`: a drafter from a target.

The target writes text, some of its layers learn from that text what it would have said, and what they have learnt is
written to a directory. A kill costs a shard of text or some batches: the same command goes on from there, to the same
drafter.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.pytorch.load import DTYPES
from spec_cascade_build.build import LIBRARIES
from spec_cascade_build.checkpoints import shared_tensors
from spec_cascade_build.directory import check_replaceable, replaced
from spec_cascade_build.drafter.card import card
from spec_cascade_build.drafter.distil import Distiller
from spec_cascade_build.drafter.frequent import coverage, frequent_tokens
from spec_cascade_build.drafter.layers import check_layers, importance, most_important, spread
from spec_cascade_build.drafter.lessons import Course
from spec_cascade_build.drafter.made import MadeDrafter, write_weights
from spec_cascade_build.drafter.student import TRAINED_ATTENTION, Head, check_head, make_student
from spec_cascade_build.drafter.work import digest
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
    place = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    making = Making(pair_path, work, console, place)
    recipe, directory = making.recipe, making.directory
    check_replaceable(directory, MADE, "a made drafter")
    target = making.target()
    answers = making.write_text(target)
    target.set_attn_implementation(TRAINED_ATTENTION)

    held_out, learnt = parted(answers, recipe.training.held_out)
    layers = _layers(making, target, learnt, console)
    vocab_size, eos = making.manifest.vocabulary.vocab_size, making.manifest.vocabulary.eos_token_ids
    tokens = None if recipe.head is None else frequent_tokens(learnt, recipe.head, vocab_size, eos)
    head, whole = Head.of(target, vocab_size, tokens), Head.of(target, vocab_size, None)
    check_head(target, whole, learnt[0].token_ids.to(place))
    torch.manual_seed(recipe.seed)
    student = make_student(target, layers)
    distiller = Distiller(
        student,
        target,
        head=head,
        whole=whole,
        course=Course(learnt, recipe.training.batch_size, recipe.seed, place),
        held_out=held_out,
        recipe=recipe.training,
        seed=recipe.seed,
    )
    key = digest({"recipe": recipe.model_dump(exclude={"directory", "license"}), "layers": layers, "text": making.key})
    with CountBar(console, "the drafter learns", recipe.training.steps) as bar:
        progress = distiller.run(making.work.training, key, lambda now: bar.reach(now.step, _note(now)))

    names = shared_tensors(sorted(target.state_dict()), layers, target.config.num_hidden_layers)
    made = MadeDrafter(
        target=making.fingerprint,
        layers=list(layers),
        recipe=recipe.model_dump(mode="json", exclude={"directory"}),
        versions={name: version(name) for name in LIBRARIES},
        figures=_figures(progress, answers, held_out, tokens),
        shared={name: source for name, source in names.items() if name not in progress.best},
    )
    dtype = DTYPES[making.pair.dtype]
    with replaced(directory) as new:
        write_weights(new, {name: tensor.cpu().to(dtype) for name, tensor in progress.best.items()}, tokens)
        made.write(new)
        (new / "README.md").write_text(card(made, making.pair.target, pair_path.name), encoding="utf-8")
    return directory, made


def parted(answers: Sequence[Answer], share: float) -> tuple[list[Answer], list[Answer]]:
    """The last answers, a share of all, and the others; at least one of each.

    Raises:
        BuildError: There is one answer only.
    """
    count = max(1, round(share * len(answers)))
    if count >= len(answers):
        raise BuildError(f"{len(answers)} answers are too few to learn from some and be measured on others")
    return list(answers[-count:]), list(answers[:-count])


def _layers(making: Making, target: PreTrainedModel, answers: Sequence[Answer], console: Console) -> tuple[int, ...]:
    choice, total = making.recipe.layers, target.config.num_hidden_layers
    check_layers(choice, total)
    if not isinstance(choice, LayerChoice):
        return choice
    if choice.by == "spread":
        return spread(choice.count, total)
    whole = Head.of(target, making.manifest.vocabulary.vocab_size, None)
    with CountBar(console, "leaving out each layer", total) as bar:
        missed = importance(target, whole, answers[:_JUDGED], making.recipe.training.batch_size, bar.gain)
    return most_important(missed, choice.count)


def _note(progress: Progress) -> str:
    newest = progress.agreements[max(progress.agreements)]
    return f"agreement {newest.overlap:.3f}, best {progress.best_agreement.overlap:.3f}"


def _figures(
    progress: Progress, answers: Sequence[Answer], held_out: Sequence[Answer], tokens: Tensor | None
) -> dict[str, float | int]:
    return {
        "answers": len(answers) - len(held_out),
        "tokens": sum(len(answer.hidden) for answer in answers) - sum(len(answer.hidden) for answer in held_out),
        "held_out": len(held_out),
        "head": 0 if tokens is None else len(tokens),
        "coverage": 1.0 if tokens is None else coverage(held_out, tokens),
        "parameters": sum(tensor.numel() for tensor in progress.best.values()),
        "steps": progress.step,
        "best_step": progress.best_step,
        "overlap": progress.best_agreement.overlap,
        "argmax": progress.best_agreement.argmax,
    }
