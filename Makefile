# make demo    from nothing to a streamed answer out of a real Triton server
# make test    lint, types and tests; sets itself up on a fresh machine
# make lint    ruff and mypy alone
# make bench   the verifier, reference against baseline (and fused kernels on a GPU)
# make setup   the virtual environment .venv with everything installed

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

export PIP_DISABLE_PIP_VERSION_CHECK := 1
export TOKENIZERS_PARALLELISM := false

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint bench clean

help:
	@sed -n 's/^# //p' Makefile

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))' || { \
	  echo "make needs Python 3.10 to 3.12 (the Triton server's wheel needs numpy < 2): PYTHON=python3.12 make ..." >&2; \
	  exit 1; }
	$(PYTHON) -m venv $(VENV)
	@echo "Installing into $(VENV) (torch and a Triton server among it: minutes on a first run)"
	$(BIN)/python -m pip install --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: $(STAMP)
	$(BIN)/spec-cascade demo

test: lint
	$(BIN)/python -m pytest -m 'not slow and not gpu'

bench: $(STAMP)
	$(BIN)/python -m tests.benchmarks.bench_verify --device cpu --quick

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) engines .mypy_cache .pytest_cache .ruff_cache
