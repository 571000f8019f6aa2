"""transformers as a subject: `generate` on the same weights, and its assisted generation with the same drafter.

It runs one stream: transformers does not batch assisted generation. Its models have sdpa attention and their own copy
of the weights in each dtype; a copy in the dtype of the file is mapped, not copied, on a CPU.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM, GenerationConfig
from transformers.generation.streamers import BaseStreamer
from transformers.utils import logging

from spec_cascade.bench.samples import Reply
from spec_cascade.engines.pytorch.load import DTYPES, load_drafter, logits_width
from spec_cascade.engines.pytorch.workers import release_workers

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from spec_cascade.bench.samples import Clock, Task
    from spec_cascade.engines.manifest import Manifest

GENERATE, ASSISTED, LOOKUP = "generate", "assisted", "prompt lookup"
_ATTENTION = "sdpa"
_LOOKUP_TOKENS = 10
# Never generated; prompt lookup fails where there is no end token at all.
_NO_TOKEN = -1
_TRIALS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class TransformersSubject:
    """A model under transformers' `generate`.

    Attributes:
        name: In tables.
        model: The target.
        options: Further arguments of `generate`: what drafts.
        most_streams: One.
    """

    name: str
    model: PreTrainedModel
    options: dict[str, Any] = field(default_factory=dict)
    most_streams: int = 1

    def reply(self, task: Task, clock: Clock) -> Reply:
        """Generate, with the arrival of the tokens told by a streamer."""
        temperature = task.sampling.temperature
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
        self.model.generation_config = GenerationConfig(pad_token_id=0, eos_token_id=_NO_TOKEN)
        prompt = torch.tensor([task.prompt_ids], device=self.model.device)
        arrivals = _Arrivals(clock)
        torch.manual_seed(task.sampling.seed)
        started = clock()
        output = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            max_new_tokens=task.sampling.max_tokens,
            streamer=arrivals,
            **sampling,
            **self.options,
        )
        # Or the next subject, on another thread, would be slow.
        release_workers()
        return Reply(
            prompt=task.prompt,
            token_ids=tuple(output[0, prompt.shape[1] :].tolist()),
            started=started,
            chunks=tuple(arrivals.chunks),
            # Every forward of the target hands its tokens to the streamer at once.
            target_calls=len(arrivals.chunks),
        )


class _Arrivals(BaseStreamer):  # type: ignore[misc] # transformers has no types
    """Notes when tokens come; the first thing that `generate` hands over is the prompt."""

    def __init__(self, clock: Clock) -> None:
        self.chunks: list[tuple[float, int]] = []
        self._clock = clock
        self._prompt_seen = False

    def put(self, value: Tensor) -> None:
        """Take the next tokens."""
        if self._prompt_seen:
            self.chunks.append((self._clock(), value.numel()))
        self._prompt_seen = True

    def end(self) -> None:
        """Nothing is left to do."""


def open_peers(
    directory: Path, manifest: Manifest, device: torch.device, tasks: Sequence[Task], draft_length: int, clock: Clock
) -> tuple[list[TransformersSubject], list[str]]:
    """`generate` in each dtype, and assisted generation in the one in which `generate` is faster here.

    Assisted generation comes twice: as transformers sets it up, and with our draft length.

    Args:
        directory: The engine directory.
        manifest: Its manifest.
        device: Where to run.
        tasks: What to try the dtypes with.
        draft_length: Ours; 0 or less leaves the second one out.
        clock: For the trial.

    Returns:
        The subjects, and remarks on them.
    """
    # It warns in every call that our settings are not the model's own.
    logging.set_verbosity_error()
    plain = [
        TransformersSubject(name=f"{GENERATE} {name}", model=_load(directory / "target", dtype, device))
        for name, dtype in DTYPES.items()
    ]
    fastest = _fastest(plain, tasks, clock)
    model = fastest.model
    dtype = fastest.name.removeprefix(f"{GENERATE} ")
    entry = manifest.drafter
    if entry.kind == "prompt_lookup":
        options = {"prompt_lookup_num_tokens": _LOOKUP_TOKENS, "max_matching_ngram_size": entry.max_ngram}
        drafting = [TransformersSubject(name=f"{LOOKUP} {dtype}", model=model, options=options)]
        if draft_length > 0:
            ours = options | {"prompt_lookup_num_tokens": draft_length}
            drafting.append(TransformersSubject(name=f"{LOOKUP} {dtype} K={draft_length}", model=model, options=ours))
        return [*plain, *drafting], []
    if entry.kind != "model":
        return plain, []
    # transformers knows no trimmed heads.
    drafter = load_drafter(directory / "drafter", model, whole_head=True)
    if logits_width(drafter) != logits_width(model):
        return plain, ["assisted generation is left out: transformers wants logits of one width of both models"]
    names = [f"{ASSISTED} {dtype}", *([f"{ASSISTED} {dtype} K={draft_length}"] if draft_length > 0 else [])]
    drafter.eval().set_attn_implementation(_ATTENTION)
    lengths = [None, draft_length]
    drafting = [
        _Assisted(name=name, model=model, options={"assistant_model": drafter}, draft_length=length)
        for name, length in zip(names, lengths, strict=False)
    ]
    return [*plain, *drafting], []


@dataclass(frozen=True, slots=True, kw_only=True)
class _Assisted(TransformersSubject):
    """Assisted generation; transformers reads the draft length from the drafter's own settings, and changes them.

    Attributes:
        draft_length: Exactly so many, however unsure the drafter is; None is what transformers does by itself.
    """

    draft_length: int | None

    def reply(self, task: Task, clock: Clock) -> Reply:
        """As `TransformersSubject.reply`, with the drafter's settings as they were."""
        fixed = {
            "num_assistant_tokens": self.draft_length,
            "num_assistant_tokens_schedule": "constant",
            "assistant_confidence_threshold": 0.0,
        }
        drafter = self.options["assistant_model"]
        drafter.generation_config = GenerationConfig(pad_token_id=0, **(fixed if self.draft_length else {}))
        # `super()` without arguments does not work in a class with slots that a decorator made anew.
        return TransformersSubject.reply(self, task, clock)


def _load(directory: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForCausalLM.from_pretrained(
        directory, dtype=dtype, attn_implementation=_ATTENTION, local_files_only=True, use_safetensors=True
    )
    return model.to(device).eval()


def _fastest(subjects: Sequence[TransformersSubject], tasks: Sequence[Task], clock: Clock) -> TransformersSubject:
    """The one with the smallest median, in turns, after one turn to warm up."""
    seconds: dict[str, list[float]] = {subject.name: [] for subject in subjects}
    for turn in range(_TRIALS + 1):
        for subject in subjects:
            reply = subject.reply(tasks[turn % len(tasks)], clock)
            if turn:
                seconds[subject.name].append(reply.chunks[-1][0] - reply.started)
    return min(subjects, key=lambda subject: median(seconds[subject.name]))
