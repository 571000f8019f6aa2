"""Brings the settings to where TensorRT-LLM makes its sampler: into this process, or into its workers'.

On one GPU the engine can live in the caller's process, and does where `SINGLE_PROCESS` asks for it. On several, MPI
starts workers: there the settings travel in a variable, and the start-up hook waits for them. The variable has to be
set before MPI starts, for what comes later may not be passed on; importing TensorRT-LLM starts it.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from dataclasses import replace
from typing import TYPE_CHECKING

from spec_cascade.engines.tensorrt_llm.hook import hook_path, hook_state
from spec_cascade.engines.tensorrt_llm.receipts import require_receipts
from spec_cascade.engines.tensorrt_llm.startup import VARIABLE
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Callable

    from spec_cascade.engines.tensorrt_llm.reports import Report
    from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings

AUTOTUNER_VARIABLE = "TLLM_AUTOTUNER_CACHE_PATH"
"""Where TensorRT-LLM reads and writes which kernels are fast; its workers need it as well."""
SINGLE_PROCESS = "TLLM_WORKER_USE_SINGLE_PROCESS"
"""TensorRT-LLM reads it once in a process's life, when it makes the first engine."""


class Delivery:
    """Settings on their way; made by `deliver`.

    Attributes:
        settings: What the samplers are told.
        world_size: Ranks of the engine.
    """

    def __init__(self, settings: SamplerSettings, world_size: int) -> None:
        self._receipts = tempfile.mkdtemp(prefix="spec-cascade-receipts-")
        self.settings = replace(settings, receipts=self._receipts)
        self.world_size = world_size
        self._in_process = False

    def start(self, receive: Callable[[list[Report]], None] | None) -> None:
        """Bring the settings to where they are needed; see `deliver`."""
        if self.world_size > 1:
            self._into_workers()
            return
        from spec_cascade.engines.tensorrt_llm.injection import activate

        os.environ[SINGLE_PROCESS] = "1"
        activate(self.settings, receive)
        self._in_process = True

    def confirm(self) -> str | None:
        """See that the engine, which is up now, verifies by our rules on every rank.

        Returns:
            The contract that its workers found to hold; None where the settings let the stock verifier stand in.

        Raises:
            EngineError: Some rank does not.
        """
        try:
            return require_receipts(self._receipts, self.world_size)
        except EngineError as error:
            if self.settings.fallback == "stock":
                return None
            if self._in_process:
                raise EngineError(
                    "TensorRT-LLM made the engine in another process: it did not find "
                    f"{SINGLE_PROCESS}=1 when this process made its first one"
                ) from error
            raise

    def close(self) -> None:
        """Take the settings back; engines that are up keep theirs. Idempotent."""
        if self._in_process:
            from spec_cascade.engines.tensorrt_llm.injection import deactivate

            deactivate()
            self._in_process = False
        if os.environ.get(VARIABLE) == self.settings.to_json():
            del os.environ[VARIABLE]
        shutil.rmtree(self._receipts, ignore_errors=True)

    def _into_workers(self) -> None:
        if hook_state() != "installed":
            raise EngineError(
                f"{self.world_size} GPUs need the start-up hook, and {hook_path()} is {hook_state()}: "
                "run spec-cascade doctor --install-hook"
            )
        for module in ("tensorrt_llm", "mpi4py.MPI"):
            if module in sys.modules:
                raise EngineError(
                    f"{module} was imported before the settings for its workers were set: they might not reach them"
                )
        os.environ[VARIABLE] = self.settings.to_json()


def deliver(
    settings: SamplerSettings, *, world_size: int, receive: Callable[[list[Report]], None] | None = None
) -> Delivery:
    """Have the engine that is made next verify by our rules.

    Args:
        settings: What its samplers are told.
        world_size: Its ranks: 1 runs in this process.
        receive: Told what became of each round, where the engine runs in this process.

    Returns:
        To confirm with once the engine is up, and to close once it is down.

    Raises:
        EngineError: It cannot be done: the hook is not installed, TensorRT-LLM was imported too early, or see
            `injection.activate`.
    """
    delivery = Delivery(settings, world_size)
    try:
        delivery.start(receive)
    except BaseException:
        delivery.close()
        raise
    return delivery
