"""Both models of an engine directory as the engine runs them, without the engine around."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from spec_cascade.engines.pytorch.compiled import CompiledForward
from spec_cascade.engines.pytorch.load import head_tokens
from spec_cascade.engines.pytorch.model import CachedModel
from spec_cascade.engines.pytorch.open import runnable_drafter, runnable_target, usable_packages
from spec_cascade.errors import ConfigError, EngineError

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from spec_cascade.engines.manifest import Manifest


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPair:
    """An opened pair.

    Attributes:
        target: The target.
        drafter: The drafter; it has one slot.
        head: The tokens that the drafter has logits for, ``[Vd]``, on its device; None is all.
        vocab_size: Tokens that exist.
        argmax_drafts: Whether the drafter proposes the argmax of its rows whatever the temperature.
        compiled: Whether the models run compiled ahead of time.
    """

    target: CachedModel
    drafter: CachedModel
    head: Tensor | None
    vocab_size: int
    argmax_drafts: bool
    compiled: bool

    @property
    def device(self) -> torch.device:
        """Where both models are."""
        return self.target.cache.device

    @classmethod
    def open(cls, directory: Path, manifest: Manifest, *, slots: int, max_seq_len: int) -> ScoredPair:
        """Load both models.

        Args:
            directory: The engine directory.
            manifest: Its manifest; the drafter is a model.
            slots: Of the target.
            max_seq_len: Of both.

        Raises:
            EngineError: A model cannot be loaded or run.
        """
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        large = runnable_target(directory, manifest, device)
        small = runnable_drafter(directory, manifest, large)
        packages = usable_packages(directory, manifest, device)
        forwards = {role: CompiledForward.load(package) for role, package in packages.items()}
        head = head_tokens(directory / "drafter", manifest.vocabulary.vocab_size)
        return cls(
            target=CachedModel(large, slots=slots, max_seq_len=max_seq_len, compiled=forwards.get("target")),
            drafter=CachedModel(small, slots=1, max_seq_len=max_seq_len, compiled=forwards.get("drafter")),
            head=None if head is None else head.to(device),
            vocab_size=manifest.vocabulary.vocab_size,
            argmax_drafts=manifest.defaults.draft_mode == "argmax",
            compiled=bool(forwards),
        )


def check_scorable(drafter: str, engine: str) -> None:
    """Refuse a pair of which there is nothing to score.

    Args:
        drafter: ``model``, ``prompt_lookup`` or ``none``.
        engine: Which engine runs the pair.

    Raises:
        ConfigError: The drafter is no model.
        EngineError: It is not the embedded engine.
    """
    if drafter != "model":
        raise ConfigError("drafter", drafter, "a model: there are no rows of a drafter to score here")
    if engine != "pytorch":
        raise EngineError(f"drafter score runs the engine 'pytorch', not {engine!r}")
