"""Tiny engines with each kind of drafter."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.built import build_tiny

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny(tmp_path_factory.mktemp("model"), defaults={"rule": "strict", "max_seq_len": 200})


@pytest.fixture(scope="session")
def lookup_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    drafter = {"prompt_lookup": {"min_ngram": 1, "max_ngram": 3}}
    defaults = {"rule": "strict", "max_seq_len": 200, "max_batch_size": 2}
    return build_tiny(tmp_path_factory.mktemp("lookup"), drafter=drafter, defaults=defaults)


@pytest.fixture(scope="session")
def bare_engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    defaults = {"rule": "strict", "max_seq_len": 200}
    return build_tiny(tmp_path_factory.mktemp("bare"), drafter="none", defaults=defaults)
