"""How a model lies on GPUs."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Mapping:
    """The fake runs the first rank, whatever the sizes are."""

    world_size: int = 1
    rank: int = 0
    tp_size: int = 1
    pp_size: int = 1
    cp_size: int = 1
    enable_attention_dp: bool = False
    cp_config: dict[str, str] = field(default_factory=dict)
