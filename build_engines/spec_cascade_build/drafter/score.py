"""`spec-cascade drafter score`: from an engine directory to what its drafter is worth on this machine."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median_low
from typing import TYPE_CHECKING

from spec_cascade.bench.machine import machine
from spec_cascade.bench.prompts import prompt_ids
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.decoding.tokenizer import Tokenizer
from spec_cascade.errors import ConfigError
from spec_cascade_build.drafter import timing
from spec_cascade_build.drafter.conversation import read_prompts
from spec_cascade_build.drafter.score_pair import ScoredPair, check_scorable
from spec_cascade_build.drafter.score_passages import Answers, windows
from spec_cascade_build.drafter.score_prediction import LONGEST, predict
from spec_cascade_build.drafter.score_rows import acceptances
from spec_cascade_build.drafter.score_rules import ways
from spec_cascade_build.drafter.score_settings import PROMPTS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path
    from typing import Any

    import numpy as np
    from numpy.typing import NDArray

    from spec_cascade.engines.manifest import Manifest
    from spec_cascade_build.drafter.score_passages import Passage
    from spec_cascade_build.drafter.score_prediction import Prediction
    from spec_cascade_build.drafter.score_rules import Way
    from spec_cascade_build.drafter.score_settings import ScoreSettings
    from spec_cascade_build.drafter.timing import MeasuredCosts

    Measure = Callable[..., MeasuredCosts]
    Tell = Callable[[str, int], Callable[[int], None]]

_MOST_SLOTS = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a scoring found.

    Attributes:
        manifest: Of the engine.
        compiled: Whether the models ran compiled ahead of time.
        passages: The texts.
        ways: Ways of decoding, strict first and greedy last.
        acceptances: By the way's name: of each text, the acceptance at each scored place.
        costs: What the parts of a round cost.
        predictions: By the way's name.
        remarks: What the reader must know, a sentence each.
        machine: Facts about the machine.
    """

    manifest: Manifest
    compiled: bool
    passages: Sequence[Passage]
    ways: Sequence[Way]
    acceptances: Mapping[str, Sequence[NDArray[np.float64]]]
    costs: MeasuredCosts
    predictions: Mapping[str, Prediction]
    remarks: Sequence[str]
    machine: dict[str, Any]


def score(settings: ScoreSettings, manifest: Manifest, *, tell: Tell, measure: Measure = timing.measure) -> Score:
    """Open the models, let the target answer, compare the rows, time the parts.

    Args:
        settings: What is asked.
        manifest: Of the engine directory, checked.
        tell: Told what begins and how many steps it has; answers with what is to be told of each step.
        measure: Times the parts.

    Raises:
        ConfigError: The drafter is no model, or a setting does not fit the engine.
        EngineError: The models cannot be run.
        BuildError: The prompts cannot be read.
    """
    check_scorable(manifest.drafter.kind, manifest.engine)
    defaults = manifest.defaults
    # Refuses a temperature before anything is loaded.
    SamplingParams(temperature=settings.temperature)
    chosen, remarks = ways(
        settings.rules, temperature=settings.temperature, argmax_drafts=defaults.draft_mode == "argmax"
    )
    if defaults.draft_confidence > 0:
        remarks.append(f"blocks are taken as whole: draft_confidence = {defaults.draft_confidence} ends some early")
    tokenizer = Tokenizer.load(settings.engine_dir / "tokenizer")
    given, prompts, longest = _read(settings, tokenizer, defaults.max_seq_len)
    pair = ScoredPair.open(
        settings.engine_dir,
        manifest,
        slots=max(1, min(_MOST_SLOTS, len(prompts))),
        max_seq_len=longest + LONGEST + 1,
    )
    passages = given or Answers(
        pair.target,
        vocab_size=pair.vocab_size,
        end_ids=manifest.vocabulary.eos_token_ids,
        tokens=settings.tokens,
        temperature=settings.temperature,
        seed=settings.seed,
    ).write(prompts, tell("the target answers", len(prompts)))
    found = acceptances(pair, passages, chosen, tell("comparing rows", len(passages)))
    context = _typical(passages)
    costs = measure(
        pair, context, chosen, repetitions=settings.repetitions, advance=tell("timing", settings.repetitions)
    )
    return Score(
        manifest=manifest,
        compiled=pair.compiled,
        passages=passages,
        ways=chosen,
        acceptances=found,
        costs=costs,
        predictions={way.name: predict(found[way.name], costs.of(way)) for way in chosen},
        remarks=remarks,
        machine=machine(pair.device),
    )


def _read(
    settings: ScoreSettings, tokenizer: Tokenizer, max_seq_len: int
) -> tuple[list[Passage], list[tuple[int, ...]], int]:
    """Texts as they stand, or prompts, and the tokens that the longest comes to."""
    if settings.text is not None:
        if settings.window > max_seq_len:
            raise ConfigError("--window", settings.window, f"at most {max_seq_len}, the engine's max_seq_len")
        pieces = windows(tokenizer.encode_prompt(_text(settings.text)), settings.window)
        if not pieces:
            raise ConfigError("--text", str(settings.text), "a file with at least two tokens of text")
        return pieces, [], settings.window
    prompts = [prompt_ids(tokenizer, text) for text in read_prompts(settings.prompts or PROMPTS)]
    longest = max(map(len, prompts))
    if longest + settings.tokens > max_seq_len:
        allowed = f"at most {max_seq_len - longest}: max_seq_len is {max_seq_len}, with the longest prompt"
        raise ConfigError("--tokens", settings.tokens, allowed)
    return [], prompts, longest + settings.tokens


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError("--text", str(path), f"a text file that can be read ({error})") from None


def _typical(passages: Sequence[Passage]) -> tuple[int, ...]:
    """The text up to the middle of what is scored, where that is of median length."""
    middles = {len(passage.token_ids) - passage.scored // 2: passage for passage in passages}
    length = median_low(len(passage.token_ids) - passage.scored // 2 for passage in passages)
    return middles[length].token_ids[:length]
