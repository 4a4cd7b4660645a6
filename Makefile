# Everything a newcomer or CI runs. Needs only make and Python >= 3.10 with venv; `make PYTHON=python3.12 test` picks another.
PYTHON ?= python3
VENV ?= .venv
JOBS ?= 2
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(if $(CI),--quiet) -c constraints.txt
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help quickstart test test-slow check format bench base docs clean
.DEFAULT_GOAL := help

help:  ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1: /p' $(MAKEFILE_LIST) | awk -F': ' '{ printf "make %-11s %s\n", $$1, $$2 }'

quickstart: $(VENV)/.installed  ## train a LoRA on bundled pictures, with a picture of what it does, in quickstart/
	$(BIN)/lorica quickstart

test: $(VENV)/.installed-dev  ## the fast tests: no GPU, no network, nothing slow
	$(PYTEST) -m "not slow and not gpu and not hub" -n $(JOBS) -q

test-slow: $(VENV)/.installed-dev  ## the tests that take longer, again without GPU and network
	$(PYTEST) -m "slow and not gpu and not hub" -q

check: $(VENV)/.installed-dev  ## lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/.installed-dev  ## mend what ruff can mend by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev  ## run every file in benchmarks/, one after the other
	@set -e; for file in benchmarks/*.py; do echo "== $$file"; $(BIN)/python "$$file"; done

base: $(VENV)/.installed  ## train the bundled base model again from nothing (hours on a CPU) and measure it
	$(BIN)/python -m lorica.demo.base

docs: $(VENV)/.installed-dev  ## run every code block of the docs and check every link between pages
	$(PYTEST) tests/test_docs.py -q

clean:  ## remove the environment and every cache
	rm -rf $(VENV) build dist .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Lorica needs Python 3.10 or newer. Name one: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || \
		{ echo "$(PYTHON) lacks venv. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: $(BIN)/python pyproject.toml constraints.txt
	@echo "Installing Lorica into $(VENV); the first time takes a few minutes."
	$(PIP) -e .
	@touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(PIP) -e ".[dev]"
	@touch $@
