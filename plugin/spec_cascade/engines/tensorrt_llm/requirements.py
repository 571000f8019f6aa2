"""Whether an engine's configuration is one that our rules can decide for, as the sampler's maker is told it."""

from __future__ import annotations

import inspect
import os
from enum import Enum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from spec_cascade.engines.tensorrt_llm.contract import Contract, Requirement

_MISSING = object()


def told(maker: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """What a call of ``instantiate_sampler`` says, by parameter; ``settings`` and ``mapping`` are its second and third.

    Raises:
        TypeError: The call does not fit the signature.
    """
    bound = inspect.signature(maker).bind(*args, **kwargs)
    bound.apply_defaults()
    _, settings, mapping, *_ = bound.arguments.values()
    return {**bound.arguments, "settings": settings, "mapping": mapping}


def refusals(contract: Contract, given: Mapping[str, Any], *, draft_mode: str) -> list[str]:
    """Why our rules cannot decide for this engine; empty where they can.

    Args:
        contract: The one that holds.
        given: As `told` returns it.
        draft_mode: Of `SamplerSettings`.
    """
    config = [fault for requirement in contract.config if (fault := _config_fault(requirement, given)) is not None]
    environment = environment_refusals(contract)
    if config:
        # How it drafts says nothing while it may not speculate at all.
        return config + environment
    drafts = _draft_mode(given)
    if drafts != draft_mode:
        reason = "the speculative configuration makes TensorRT-LLM draft the other way"
        environment.append(f"draft_mode = {draft_mode!r} is not allowed: must be {drafts!r}, for {reason}")
    return environment


def environment_refusals(contract: Contract) -> list[str]:
    """Variables that must not be set as they are."""
    return [
        f"{rule.name} = {value!r} is not allowed: must be unset{_or(rule.one_of)}, for {rule.reason}"
        for rule in contract.environment
        if (value := os.environ.get(rule.name, "")) and value not in rule.one_of
    ]


def _config_fault(requirement: Requirement, given: Mapping[str, Any]) -> str | None:
    found = _resolve(requirement.path, given)
    if found is _MISSING:
        if requirement.optional:
            return None
        return f"{requirement.name} is not told (no {requirement.path}): must be {_listed(requirement)}"
    value = found.value if isinstance(found, Enum) else found
    # By type as well: True is not one beam.
    if any(type(value) is type(allowed) and value == allowed for allowed in requirement.one_of):
        return None
    return f"{requirement.name} = {value!r} is not allowed: must be {_listed(requirement)}, for {requirement.reason}"


def _resolve(path: str, given: Mapping[str, Any]) -> Any:
    root, *names = path.split(".")
    value = given.get(root, _MISSING)
    for name in names:
        value = getattr(value, name, _MISSING)
    return value() if inspect.ismethod(value) or inspect.isfunction(value) else value


def _draft_mode(given: Mapping[str, Any]) -> str:
    """How the creator will draft: its own condition for the chain loop, of which the rest has been required above."""
    config = given["speculative_config"]
    chain = getattr(config, "_allow_chain_drafter", True) and getattr(config, "_allow_greedy_draft_tokens", True)
    return "argmax" if chain and getattr(given["settings"], "attn_backend", "TRTLLM") == "TRTLLM" else "sampled"


def _listed(requirement: Requirement) -> str:
    return " or ".join(repr(value) for value in requirement.one_of)


def _or(values: tuple[str, ...]) -> str:
    return "".join(f" or {value!r}" for value in values)
