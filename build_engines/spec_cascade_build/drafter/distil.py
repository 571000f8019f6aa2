"""The lessons: a student's rows are drawn towards the target's, batch by batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import kl_div
from torch.nn.utils import clip_grad_norm_

from spec_cascade_build.drafter.agreement import Agreement, agreement
from spec_cascade_build.drafter.on_policy import continued
from spec_cascade_build.drafter.student import last_hidden, learning
from spec_cascade_build.errors import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence
    from pathlib import Path

    from torch import Tensor
    from transformers import PreTrainedModel

    from spec_cascade_build.drafter.lessons import Course, Lesson
    from spec_cascade_build.drafter.student import Head
    from spec_cascade_build.drafter.text import Answer
    from spec_cascade_build.recipe import TrainingRecipe

_LOWEST_RATE = 0.1
"""Of the highest: where the cosine ends."""


@dataclass(slots=True)
class Progress:
    """How far a training is.

    Attributes:
        step: Steps done.
        agreements: What was measured, by the steps done.
        best_step: Where the best overlap was measured.
        best: What the student had learnt there.
    """

    step: int = 0
    agreements: dict[int, Agreement] = field(default_factory=dict)
    best_step: int = -1
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def best_agreement(self) -> Agreement:
        """The one measured at `best_step`."""
        return self.agreements[self.best_step]


class Distiller:
    """Trains a student; what it computes depends on its arguments and the step alone, so a kill changes nothing.

    The loss is the Kullback-Leibler divergence of the student's rows from the target's, over all tokens that the
    drafter can propose (Hinton et al. 2015; for drafters Zhou et al., "DistillSpec", ICLR 2024). In the overlap steps
    it is their total variation (Leviathan et al. 2023, section 3). Weights and optimiser are float32; the matrix
    products are in the target's type.

    Args:
        student: See `student.make_student`.
        target: Teaches in on-policy steps; elsewhere its stored states do.
        head: Of the student.
        whole: The target's head.
        course: What is learnt.
        held_out: What agreement is measured on.
        recipe: The rest.
        seed: Of the student's own words.
        eos: Tokens that end an answer.
    """

    def __init__(
        self,
        student: PreTrainedModel,
        target: PreTrainedModel,
        *,
        head: Head,
        whole: Head,
        course: Course,
        held_out: Sequence[Answer],
        recipe: TrainingRecipe,
        seed: int,
        eos: Collection[int],
    ) -> None:
        self._student = student
        self._target = target
        self._head = head
        self._whole = whole
        self._course = course
        self._held_out = held_out
        self._recipe = recipe
        self._seed = seed
        self._eos = torch.tensor(sorted(eos), device=head.weight.device)
        self._weights = learning(student)
        self._optimizer = torch.optim.AdamW(
            self._weights.values(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay
        )
        self.progress = Progress()

    def run(self, checkpoint: Path, key: str, watch: Callable[[Progress], None]) -> Progress:
        """Train to the end, or until nothing better comes.

        Args:
            checkpoint: Written after every measurement; a training with the same key goes on from it.
            key: What determines this training.
            watch: Told after every step.

        Raises:
            BuildError: The loss is no number any more.
        """
        self._resume(checkpoint, key)
        if not self.progress.agreements:
            self._measure()
            watch(self.progress)
        while self.progress.step < self._recipe.steps and not self._has_settled():
            self._step(self.progress.step)
            self.progress.step += 1
            if self.progress.step % self._recipe.evaluate_every == 0 or self.progress.step == self._recipe.steps:
                self._measure()
                self._save(checkpoint, key)
            watch(self.progress)
        return self.progress

    def _step(self, step: int) -> None:
        for group in self._optimizer.param_groups:
            group["lr"] = self._recipe.learning_rate * rate(step, self._recipe.warmup, self._recipe.steps)
        lesson, left = self._course.lesson(step), self._recipe.steps - step
        if left <= self._recipe.on_policy_steps:
            with self._autocast():
                lesson = continued(
                    lesson,
                    self._student,
                    self._target,
                    self._head,
                    length=self._recipe.on_policy_tokens,
                    seed=(self._seed << 32) + step,
                    eos=self._eos,
                )
        loss = self._loss(lesson, overlap=left <= self._recipe.overlap_steps)
        if not math.isfinite(loss.item()):
            raise BuildError(f"the training diverged at step {step}: lower drafter.make.training.learning_rate")
        self._optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_grad_norm_(self._weights.values(), self._recipe.clip)
        self._optimizer.step()

    def _loss(self, lesson: Lesson, *, overlap: bool) -> Tensor:
        with self._autocast():
            learnt = self._head(last_hidden(self._student, lesson.token_ids)[lesson.taught])
            with torch.no_grad():
                taught = self._head(lesson.hidden)
        return (total_variation if overlap else divergence)(learnt.float(), taught.float())

    def _autocast(self) -> torch.autocast:
        dtype = self._head.weight.dtype
        return torch.autocast(self._head.weight.device.type, dtype, enabled=dtype != torch.float32)

    def _measure(self) -> None:
        with self._autocast():
            found = agreement(self._student, self._head, self._whole, self._held_out, self._recipe.batch_size)
        progress = self.progress
        progress.agreements[progress.step] = found
        if progress.best_step < 0 or found.overlap > progress.best_agreement.overlap:
            progress.best_step = progress.step
            progress.best = {name: weight.detach().clone() for name, weight in self._weights.items()}

    def _has_settled(self) -> bool:
        since = sum(step > self.progress.best_step for step in self.progress.agreements)
        return 0 < self._recipe.patience <= since

    def _save(self, path: Path, key: str) -> None:
        progress = self.progress
        state = {
            "key": key,
            "step": progress.step,
            "agreements": {step: (found.overlap, found.argmax) for step, found in progress.agreements.items()},
            "best_step": progress.best_step,
            "best": progress.best,
            "weights": {name: weight.detach() for name, weight in self._weights.items()},
            "optimizer": self._optimizer.state_dict(),
        }
        partial = path.with_suffix(".partial")
        torch.save(state, partial)
        partial.rename(path)

    def _resume(self, path: Path, key: str) -> None:
        if not path.is_file():
            return
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
        except (OSError, RuntimeError, EOFError, UnpicklingError) as error:
            raise BuildError(f"{path} is damaged: remove it") from error
        if state["key"] != key:
            return
        with torch.no_grad():
            for name, weight in self._weights.items():
                weight.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        found = {step: Agreement(*numbers) for step, numbers in state["agreements"].items()}
        self.progress = Progress(state["step"], found, state["best_step"], state["best"])


def divergence(learnt: Tensor, taught: Tensor) -> Tensor:
    """``KL(p || q)``, the mean over rows of logits ``[N, Vd]``."""
    return kl_div(learnt.log_softmax(-1), taught.log_softmax(-1), log_target=True, reduction="batchmean")


def total_variation(learnt: Tensor, taught: Tensor) -> Tensor:
    """``1 - sum_v min(p, q)``, the mean over rows of logits ``[N, Vd]``: what strict verification refuses."""
    return 1 - torch.minimum(learnt.softmax(-1), taught.softmax(-1)).sum(-1).mean()


def rate(step: int, warmup: int, steps: int) -> float:
    """The learning rate of a step as a share of the highest: a line up, then a cosine down to a tenth."""
    if step < warmup:
        return (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    return _LOWEST_RATE + (1 - _LOWEST_RATE) * (1 + math.cos(math.pi * done)) / 2
