"""The model card of a made drafter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from spec_cascade_build.drafter.made import MadeDrafter
    from spec_cascade_build.pair import Pair, Source

_CARD = """---
{front}---

# A drafter for {target}

Made by `spec-cascade drafter make` for speculative decoding with its target: it proposes tokens, the target judges
them. It is no language model to use by itself. Embedding and output head are the target's own and are not in these
files; `spec-cascade build` takes them from the target, and refuses another one.

| what | value |
|---|---|
| layers of the target that it began with | {layers} |
| tensors of its own | {tensors:.1f} M numbers, {dtype} |
| tokens that it can propose | {head} |
| text that it learnt from | {answers} answers, {tokens} tokens, all its target's |
{texts}| training | {steps} of {all_steps} steps of {batch} answers, AdamW at {rate:g}, seed {seed} |
| loss, over the tokens that it can propose | Kullback-Leibler divergence from the target's row{late} |
| on answers held out ({held_out}): mean sum of min(p, q) | {overlap:.3f} |
| on the same: same token most likely | {argmax:.3f} |
| made with | {versions} |

The same pair file makes it again: `spec-cascade drafter make {pair}`. Its recipe and what identifies its target are in
`drafter.json`.
"""


def card(made: MadeDrafter, pair: Pair, name: str) -> str:
    """The card, in Markdown.

    Args:
        made: The drafter.
        pair: Its pair.
        name: Of the pair file.
    """
    recipe, figures = made.recipe, made.figures
    training = recipe["training"]
    return _CARD.format(
        front=_front(recipe, pair.target),
        target=title(pair.target),
        layers=", ".join(map(str, made.layers)),
        tensors=figures["parameters"] / 1e6,
        head=f"{figures['head']}, which cover {figures['coverage']:.1%} of the answers held out"
        if figures["head"]
        else "all",
        answers=figures["answers"],
        tokens=figures["tokens"],
        texts="".join(map(_text, recipe["text"])),
        steps=figures["best_step"],
        all_steps=figures["steps"],
        batch=training["batch_size"],
        rate=training["learning_rate"],
        seed=recipe["seed"],
        late=_late(training["overlap_steps"], "their total variation")
        + _late(training["on_policy_steps"], "on the drafter's own words"),
        held_out=figures["held_out"],
        overlap=figures["overlap"],
        argmax=figures["argmax"],
        versions=", ".join(f"{name} {version}" for name, version in sorted(made.versions.items())),
        pair=name,
        dtype=pair.dtype,
    )


def _late(steps: int, what: str) -> str:
    return f"; in the last {steps} steps {what}" if steps else ""


def _text(text: dict[str, object]) -> str:
    prompts = f"prompts of {text['prompts']}" if text["prompts"] else "prompts that the target wrote"
    answers = f"{text['answers']} answers of at most {text['max_answer_tokens']} tokens"
    return f"| of it, held out ones among them | {answers} at temperature {text['temperature']:g} to {prompts} |\n"


def title(source: Source) -> str:
    """What to call a model that comes from there."""
    if source.package is not None:
        return f"{source.package.file.rpartition('/')[2]} of {source.package.name} {source.package.version}"
    return str(source.hub or source.path)


def _front(recipe: dict[str, object], target: Source) -> str:
    front: dict[str, object] = {"tags": ["speculative-decoding", "spec-cascade"]}
    if recipe["license"] is not None:
        front["license"] = recipe["license"]
    if target.hub is not None:
        front["base_model"] = target.hub
    text: str = yaml.safe_dump(front, sort_keys=True)
    return text
