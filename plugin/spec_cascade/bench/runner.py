"""Paired runs: in every repetition each subject runs once, and the order turns from one to the next."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TypeVar

from spec_cascade.bench.samples import Run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from spec_cascade.bench.samples import Clock, Reply, Subject, Task

T = TypeVar("T")


def rotated(items: Sequence[T], turns: int) -> list[T]:
    """The items from the ``turns``-th on, then those before it; over n turns each stands once in each place."""
    start = turns % len(items) if items else 0
    return [*items[start:], *items[:start]]


def schedule(
    subjects: Sequence[Subject], concurrency: Sequence[int], repetitions: int
) -> Iterator[tuple[int, int, int, Subject]]:
    """Repetition, streams, position and subject of every run; a subject that takes fewer streams is left out."""
    for repetition in range(repetitions):
        for streams in concurrency:
            able = [subject for subject in subjects if streams <= subject.most_streams]
            for position, subject in enumerate(rotated(able, repetition)):
                yield repetition, streams, position, subject


def run_once(subject: Subject, tasks: Sequence[Task], streams: int, clock: Clock) -> tuple[float, tuple[Reply, ...]]:
    """All tasks, ``streams`` at a time: whenever one ends, the next begins.

    Returns:
        Seconds from the first task to the last token, and the replies in the order of the tasks.
    """
    started = clock()
    if streams == 1:
        replies = tuple(subject.reply(task, clock) for task in tasks)
    else:
        with ThreadPoolExecutor(streams, thread_name_prefix="bench") as pool:
            replies = tuple(pool.map(lambda task: subject.reply(task, clock), tasks))
    return max(reply.chunks[-1][0] for reply in replies) - started, replies


def measure(
    subjects: Sequence[Subject],
    tasks: Sequence[Task],
    *,
    concurrency: Sequence[int],
    repetitions: int,
    warm_up: int,
    clock: Clock,
    advance: Callable[[str], None],
) -> list[Run]:
    """Run everything.

    Args:
        subjects: What to measure.
        tasks: What every run does.
        concurrency: Streams to sweep over.
        repetitions: Recorded passes over all subjects and streams.
        warm_up: Passes before them that are not recorded.
        clock: In seconds.
        advance: Told the subject and the streams of the run that begins.
    """
    runs = []
    for number, streams, position, subject in schedule(subjects, concurrency, warm_up + repetitions):
        advance(f"{subject.name}, {streams} at a time")
        seconds, replies = run_once(subject, tasks, streams, clock)
        if number >= warm_up:
            runs.append(
                Run(
                    subject=subject.name,
                    streams=streams,
                    repetition=number - warm_up,
                    position=position,
                    seconds=seconds,
                    replies=replies,
                )
            )
    return runs
