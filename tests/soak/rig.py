"""What is soaked: the real engine over tiny models that fail on demand, and outputs that are known beforehand."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch

from tests.faults import FaultyEngine, faulty_engine
from tests.tiny import VOCAB, tiny_llama

MAX_SEQ_LEN = 192
SLOTS = 6
QUEUE = 8
KNOWN_TOKENS = 40
_LEAST_GAP = 1e-2


@dataclass(frozen=True, slots=True)
class Known:
    """A prompt and how the target alone continues it."""

    prompt_ids: tuple[int, ...]
    output_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Rig(FaultyEngine):
    """The engine, what is behind it, and what it must say."""

    known: list[Known]


def rig() -> Rig:
    """A started engine that drafts as it likes."""
    faulty = faulty_engine(slots=SLOTS, queue=QUEUE, max_seq_len=MAX_SEQ_LEN, fallback=True)
    return Rig(faulty.engine, faulty.target, faulty.drafter, _known(8))


@torch.inference_mode()
def _known(count: int) -> list[Known]:
    """Prompts whose greedy continuation nowhere comes near a tie, so that rounding cannot change it."""
    model, dice, known = tiny_llama(), random.Random(0), list[Known]()
    while len(known) < count:
        prompt = [dice.randrange(VOCAB) for _ in range(dice.choice([2, 9, 50]))]
        ids, least = list(prompt), float("inf")
        for _ in range(KNOWN_TOKENS):
            best = model(torch.tensor([ids])).logits[0, -1].topk(2)
            least = min(least, float(best.values[0] - best.values[1]))
            ids.append(int(best.indices[0]))
        if least > _LEAST_GAP:
            known.append(Known(tuple(prompt), tuple(ids[len(prompt) :])))
    return known
