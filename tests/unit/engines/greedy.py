"""Comparing greedy outputs: equal token for token, up to exact ties of the target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TIE = 1e-4


def generated(model: PreTrainedModel, prompt: list[int], new_tokens: int) -> list[int]:
    """What transformers' own greedy decoding gives."""
    ids = torch.tensor([prompt])
    output = model.generate(
        ids, attention_mask=torch.ones_like(ids), do_sample=False, max_new_tokens=new_tokens, pad_token_id=0
    )
    return output[0, len(prompt) :].tolist()


def ends_in_tie(model: PreTrainedModel, prompt: list[int], output: list[int], expected: list[int]) -> bool:
    """Whether two outputs that differ first do so where the target's two best logits are within `TIE`.

    Raises:
        AssertionError: They differ where there is no tie.
    """
    if output == expected:
        return False
    pairs = zip(output, expected, strict=False)
    first = next((i for i, (ours, theirs) in enumerate(pairs) if ours != theirs), None)
    assert first is not None, f"{len(output)} tokens instead of {len(expected)}"
    with torch.inference_mode():
        best = model(torch.tensor([prompt + expected[:first]])).logits[0, -1].topk(2).values
    gap = float(best[0] - best[1])
    assert gap <= TIE, f"differs at token {first}, where the best logits are {gap:.2g} apart"
    return True
