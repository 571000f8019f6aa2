"""What the sampler is told: small enough to travel to TensorRT-LLM's workers in one environment variable."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from spec_cascade.errors import ConfigError, did_you_mean

DRAFT_MODES = ("argmax", "sampled")
FALLBACKS = ("error", "stock")


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerSettings:
    """How the sampler of one engine behaves.

    Attributes:
        default_rule: Deferral rule of a request that names none, in `parse_rule` syntax.
        draft_mode: ``argmax``: TensorRT-LLM's chain loop drafts on the device, the argmax whatever the temperature.
            ``sampled``: its step-by-step loop asks the sampler for every drafted token. The engine's speculative
            configuration has to agree; see `injection`.
        draft_length: Most drafted tokens that a request's rounds are judged on, and the default; TensorRT-LLM drafts
            ``max_draft_len`` for everybody.
        vocab_size: Token ids that exist; columns of the logits beyond are padding. None takes all columns.
        fallback: What happens when a promise of TensorRT-LLM's does not hold, or its configuration is one that we do
            not support: ``error``, or ``stock``: its own verifier, with a warning in the log.
        report_address: Socket that takes the reports of the rounds; None where they stay in the process.
        report_key: What the listener at that socket asks for.
        receipts: Directory in which every worker leaves a file that says that it verifies by our rules.
    """

    default_rule: str = "strict"
    draft_mode: str = "argmax"
    draft_length: int = 4
    vocab_size: int | None = None
    fallback: str = "error"
    report_address: str | None = None
    report_key: str | None = None
    receipts: str | None = None

    def __post_init__(self) -> None:
        _is_text("default_rule", self.default_rule)
        _is_one_of("draft_mode", self.draft_mode, DRAFT_MODES)
        _is_number("draft_length", self.draft_length, 0)
        if self.vocab_size is not None:
            _is_number("vocab_size", self.vocab_size, 1)
        _is_one_of("fallback", self.fallback, FALLBACKS)
        for name in ("report_address", "report_key", "receipts"):
            if getattr(self, name) is not None:
                _is_text(name, getattr(self, name))
        if (self.report_address is None) != (self.report_key is None):
            raise ConfigError("report_key", self.report_key, "given exactly where report_address is")

    def to_json(self) -> str:
        """One line that `from_json` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> SamplerSettings:
        """Read what `to_json` wrote; a field that is left out has its default.

        Raises:
            ConfigError: It is not a JSON object, has an unknown field, or a value that is not allowed.
        """
        try:
            data: Any = json.loads(text)
        except json.JSONDecodeError as error:
            raise ConfigError("settings", text, f"a JSON object ({error})") from None
        if not isinstance(data, dict):
            raise ConfigError("settings", text, "a JSON object")
        known = [field.name for field in fields(cls)]
        for name, value in data.items():
            if name not in known:
                raise ConfigError(f"settings.{name}", value, f"one of {', '.join(known)}{did_you_mean(name, known)}")
        return cls(**data)


def _is_text(name: str, value: object) -> None:
    if not isinstance(value, str) or not value:
        raise ConfigError(f"settings.{name}", value, "a string of at least one character")


def _is_one_of(name: str, value: object, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"settings.{name}", value, " or ".join(allowed))


def _is_number(name: str, value: object, least: int) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigError(f"settings.{name}", value, f"an integer >= {least}")
