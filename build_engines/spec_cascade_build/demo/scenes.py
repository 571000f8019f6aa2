"""What the demo shows: a pair, a question, and the rules to compare on it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

CONFIGS = Path(__file__).parents[2] / "configs"
"""The pair files of the source tree; an installed package has none."""

TARGET_ONLY, STRICT, TOKEN = "target_only", "strict", "token_v3:alpha=0.8"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """One pair at work.

    Attributes:
        pair: The pair file.
        about: What there is to know of it.
        question: The one message of the conversation.
        rules: To compare; the first is what the others are compared with.
        shown_rule: Of the answer that is shown; None leaves it to the engine.
        protocols: Over which the answer is shown.
    """

    pair: Path
    about: str = ""
    question: str
    rules: tuple[str, ...]
    shown_rule: str | None = None
    protocols: tuple[str, ...] = ("gRPC", "HTTP")


QUESTION = "Tell me about the capital of France."
RULES = (TARGET_ONLY, STRICT, TOKEN, "opt:alpha=0.2")

SCENES = (
    Scene(
        pair=CONFIGS / "smollm2-demo.yaml",
        about="SmolLM2-135M-Instruct, drafted for by four of its thirty layers, which have learnt from its own text to "
        "agree with it.",
        question=QUESTION,
        rules=RULES,
        shown_rule=TOKEN,
    ),
    Scene(
        pair=CONFIGS / "smollm2-lookup.yaml",
        about="The same target, drafted for by prompt lookup: what followed the same words earlier in the text. It "
        "costs nothing, and pays where the answer repeats the prompt.",
        question="Repeat this text word for word: The sky is blue because air scatters short waves of light more than "
        "long ones. Blue light is scattered more than red light, and so the sky looks blue.",
        rules=(TARGET_ONLY, STRICT, TOKEN),
        shown_rule=TOKEN,
        protocols=("gRPC",),
    ),
)


def scene_of(pair: Path) -> Scene:
    """The first scene with another pair."""
    return Scene(pair=pair, question=QUESTION, rules=RULES)
