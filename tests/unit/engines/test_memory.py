"""The memory plan: its formula with numbers worked by hand, what it reads from the machine, what it refuses."""

from __future__ import annotations

import logging
from pathlib import Path

import psutil
import pytest
import torch

from spec_cascade.engines import open_engine
from spec_cascade.engines.pytorch import memory
from spec_cascade.engines.pytorch.cache import SlotCache
from spec_cascade.engines.pytorch.memory import (
    MemoryPlan,
    ModelSize,
    cgroup_rooms,
    free_bytes,
    plan_memory,
    weight_bytes,
)
from spec_cascade.errors import EngineError
from tests.tiny import VOCAB, tiny_llama, trimmed

TARGET = ModelSize(kv_per_token=1000, mask_per_pair=3, activations_per_token=50, logits_per_row=2400)
DRAFTER = ModelSize(kv_per_token=200, mask_per_pair=1, activations_per_token=10, logits_per_row=2400)
# Per slot, with C = 10, K = 4, L = 20: cache, logits, prefill, mask of both models.
CACHE = 20 * (1000 + 200)
BUFFERS = 2 * 5 * 2400 + 10 * (50 + 10) + 10 * 20 * (3 + 1)


def plan(free: int, *, weights: int = 0, max_batch_size: int = 8, max_seq_len: int = 20) -> MemoryPlan:
    return plan_memory(
        [TARGET, DRAFTER],
        free=free,
        weights=weights,
        max_batch_size=max_batch_size,
        max_seq_len=max_seq_len,
        max_draft_length=4,
        prefill_chunk=10,
    )


def test_a_slot_costs_its_cache_its_logits_its_prefill_and_its_mask() -> None:
    roomy = plan(10**9, weights=7)
    assert (roomy.slots, roomy.cache_per_slot, roomy.buffers_per_slot) == (8, CACHE, BUFFERS)
    assert roomy.cache == 8 * CACHE
    assert roomy.total == 7 + 8 * (CACHE + BUFFERS)


@pytest.mark.parametrize("slots", [1, 3, 7])
def test_as_many_slots_run_as_fit_beside_the_weights_and_the_margin(slots: int) -> None:
    room = slots * (CACHE + BUFFERS)
    exact = -(-(room + 1000) * 20 // 19)  # 5 % of it stay free
    assert plan(exact, weights=1000).slots == slots
    assert plan(exact + 100, weights=1000).slots == slots
    if slots > 1:
        assert plan(exact - 100, weights=1000).slots == slots - 1


def test_where_no_slot_fits_the_error_names_the_length_that_would() -> None:
    free = 60_000
    with pytest.raises(
        EngineError, match=r"^max_seq_len = 50 needs \d+ bytes for one sequence.*57000 bytes"
    ) as refused:
        plan(free, max_seq_len=50)
    longest = int(str(refused.value).split("max_seq_len = ")[2].split()[0])
    assert plan(free, max_seq_len=longest).slots == 1
    with pytest.raises(EngineError):
        plan(free, max_seq_len=longest + 1)


def test_where_the_weights_alone_are_too_much_no_length_is_advised() -> None:
    with pytest.raises(EngineError, match=r"and 0 bytes are left.*no max_seq_len would fit"):
        plan(1000, weights=1000)


def test_the_planned_cache_is_the_cache_that_is_allocated() -> None:
    model = tiny_llama().bfloat16()
    cache = SlotCache(model.config, slots=4, max_seq_len=32, dtype=torch.bfloat16, device=torch.device("cpu"))
    size = ModelSize.of(model)
    assert 4 * 32 * size.kv_per_token == cache.keys.nbytes + cache.values.nbytes
    assert size.mask_per_pair == 9 + (1 + 2) * 2
    assert size.logits_per_row == VOCAB * 4 * 6


def test_a_trimmed_head_has_rows_of_its_own_and_narrower_logits() -> None:
    model = tiny_llama()
    small = trimmed(model, range(10))
    assert ModelSize.of(small).logits_per_row == (10 * 6 + VOCAB * 2) * 4
    hidden = model.config.hidden_size
    assert weight_bytes(small) == weight_bytes(model) - (VOCAB - 10) * hidden * 4
    small.model.embed_tokens.weight = model.get_output_embeddings().weight
    alone = weight_bytes(small)
    assert weight_bytes(model, small) == weight_bytes(model) + alone - VOCAB * hidden * 4


def test_weights_that_two_models_share_count_once() -> None:
    model, other = tiny_llama(seed=0), tiny_llama(seed=1)
    own = weight_bytes(model)
    assert own >= sum(p.nbytes for p in model.parameters())
    assert weight_bytes(model, model) == own
    assert weight_bytes(model, other) == 2 * own
    other.model.embed_tokens.weight = model.model.embed_tokens.weight
    assert weight_bytes(model, other) == 2 * own - model.model.embed_tokens.weight.nbytes


def test_a_plan_that_falls_short_is_a_warning_with_the_numbers(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, logger=memory.__name__)
    plan(10**9).report()
    plan((CACHE + BUFFERS) * 3).report()
    fitting, short = caplog.records
    assert (fitting.levelno, short.levelno) == (logging.INFO, logging.WARNING)
    assert "8 of 8 sequences of 20 tokens" in fitting.message
    assert "max_batch_size = 8 does not fit; memory holds 2 of 8 sequences" in short.message
    assert "\n" not in fitting.message + short.message


def test_a_cpu_has_what_the_machine_and_its_control_groups_leave(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "cgroup_rooms", lambda: iter([]))
    assert 0 < free_bytes(torch.device("cpu")) <= psutil.virtual_memory().total
    monkeypatch.setattr(memory, "cgroup_rooms", lambda: iter([5000, 7000]))
    assert free_bytes(torch.device("cpu")) == 5000


def write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_version_2_groups_are_read_up_to_the_root_and_file_pages_count_as_free(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "0::/pod/box\n",
            base + "pod/box/memory.max": "1000\n",
            base + "pod/box/memory.current": "700\n",
            base + "pod/box/memory.stat": "anon 300\nactive_file 150\ninactive_file 50\n",
            base + "pod/memory.max": "max\n",
            base + "memory.max": "900\n",
            base + "memory.current": "850\n",
            base + "memory.stat": "anon 850\n",
        },
    )
    assert list(cgroup_rooms(tmp_path)) == [500, 50]


def test_version_1_groups_are_read_even_where_their_own_path_is_out_of_sight(tmp_path: Path) -> None:
    base = "sys/fs/cgroup/memory/"
    write(
        tmp_path,
        {
            "proc/self/cgroup": "4:memory:/far/away\n3:cpu:/\n0::/\n",
            base + "memory.limit_in_bytes": "5000\n",
            base + "memory.usage_in_bytes": "3000\n",
            base + "memory.stat": "cache 9\ntotal_active_file 400\ntotal_inactive_file 600\n",
        },
    )
    assert list(cgroup_rooms(tmp_path)) == [3000]


def test_a_machine_without_control_groups_has_no_such_limit(tmp_path: Path) -> None:
    assert list(cgroup_rooms(tmp_path)) == []


def test_an_engine_runs_as_many_sequences_as_fit(
    built_engine: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("spec_cascade.engines.pytorch.open.free_bytes", lambda _: 2_000_000)
    engine = open_engine(built_engine)
    try:
        assert 1 <= engine.limits.max_batch_size < 8
        assert f"memory holds {engine.limits.max_batch_size} of 8" in caplog.text
    finally:
        engine.close()
    monkeypatch.setattr("spec_cascade.engines.pytorch.open.free_bytes", lambda _: 700_000)
    with pytest.raises(EngineError, match="max_seq_len = 128 needs"):
        open_engine(built_engine)
