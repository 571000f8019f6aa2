"""A request that TensorRT-LLM has, and how long its end is waited for."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from spec_cascade.decoding.request import FinishReason

if TYPE_CHECKING:
    from spec_cascade.decoding.sequence import Sequence

log = logging.getLogger(__name__)

REPORT_SECONDS = 10.0
"""How long the last report of a request may come after TensorRT-LLM has said that it is over."""

ABORT_SECONDS = 2.0
"""How long TensorRT-LLM may take to say that a request is over that has ended for us."""


@dataclass(eq=False)
class LiveRequest:
    """A request from its submission until TensorRT-LLM has it no more; for the event loop's thread only.

    Attributes:
        sequence: What it has, and where its chunks go.
        result: What TensorRT-LLM gave for it; None until it is sent.
        stopped: Why it is being dropped; None while it runs.
        ended: Whether its last chunk has gone.
        settled: Set once it has ended or is being dropped.
    """

    sequence: Sequence
    result: Any = None
    stopped: FinishReason | None = None
    ended: bool = False
    settled: asyncio.Event = field(default_factory=asyncio.Event)

    def drop(self, reason: FinishReason) -> None:
        """Have TensorRT-LLM give it up; what it gained in the round that runs still comes. Idempotent."""
        if self.stopped is not None:
            return
        self.stopped = reason
        self.settled.set()
        if self.result is not None:
            try:
                self.result.abort()
            except Exception:  # whatever TensorRT-LLM raises that has died: the others are to be dropped too
                log.exception("TensorRT-LLM could not be asked to drop a request")

    async def until_over(self) -> None:
        """Wait until TensorRT-LLM has ended it and its last report has come; once it is settled, not for ever.

        TensorRT-LLM says nothing of a request that is dropped before it has begun with it, nor of any once its loop has
        died.

        Raises:
            Exception: What TensorRT-LLM says that it failed of.
        """
        over = asyncio.ensure_future(self.result.aresult())
        settled = asyncio.ensure_future(self.settled.wait())
        try:
            await asyncio.wait({over, settled}, return_when=asyncio.FIRST_COMPLETED)
            if not over.done():
                await asyncio.wait({over}, timeout=ABORT_SECONDS)
            if over.done():
                over.result()
                await asyncio.wait({settled}, timeout=REPORT_SECONDS)
            else:
                # It has all that it asked for, and TensorRT-LLM goes on with it.
                self.drop(FinishReason.ERROR)
        finally:
            over.cancel()
            settled.cancel()
