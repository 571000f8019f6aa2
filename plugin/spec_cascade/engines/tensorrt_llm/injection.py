"""The swap: TensorRT-LLM makes its sampler, and ours is made of it before anybody has seen it.

``py_executor_creator`` looks ``instantiate_sampler`` up in its own module, so binding another function to that name
is all it takes; no file of TensorRT-LLM's is touched. The binding itself says what is active: there is no other state
that could disagree with it.

There are three ways to have our class where TensorRT-LLM makes its own. Re-classing the instance that it made is the
one taken: it keeps every size and every tensor, allocated once and inside the memory scope that the creator opened for
its sampler, and ``TorchSampler`` has neither slots nor a ``__new__`` that would stand against it. Binding
``_util.TorchSampler`` to our class would do for draft-target too, but replaces the name for whoever else asks ``_util``
for it, while code inside the sampler's own module goes on using the old one. Making a second sampler would hold the
store twice for a moment, and needs ``Args``, which no sampler keeps.
"""

from __future__ import annotations

import functools
import logging
import sys
from importlib import import_module
from threading import RLock
from typing import TYPE_CHECKING, Any

from spec_cascade.engines.tensorrt_llm.inspection import NotInstalledError, check_instance, inspect_installed
from spec_cascade.engines.tensorrt_llm.receipts import write_receipt
from spec_cascade.engines.tensorrt_llm.requirements import refusals, told
from spec_cascade.engines.tensorrt_llm.startup import CREATOR
from spec_cascade.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from spec_cascade.engines.tensorrt_llm.findings import ContractReport, Inspection
    from spec_cascade.engines.tensorrt_llm.reports import Report
    from spec_cascade.engines.tensorrt_llm.settings import SamplerSettings

log = logging.getLogger(__name__)

SAMPLER = "tensorrt_llm._torch.pyexecutor.sampler"
_NAME = "instantiate_sampler"
# One that its holder may take again: activating imports the creator, and that may be what activates a worker.
_lock = RLock()


class CascadeFactory:
    """What stands in the creator's module while we are active: makes a sampler as before, and ours of it.

    Attributes:
        original: What stood there.
        settings: What the samplers are told.
        matched: The contract that holds.
        receive: Told what became of each round; None where nobody in this process is.
    """

    def __init__(
        self,
        original: Callable[..., Any],
        settings: SamplerSettings,
        matched: ContractReport,
        adopt: Callable[..., Any],
        receive: Callable[[list[Report]], None] | None,
    ) -> None:
        self.original = original
        self.settings = settings
        self.matched = matched
        self._adopt = adopt
        self.receive = receive
        # For whoever inspects the name: it is what it was.
        functools.update_wrapper(self, original)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Make the sampler of an engine.

        Raises:
            EngineError: Our rules cannot decide for it, and its user has not allowed the stock verifier.
        """
        given = told(self.original, args, kwargs)
        # Before anything is allocated.
        faults = refusals(self.matched.contract, given, draft_mode=self.settings.draft_mode)
        if faults:
            give_up(self.settings, "this engine's configuration is not supported", faults)
            return self.original(*args, **kwargs)
        sampler = self.original(*args, **kwargs)
        faults = self._instance_faults(sampler)
        if faults:
            give_up(self.settings, "this engine's sampler cannot be replaced", faults)
            return sampler
        rank = int(getattr(given.get("mapping"), "rank", 0))
        adopted = self._adopt(sampler, self.settings, *self._reporter(rank), contract=self.matched.contract)
        log.info("verifying by %s (contract %s)", self.settings.default_rule, self.matched.contract.name)
        if self.settings.receipts is not None:
            write_receipt(self.settings.receipts, rank=rank, contract=self.matched.contract.name)
        return adopted

    def _instance_faults(self, sampler: object) -> list[str]:
        stock = import_module(SAMPLER).TorchSampler
        if type(sampler) is not stock:
            return [f"the sampler is a {type(sampler).__name__}, not TensorRT-LLM's TorchSampler"]
        broken = check_instance(self.matched.contract, "TorchSampler", sampler)
        return [str(promise) for promise in broken if promise.need == "must"]

    def _reporter(self, rank: int) -> tuple[Callable[[list[Report]], None], ...]:
        """Who is told of the rounds: one of several ranks suffices, for all decide the same."""
        if rank == 0 and self.receive is not None:
            return (self.receive,)
        if rank == 0 and self.settings.report_address is not None and self.settings.report_key is not None:
            from spec_cascade.engines.tensorrt_llm.reports import ReportSender

            return (ReportSender(self.settings.report_address, self.settings.report_key.encode()),)
        return ()


def activate(settings: SamplerSettings, receive: Callable[[list[Report]], None] | None = None) -> CascadeFactory | None:
    """Have the samplers that TensorRT-LLM makes in this process from now on verify by our rules.

    Checks everything that can be checked first, then binds one name: there is no state in between. Called again with
    the same arguments it does nothing.

    Args:
        settings: What the samplers are told.
        receive: Told what became of each round, in this process; `SamplerSettings.report_address` is for others.

    Returns:
        What is active now; None where the settings let the stock verifier stand in, with a warning in the log.

    Raises:
        EngineError: A promise of TensorRT-LLM's is broken (it is named), the default rule makes no sense, or we are
            active with other arguments already.
    """
    _check_rule(settings)
    with _lock:
        standing = _standing()
        if standing is None:
            try:
                inspection = inspect_installed()
                factory = _factory(inspection, settings, receive)
            except NotInstalledError:
                raise  # there is no stock verifier either
            except EngineError as error:
                give_up(settings, "the cascade sampler cannot be activated", [str(error)])
                return None
            standing = _standing()
            if standing is None:
                setattr(import_module(CREATOR), _NAME, factory)
                _warn(inspection, factory.matched)
                return factory
        if standing.settings != settings or standing.receive != receive:
            raise EngineError("the cascade sampler is active with other settings: deactivate it first")
        return standing


def deactivate() -> None:
    """Give TensorRT-LLM's function its name back; samplers that were made stay as they are. Idempotent.

    Raises:
        EngineError: Somebody else has bound the name since, so that it is not ours to give back.
    """
    with _lock:
        creator = _loaded_creator()
        if creator is None:
            return
        bound = getattr(creator, _NAME)
        if isinstance(bound, CascadeFactory):
            setattr(creator, _NAME, bound.original)
        elif _wraps_ours(bound):
            raise EngineError(f"{CREATOR}.{_NAME} was bound to {bound!r} after the cascade sampler was activated")


def active() -> CascadeFactory | None:
    """What is active in this process; None where nothing is."""
    with _lock:
        return _standing()


def give_up(settings: SamplerSettings, what: str, faults: list[str]) -> None:
    """Refuse, or say in the log that the stock verifier stands in.

    Raises:
        EngineError: Its user has not allowed that.
    """
    reasons = "; ".join(faults)
    if settings.fallback != "stock":
        raise EngineError(f"{what}: {reasons}")
    log.warning("%s, so TensorRT-LLM's own verifier decides: %s", what, reasons)


def _factory(
    inspection: Inspection, settings: SamplerSettings, receive: Callable[[list[Report]], None] | None
) -> CascadeFactory:
    matched = inspection.matched
    if matched is None:
        raise EngineError(inspection.refusal())
    # Not before: it imports TensorRT-LLM's sampler, to be a subclass of it.
    from spec_cascade.engines.tensorrt_llm.sampler import CascadeSampler

    if not issubclass(CascadeSampler, import_module(SAMPLER).TorchSampler):
        raise EngineError("CascadeSampler was made for another TensorRT-LLM than the one that is imported now")
    return CascadeFactory(getattr(import_module(CREATOR), _NAME), settings, matched, CascadeSampler.adopt, receive)


def _warn(inspection: Inspection, matched: ContractReport) -> None:
    for promise in matched.should:
        log.warning("%s", promise)
    if inspection.remark is not None:
        log.warning("%s", inspection.remark)


def _check_rule(settings: SamplerSettings) -> None:
    from spec_cascade.rules import check_draft_mode, parse_rule

    try:
        rule = parse_rule(settings.default_rule)
        check_draft_mode(rule, argmax_drafts=settings.draft_mode == "argmax", gates_available=True)
    except ConfigError as error:
        # An error of one argument: a worker's is pickled on its way to the process that waits for it.
        raise EngineError(f"the default rule: {error}") from None


def _loaded_creator() -> ModuleType | None:
    return sys.modules.get(CREATOR)


def _standing() -> CascadeFactory | None:
    bound = getattr(_loaded_creator(), _NAME, None)
    return bound if isinstance(bound, CascadeFactory) else None


def _wraps_ours(bound: object) -> bool:
    while (inner := getattr(bound, "__wrapped__", None)) is not None:
        if isinstance(inner, CascadeFactory):
            return True
        bound = inner
    return False
