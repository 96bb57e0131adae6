# make demo   set up, then synthetic clips -> shards -> trained adapters -> two result tables
# make test   set up, then lint and all tests but the one that starts a whole cluster
# make test-cluster   that one;  make test-fast   all but those that start Ray
# make bench  the ratios of benchmarks/README.md, measured on this machine
# make lint   ruff check and format check;  make format   apply them
# make ui     MLflow UI of the demo's runs, on loopback
# make clean  remove the environment and everything the demo wrote

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUTPUT ?= demo
PYTEST_ARGS ?=

.PHONY: help setup test test-fast test-ray test-cluster lint format demo bench ui clean
help:
	@sed -n '/^$$/q;s/^# //p' Makefile

setup: $(READY)

# Everything is pinned in constraints.txt; the stamp keeps a later make from doing any of this again. Byte code is
# compiled here once, not by every process that starts: where Python may not write it, that is 20 s each.
$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "Python 3.11 or 3.12 is needed and none was found; set PYTHON=/path/to/python3.11"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' || \
		{ echo "Python 3.11 or 3.12 is needed, $(PYTHON) is $$($(PYTHON) --version); set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt uv
	$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python -c constraints.txt -e ".[dev]"
	@touch $@

test: $(READY) lint
	$(BIN)/python -m pytest -m "not cluster" $(PYTEST_ARGS)

test-fast: $(READY) lint
	$(BIN)/python -m pytest -m "not ray and not cluster" $(PYTEST_ARGS)

test-ray: $(READY)
	$(BIN)/python -m pytest -m ray $(PYTEST_ARGS)

test-cluster: $(READY)
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

demo: $(READY)
	$(BIN)/stgcma-jobs demo --output $(DEMO_OUTPUT)

bench: $(READY)
	$(BIN)/python -m benchmarks

ui: $(READY)
	$(BIN)/stgcma-jobs ui --output $(DEMO_OUTPUT)

clean:
	rm -rf $(VENV) $(DEMO_OUTPUT)
