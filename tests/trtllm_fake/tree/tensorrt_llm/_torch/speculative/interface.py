"""Ways to speculate."""

from __future__ import annotations

import os
from enum import IntEnum, auto


class SpeculativeDecodingMode(IntEnum):
    """The ways that are known by name here; one can be run."""

    MTP = auto()
    EAGLE3 = auto()
    NGRAM = auto()
    DRAFT_TARGET = auto()
    USER_PROVIDED = auto()
    NONE = auto()

    def is_draft_target(self) -> bool:
        """Whether a model of its own drafts."""
        return self is SpeculativeDecodingMode.DRAFT_TARGET

    def is_eagle3(self) -> bool:
        """Whether it is that."""
        return self is SpeculativeDecodingMode.EAGLE3

    def is_mtp_eagle(self) -> bool:
        """Whether it is that."""
        return False

    def has_draft_model(self) -> bool:
        """Whether there is a second model."""
        return self.is_draft_target() or self.is_eagle3()

    def has_spec_drafter(self) -> bool:
        """Whether somebody drafts beside the model."""
        return self.has_draft_model() or self is SpeculativeDecodingMode.NGRAM

    def has_spec_decoder(self) -> bool:
        """Whether it needs a sampler of its own."""
        return self in (SpeculativeDecodingMode.MTP, SpeculativeDecodingMode.EAGLE3)

    def use_one_engine(self) -> bool:
        """Whether one engine does all."""
        return self is SpeculativeDecodingMode.MTP

    def needs_kv_cache_recompute(self) -> bool:
        """Whether accepted tokens are fed to the drafter again."""
        return self.is_eagle3()

    def needs_kv_cache_rewind(self) -> bool:
        """Whether the model rewinds its cache itself."""
        return self is SpeculativeDecodingMode.MTP

    def support_overlap_scheduler(self) -> bool:
        """Whether the overlapping loop can run it."""
        return self is not SpeculativeDecodingMode.NGRAM

    def support_guided_decoder(self) -> bool:
        """Whether grammars work."""
        return self is not SpeculativeDecodingMode.MTP

    @staticmethod
    def from_string(name: str | None) -> SpeculativeDecodingMode:
        """By its name."""
        return SpeculativeDecodingMode.NONE if name is None else SpeculativeDecodingMode[name.upper()]


def get_force_num_accepted_tokens() -> int:
    """How many drafts are to stand whatever they are; 0 is as they are."""
    try:
        return int(os.environ.get("TLLM_SPEC_DECODE_FORCE_NUM_ACCEPTED_TOKENS", "0"))
    except ValueError:
        return 0
