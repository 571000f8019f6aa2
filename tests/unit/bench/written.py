"""A clock and a subject whose answers are written down."""

from __future__ import annotations

from dataclasses import dataclass, field
from threading import Lock
from typing import TYPE_CHECKING

from spec_cascade.bench.samples import Reply, Run, Task
from spec_cascade.decoding.sampling import SamplingParams

if TYPE_CHECKING:
    from threading import Barrier

    from spec_cascade.bench.samples import Clock


class Ticks:
    """A clock that moves on by a second whenever somebody looks."""

    def __init__(self) -> None:
        self._now = 0.0
        self._lock = Lock()

    def __call__(self) -> float:
        with self._lock:
            self._now += 1.0
            return self._now


@dataclass
class WrittenSubject:
    """Gives two tokens for every task; notes who ran when."""

    name: str
    most_streams: int = 8
    log: list[str] = field(default_factory=list)
    meeting: Barrier | None = None

    def reply(self, task: Task, clock: Clock) -> Reply:
        self.log.append(self.name)
        if self.meeting is not None:
            self.meeting.wait(timeout=60)
        started = clock()
        chunks = ((clock(), 1), (clock(), 1))
        return Reply(prompt=task.prompt, token_ids=(task.prompt, 7), started=started, chunks=chunks, target_calls=2)


def task(prompt: int) -> Task:
    return Task(prompt=prompt, prompt_ids=(1, 2), sampling=SamplingParams(temperature=0.0, max_tokens=2))


def run_of(
    subject: str, repetition: int, seconds: float, *, streams: int = 1, outputs: tuple[tuple[int, ...], ...]
) -> Run:
    """A run whose tokens came evenly, each output on its own."""
    replies = tuple(
        Reply(
            prompt=i,
            token_ids=output,
            started=0.0,
            chunks=tuple((seconds * (k + 1) / len(output), 1) for k in range(len(output))),
            target_calls=len(output),
        )
        for i, output in enumerate(outputs)
    )
    return Run(subject=subject, streams=streams, repetition=repetition, position=0, seconds=seconds, replies=replies)
