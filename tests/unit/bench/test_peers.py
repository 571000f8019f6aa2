"""transformers' assisted generation beside an engine of ours."""

from __future__ import annotations

from dataclasses import replace
from time import perf_counter
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file

from spec_cascade.bench.peers import ASSISTED, open_peers
from spec_cascade.bench.samples import Task
from spec_cascade.decoding.sampling import SamplingParams
from spec_cascade.engines.manifest import TRIMMED_HEAD, Manifest
from tests.built import build_tiny
from tests.tiny import CPU

if TYPE_CHECKING:
    from pathlib import Path


def test_a_drafter_with_a_trimmed_head_assists_with_its_whole_one(tmp_path: Path) -> None:
    engine = build_tiny(tmp_path)
    save_file({"token_ids": torch.arange(0, 300, 3)}, engine / "drafter" / TRIMMED_HEAD)
    manifest = Manifest.read(engine)
    manifest = replace(manifest, vocabulary=replace(manifest.vocabulary, drafter_logits=100))
    task = Task(prompt=0, prompt_ids=(5, 6, 7), sampling=SamplingParams(temperature=0, max_tokens=8))
    subjects, remarks = open_peers(engine, manifest, CPU, [task], 2, perf_counter)
    assisted = [subject for subject in subjects if subject.name.startswith(ASSISTED)]
    assert (len(assisted), remarks) == (2, [])
    for subject in assisted:
        assert subject.options["assistant_model"].get_output_embeddings().out_features == 300
        assert len(subject.reply(task, perf_counter).token_ids) == 8
