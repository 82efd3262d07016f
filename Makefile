# `make demo` and `make test` set everything up by themselves.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
PEERS_VENV := .venv-peers
CUDA_TARGET := .cuda-target
RUN := $(VENV)/bin/python
DEMO_DIR ?= runs/demo
# Python's compiled modules are kept, whatever the caller's environment says: the tests
# start many processes.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help demo test test-slow test-peers test-cuda bench lint setup-run setup-test clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

demo: setup-run  ## Phantom data to test AUC, in runs/demo (minutes on two cores).
	$(RUN) -m mammo_jax.main --config=configs/whole_res.py:phantom --workdir=$(DEMO_DIR)

# Most of its time is XLA's compiler; the other suites have what it optimises.
test: setup-test  ## Run the test suite (minutes on two cores).
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" \
	  $(RUN) -m pytest -n auto --dist loadfile -m "not slow"

test-slow: setup-test  ## Run the tests that take long: kills, several processes, memory.
	$(RUN) -m pytest -n auto --dist load -m slow

test-peers: $(PEERS_VENV)/.installed  ## Run TFDS's own tests, a Beam build, and parity with PyTorch.
	$(PEERS_VENV)/bin/python -m pytest tests/conformance
	@# PyTorch crashes in a process that has TensorFlow in it.
	$(PEERS_VENV)/bin/python -m pytest tests/models/test_torch_parity.py

test-cuda: setup-test $(CUDA_TARGET)/.installed  ## Compile for a GPU and check the memory; needs no GPU.
	JAX_PLATFORMS=cpu PYTHONPATH=$(CUDA_TARGET) $(RUN) -m pytest -n auto tests/training/test_cuda_memory.py

bench: $(PEERS_VENV)/.installed  ## Measure beside PyTorch, Keras and others (about an hour, idle).
	$(PEERS_VENV)/bin/python -m benchmarks.side_by_side
	$(PEERS_VENV)/bin/python -m benchmarks.input_pipeline
	$(PEERS_VENV)/bin/python -m benchmarks.build_speed

lint: setup-test  ## Run the linters, the type checker and the check of the rooms' order.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

setup-run: $(VENV)/.run-installed  ## Install what running needs.

setup-test: $(VENV)/.test-installed  ## Install what tests and linters need, too.

$(VENV)/bin/python $(PEERS_VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' || \
	  { echo "error: Python 3.11 is needed; say where it is: make PYTHON=/path/to/python3.11 ..." >&2; exit 1; }
	$(PYTHON) -m venv $(@D:/bin=)

$(VENV)/.run-installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --no-compile --constraint requirements.lock --editable .
	touch $@

$(VENV)/.test-installed: pyproject.toml requirements.lock | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --no-compile --constraint requirements.lock --editable '.[test,dev,real]'
	touch $@ $(VENV)/.run-installed

# TensorFlow wants an older protobuf than the rest.
$(PEERS_VENV)/.installed: pyproject.toml requirements-peers.lock | $(PEERS_VENV)/bin/python
	$(PEERS_VENV)/bin/python -m pip install --quiet --no-compile --constraint requirements-peers.lock --editable '.[test,tfds,beam,bench]'
	touch $@

# Beside the environment and not in it: JAX would look for a GPU at every start.
$(CUDA_TARGET)/.installed: requirements.lock | $(VENV)/bin/python
	$(RUN) -m pip install --quiet --no-deps --target $(CUDA_TARGET) \
	  jax-cuda12-plugin==0.10.2 jax-cuda12-pjrt==0.10.2
	touch $@

clean:  ## Remove the environment and the caches, not data and runs.
	rm -rf $(VENV) $(PEERS_VENV) $(CUDA_TARGET) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
