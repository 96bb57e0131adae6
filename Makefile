# make demo          set up; make synthetic clips and shards, train adapters, print two result tables
# make test          set up; run lint and all tests except the cluster test
# make test-quick    set up; run the tests that take about a second or less: under a minute in all
# make test-fast     set up; run lint and all tests that do not start Ray
# make test-ray      set up; run only the tests that start Ray
# make test-cluster  set up; run only the test that starts a Ray cluster
# make bench         set up; run the benchmarks of benchmarks/README.md
# make lint          set up; run ruff, mypy and codespell
# make format        set up; apply ruff's fixes and its format
# make ui            set up; show the demo's runs in MLflow, on loopback
# make clean         remove the environment and the demo's output

PYTHON ?= $(firstword $(shell command -v python3.11 python3.12 python3))
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
DEMO_OUTPUT ?= demo
PYTEST_ARGS ?=

.PHONY: help setup test test-quick test-fast test-ray test-cluster lint format demo bench ui clean
help:
	@sed -n '/^$$/q;s/^# //p' Makefile

setup: $(READY)

# constraints.txt pins all packages. The stamp file keeps later calls of make from repeating this. Byte code is compiled
# here, because where Python cannot write it, each new process would spend 20 s on compiling.
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

test-quick: $(READY)
	$(BIN)/python -m pytest -m "not ray and not cluster and not slow" $(PYTEST_ARGS)

test-fast: $(READY) lint
	$(BIN)/python -m pytest -m "not ray and not cluster" $(PYTEST_ARGS)

test-ray: $(READY)
	$(BIN)/python -m pytest -m ray $(PYTEST_ARGS)

test-cluster: $(READY)
	$(BIN)/python -m pytest -m cluster $(PYTEST_ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell

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
