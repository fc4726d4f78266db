# Everything that a person or CI does here, by name. `make` alone lists it.

PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
JOBS   ?= auto
BIN    := $(VENV)/bin

# Some machines export this; without bytecode every `import torch` costs twice (3.8 s for 2.0 s).
unexport PYTHONDONTWRITEBYTECODE
# Tests, checks and the demo need no network and must not wait for one.
export HF_HUB_OFFLINE ?= 1

PIP := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check install --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test check lint types layers fix bench embedded clean

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo "  Add words with ARGS, as in: make test ARGS='-k lora'. PYTHON, VENV and JOBS can be set too."

setup: $(VENV)/.dev  ## Make .venv with Luthier and its tools (once; 1.5 GB)

demo: setup  ## Train, compare and report on the embedded model
	$(BIN)/luthier demo $(ARGS)

test: setup  ## Run the tests
	$(BIN)/python -m pytest -n $(JOBS) --maxprocesses 8 --dist loadfile $(ARGS)

check: lint types layers test  ## Everything that CI runs: form, types, layers, tests

lint: setup  ## Look at form and style
	@status=0; for look in 'format --check' check; do \
	  $(BIN)/ruff $$look --output-format concise . || status=1; done; exit $$status

types: setup  ## Check the types
	$(BIN)/mypy

layers: setup  ## Check who imports whom
	$(BIN)/lint-imports --no-logo

fix: setup  ## Put form and style right
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.bench  ## Measure Luthier beside TRL, PEFT and Trainer: SFT, DPO, encoders, QLoRA (two hours; ARGS='--rounds 1' is a look)
	@status=0; for what in run dpo encoder qlora; do $(BIN)/python benchmarks/$$what.py $(ARGS) || status=1; done; exit $$status

embedded: setup  ## Make the embedded model anew (its data, tokenizer and weights)
	$(BIN)/python embedded/make.py $(ARGS)

clean:  ## Remove .venv, caches and build files; runs/ stays
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	find src tests benchmarks embedded -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: installed again only when the requirements may have changed.
$(VENV)/.dev: pyproject.toml constraints.txt
	@echo "Setting up $(VENV): a few minutes the first time"
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(PIP) --editable '.[dev]'
	@touch $@

$(VENV)/.bench: $(VENV)/.dev
	@$(PIP) --editable '.[bench]'
	@touch $@
