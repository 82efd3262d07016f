# `make demo` and `make test` set everything up by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin/python
DEMO_DIR ?= runs/demo

.PHONY: help demo test lint setup-run setup-test clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup-run  ## Phantom data to test AUC, in runs/demo (minutes on two cores).
	$(RUN) -m mammo_jax.main --config=configs/whole_res.py:phantom --workdir=$(DEMO_DIR)

test: setup-test  ## Run the whole test suite.
	$(RUN) -m pytest

lint: setup-test  ## Run the linters and the type checker.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

setup-run: $(VENV)/.run-installed  ## Install what running needs.

setup-test: $(VENV)/.test-installed  ## Install what tests and linters need, too.

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "error: Python 3.11 is needed; say where it is: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run-installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --constraint requirements.lock --editable .
	touch $@

$(VENV)/.test-installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --constraint requirements.lock --editable '.[test,dev,real]'
	touch $@ $(VENV)/.run-installed

clean:  ## Remove the environment and the caches, not data and runs.
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
