"""How many sequences fit: planned once, when an engine opens.

A slot holds one sequence. In bytes, with C = ``prefill_chunk`` (at most L), K = ``max_draft_length``, L =
``max_seq_len``, V the width of a model's logits, s the size of a number of the model's dtype, each summed over both
models::

    cache    L * layers * 2 * kv_heads * head_width * s
    logits   (K + 1) * V * 4 * 6       rows in float32: raw, gate, sampling, sorted by a truncation, law, residual;
             of a trimmed head 2 more, as wide as the vocabulary, for rules and kernels that want whole rows
    prefill  C * (8 * hidden + 3 * intermediate) * s    what a layer keeps at a time of one chunk
    mask     C * L * (9 + windows * (1 + query heads per key head) * s)    which keys the chunk sees: distances, truths,
             and numbers, for full and for sliding layers

The slots share what the device has free before the weights are read, less the weights and a margin of 5 %. Weights
count in full even on a CPU: they are mapped from their files, and a page that is dropped is read again in every round.
"""

from __future__ import annotations

import logging
from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import torch

from spec_cascade.engines.pytorch.families import head_width, kv_heads
from spec_cascade.engines.pytorch.load import logits_width
from spec_cascade.errors import EngineError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from transformers import PreTrainedModel

log = logging.getLogger(__name__)

_LOGIT_COPIES = 6
_WIDENED_COPIES = 2
_MARGIN = 0.05
_UNLIMITED = "max"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSize:
    """What one model takes, in bytes.

    Attributes:
        kv_per_token: Keys and values of one token in all layers.
        mask_per_pair: Mask of one query token and one key.
        activations_per_token: Of one token in a prefill chunk.
        logits_per_row: All that is made of one row of logits.
    """

    kv_per_token: int
    mask_per_pair: int
    activations_per_token: int
    logits_per_row: int

    @classmethod
    def of(cls, model: PreTrainedModel) -> ModelSize:
        """The sizes of a model whose cache has its own type."""
        config, size = model.config, model.dtype.itemsize
        heads = kv_heads(config)
        windows = len(set(getattr(config, "layer_types", None) or ["one"]))
        hidden = config.hidden_size
        inner = getattr(config, "intermediate_size", None) or 4 * hidden
        width = logits_width(model)
        widened = _WIDENED_COPIES * config.vocab_size if width < config.vocab_size else 0
        return cls(
            kv_per_token=config.num_hidden_layers * 2 * heads * head_width(config) * size,
            mask_per_pair=9 + windows * (1 + config.num_attention_heads // heads) * size,
            activations_per_token=(8 * hidden + 3 * inner) * size,
            logits_per_row=(_LOGIT_COPIES * width + widened) * 4,
        )

    def buffers(self, max_seq_len: int, prefill_chunk: int, max_draft_length: int) -> int:
        """Bytes of logits, prefill and mask of one slot."""
        logits = (max_draft_length + 1) * self.logits_per_row
        chunk = max(prefill_chunk, max_draft_length + 1)
        return logits + chunk * (self.activations_per_token + max_seq_len * self.mask_per_pair)


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """What an engine holds; sizes in bytes.

    Attributes:
        slots: Sequences that run at a time.
        wanted_slots: ``max_batch_size`` as it was asked for.
        max_seq_len: Tokens of one slot.
        cache_per_slot: Keys and values of one slot, both models.
        buffers_per_slot: Logits, prefill and mask of one slot, both models.
        weights: Both models.
        free: What the device had before the weights were read.
    """

    slots: int
    wanted_slots: int
    max_seq_len: int
    cache_per_slot: int
    buffers_per_slot: int
    weights: int
    free: int

    @property
    def cache(self) -> int:
        """Keys and values of all slots."""
        return self.slots * self.cache_per_slot

    @property
    def total(self) -> int:
        """All that the engine takes, without the margin."""
        return self.weights + self.slots * (self.cache_per_slot + self.buffers_per_slot)

    def __str__(self) -> str:
        return (
            f"{self.slots} of {self.wanted_slots} sequences of {self.max_seq_len} tokens: {_gib(self.total)} of "
            f"{_gib(self.free)} (weights {_gib(self.weights)}, keys and values {_gib(self.cache)}, "
            f"buffers {_gib(self.slots * self.buffers_per_slot)})"
        )

    def report(self) -> None:
        """Log the plan, as a warning where fewer sequences fit than were asked for."""
        if self.slots < self.wanted_slots:
            log.warning("max_batch_size = %d does not fit; memory holds %s", self.wanted_slots, self)
        else:
            log.info("memory holds %s", self)


def plan_memory(
    models: list[ModelSize],
    *,
    free: int,
    weights: int,
    max_batch_size: int,
    max_seq_len: int,
    max_draft_length: int,
    prefill_chunk: int,
) -> MemoryPlan:
    """As many slots as fit, up to ``max_batch_size``; the formula is the module's.

    Args:
        models: Target and drafter; only models that have weights.
        free: Bytes before the weights are read.
        weights: Bytes of all weights.
        max_batch_size: Sequences wanted at a time.
        max_seq_len: Tokens of one sequence.
        max_draft_length: Largest K.
        prefill_chunk: Most prompt tokens of one sequence in one forward.

    Raises:
        EngineError: Not one sequence fits; says what ``max_seq_len`` would.
    """

    def buffers(length: int) -> int:
        return sum(m.buffers(length, min(prefill_chunk, length), max_draft_length) for m in models)

    def slot(length: int) -> int:
        return length * sum(m.kv_per_token for m in models) + buffers(length)

    room = max(int(free * (1 - _MARGIN)) - weights, 0)
    slots = min(max_batch_size, room // slot(max_seq_len))
    if slots == 0:
        longest = bisect_right(range(1, max_seq_len), room, key=slot)
        advice = f"max_seq_len = {longest} would fit" if longest else "no max_seq_len would fit"
        raise EngineError(
            f"max_seq_len = {max_seq_len} needs {slot(max_seq_len)} bytes for one sequence, and {room} bytes are left "
            f"of {free} after weights of {weights} and a margin of {_MARGIN:.0%}: {advice}"
        )
    return MemoryPlan(
        slots=slots,
        wanted_slots=max_batch_size,
        max_seq_len=max_seq_len,
        cache_per_slot=slot(max_seq_len) - buffers(max_seq_len),
        buffers_per_slot=buffers(max_seq_len),
        weights=weights,
        free=free,
    )


def weight_bytes(*models: PreTrainedModel) -> int:
    """Bytes of all parameters and buffers; what models or layers share counts once."""
    storages = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            storage = tensor.untyped_storage()
            # A shared file holds many tensors in one storage: each counts by its own place in it.
            storages[storage.data_ptr(), tensor.storage_offset()] = tensor.nbytes
    return sum(storages.values())


def free_bytes(device: torch.device) -> int:
    """What may still be allocated on a device."""
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(torch.cuda.mem_get_info(device)[0]) + cached
    return min([psutil.virtual_memory().available, *cgroup_rooms()])


def cgroup_rooms(root: Path = Path("/")) -> Iterator[int]:
    """Bytes left under each memory limit of this process's control groups; file pages count as free.

    Reads version 2 and version 1. Inside a container the group's own path may be out of sight: then its mount is its
    limit.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    try:
        lines = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return
    mounts = root / "sys/fs/cgroup"
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if not controllers:
            for mount in (mounts, mounts / "unified"):
                yield from _rooms(mount, path, "memory.max", "memory.current", "")
        elif "memory" in controllers.split(","):
            yield from _rooms(mounts / "memory", path, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_")


def _rooms(mount: Path, path: str, limit_file: str, usage_file: str, prefix: str) -> Iterator[int]:
    """Of a group and all groups above it."""
    group = Path(path.lstrip("/"))
    for directory in dict.fromkeys([group, *group.parents]):
        try:
            limit = (mount / directory / limit_file).read_text().strip()
            if limit == _UNLIMITED:
                continue
            usage = int((mount / directory / usage_file).read_text())
            lines = (mount / directory / "memory.stat").read_text().splitlines()
            counts = dict(line.split() for line in lines)
            pages = sum(int(counts.get(f"{prefix}{kind}_file", 0)) for kind in ("active", "inactive"))
            yield max(int(limit) - max(usage - pages, 0), 0)
        except (OSError, ValueError):
            # Not every kernel shows every group, and the root group has no limit.
            continue


def _gib(size: int) -> str:
    return f"{size / 2**30:.2f} GiB"
