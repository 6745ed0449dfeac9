# Every target does its own set-up. A machine needs Python 3.11 or newer, git, make and a C compiler.
# On a machine without a GPU the CPU build of torch is much smaller than the default one:
#   PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu make setup

PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
INSTALLED := .venv/installed
PYTEST := OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 $(BIN)/pytest
# Tests of Ray wait for processes to start and for leases to run out: three side by side keep two cores busy.
# tests/conftest.py says which stay together; directories in their order, so that the long ones start first.
SIDE_BY_SIDE := -n 3 --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-fast soak check format bench clean

help:
	@echo "make setup      .venv with everything in constraints.txt"
	@echo "make demo       the whole road on procedural faces, from a local store and a local Ray"
	@echo "make test       all tests;  make test-fast  those that need neither Ray nor a store"
	@echo "make soak       the tests that take minutes, most of an hour in all: lost hosts, 200 kills, a bad store, 64 trials at once"
	@echo "make check      format, lint, types, import directions;  make format  repairs the first two"
	@echo "make bench      the figures of docs/results.md that this machine can measure"
	@echo "make clean      remove .venv, caches and local runs"

setup: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.11")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[store,prepare,search,report,mlflow,dev]'
	touch $@

demo: $(INSTALLED)
	$(BIN)/orch demo

test: $(INSTALLED)
	$(PYTEST) $(SIDE_BY_SIDE) -m "not soak"

soak: $(INSTALLED)
	$(PYTEST) -m soak

test-fast: $(INSTALLED)
	$(PYTEST) $(SIDE_BY_SIDE) -m "not integration and not slow"

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(INSTALLED)
	$(BIN)/python -m benchmarks

clean:
	rm -rf .venv .local build dist demo runs *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
