# `make demo` and `make test` set everything up by themselves.
# The newest that works; PYTHON=/path/to/python3.12 names another. With VENV=.venv-3.12
# it gets an environment of its own.
PYTHON ?= $(shell sh scripts/find_python.sh)
VENV := .venv
PEERS_VENV := .venv-peers
CUDA_TARGET := .cuda-target
ENVIRONMENT_MB := 2000
RUN := $(VENV)/bin/python
# Certificates are those of the system, as pip takes them: a hospital may have its own.
export UV_SYSTEM_CERTS ?= true
INSTALL := $(VENV)/bin/uv pip install --quiet
LOCK := $(VENV)/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
  --upgrade --generate-hashes --no-header --no-annotate --no-emit-index-url
extras = $(addprefix --extra ,$(1))
DEMO_DIR ?= runs/demo
# Python's compiled modules are kept, whatever the caller's environment says: the tests
# start many processes.
unexport PYTHONDONTWRITEBYTECODE

# A few seconds each, and together something of every room.
CHECKED := $(addprefix tests/,images evaluation phantom/test_mammogram.py \
  common/test_files.py common/test_run_directory.py \
  datasets/test_inbreast.py datasets/test_cbis_views.py datasets/test_splits.py \
  datasets/test_manifest.py datasets/test_packaged.py datasets/test_augment.py \
  models/test_groups.py models/test_flips.py weights/test_model_directory.py \
  training/test_stages.py training/test_optimizer.py training/test_run.py \
  prediction/test_find_files.py prediction/test_score_tables.py \
  prediction/test_identity.py prediction/test_page.py \
  builders/test_inbreast_builder.py paper/test_claims.py docs/test_pages.py)

# What depends most on the versions of Python and JAX.
CORE := $(addprefix tests/,models training weights prediction)

.DELETE_ON_ERROR:
.PHONY: help demo check test test-core test-slow test-peers test-cuda fuzz chaos audit licences bench lint docs lock setup-run setup-test clean

help:  ## Show this list.
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

# A train step's memory comes in huge pages, where the kernel gives them to who asks.
demo: export GLIBC_TUNABLES ?= glibc.malloc.hugetlb=1
demo: setup-run  ## Phantom data to test AUC, in runs/demo (minutes on two cores).
	$(RUN) -m mammo_jax.main --config=configs/whole_res.py:phantom --workdir=$(DEMO_DIR)

# Without the type checker, which takes a minute where nothing is cached.
check: setup-test  ## Run the linters and the fastest tests of every room (a minute).
	$(VENV)/bin/ruff check --quiet .
	$(VENV)/bin/ruff format --quiet --check .
	$(VENV)/bin/lint-imports
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" \
	  $(RUN) -m pytest -n auto -m "not slow" $(CHECKED)

# Most of its time is XLA's compiler; the other suites have what it optimises. In the order
# of the folders: by their number of tests, the longest file would come last.
test: setup-test  ## Run the test suite (minutes on two cores).
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" \
	  $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow"

test-core: setup-test  ## Run the tests of models, training and prediction only.
	XLA_FLAGS="$$XLA_FLAGS --xla_backend_optimization_level=0" \
	  $(RUN) -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not slow" $(CORE)

test-slow: setup-test  ## Run the tests that take long: kills, several processes, memory.
	$(RUN) -m pytest -n auto --dist load -m slow

test-peers: $(PEERS_VENV)/.installed  ## Run TFDS's own tests, a Beam build, and parity with PyTorch and ONNX.
	$(PEERS_VENV)/bin/python -m pytest tests/conformance
	@# PyTorch crashes in a process that has TensorFlow in it.
	$(PEERS_VENV)/bin/python -m pytest tests/models/test_torch_parity.py \
	  tests/weights/test_torch_weights.py tests/scripts/test_convert_weights.py
	$(PEERS_VENV)/bin/python -m pytest tests/prediction/test_onnx.py

test-cuda: setup-test $(CUDA_TARGET)/.installed  ## Compile for a GPU and check the memory; needs no GPU.
	JAX_PLATFORMS=cpu PYTHONPATH=$(CUDA_TARGET) $(RUN) -m pytest -n auto tests/training/test_cuda_memory.py

fuzz: setup-test  ## Feed 20,000 damaged files to the readers (minutes).
	$(RUN) tests/attack/fuzz.py --files=20000 --out=build/fuzz

chaos: setup-test  ## Kill commands, and fill their disk, at every write (two hours).
	$(RUN) tests/attack/chaos.py --out=build/chaos

bench: $(PEERS_VENV)/.installed  ## Measure beside PyTorch, Keras and others (about an hour, idle).
	$(PEERS_VENV)/bin/python -m benchmarks.side_by_side
	$(PEERS_VENV)/bin/python -m benchmarks.input_pipeline
	$(PEERS_VENV)/bin/python -m benchmarks.build_speed

lint: setup-test  ## Run the linters, the type checker and the check of the rooms' order.
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports

docs: setup-test  ## Write the reference pages of `import mammo_jax` to build/docs.
	$(RUN) docs/reference.py build/docs

setup-run: $(VENV)/.run-installed  ## Install what running needs.

setup-test: $(VENV)/.test-installed  ## Install what tests and linters need, too.

# Installs by uv, whose version and hash are in the lock, too.
$(VENV)/bin/uv $(PEERS_VENV)/bin/uv: requirements.lock
	@"$(PYTHON)" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
	  { echo "error: Python 3.11, 3.12 or 3.13 is needed, with venv; install one, or say where it is: make PYTHON=/path/to/python3.12 ..." >&2; exit 1; }
	@free=$$(df -Pk "$(dir $(abspath $(@D:/bin=)))" | awk 'END {print int($$4 / 1024)}'); \
	if [ "$$free" -lt $(ENVIRONMENT_MB) ] 2>/dev/null; then \
	  echo "error: $(abspath $(@D:/bin=)) needs $(ENVIRONMENT_MB) MB and $$free are free; free some space, or name another place: make VENV=/elsewhere/venv ..." >&2; exit 1; fi
	"$(PYTHON)" -m venv $(@D:/bin=)
	sed -n '/^uv==/,/[^\\]$$/p' requirements.lock > $(@D)/uv.txt
	$(@D)/python -m pip install --quiet --require-hashes --requirement $(@D)/uv.txt
	touch $@

$(VENV)/.run-installed: pyproject.toml setup.py requirements.lock | $(VENV)/bin/uv
	$(INSTALL) --python $(RUN) --constraint requirements.lock --editable .
	touch $@

$(VENV)/.test-installed: pyproject.toml setup.py requirements.lock | $(VENV)/bin/uv
	$(INSTALL) --python $(RUN) --constraint requirements.lock --editable '.[test,dev,real]'
	touch $@ $(VENV)/.run-installed

# TensorFlow wants an older protobuf than the rest.
$(PEERS_VENV)/.installed: pyproject.toml setup.py requirements-peers.lock | $(PEERS_VENV)/bin/uv
	$(PEERS_VENV)/bin/uv pip install --quiet --python $(PEERS_VENV)/bin/python --constraint requirements-peers.lock --editable '.[test,tfds,beam,bench,onnx]'
	touch $@

# Beside the environment and not in it: JAX would look for a GPU at every start.
$(CUDA_TARGET)/.installed: requirements.lock | $(VENV)/bin/uv
	$(INSTALL) --python $(RUN) --no-deps --target $(CUDA_TARGET) --constraint requirements.lock \
	  jax-cuda12-plugin jax-cuda12-pjrt
	touch $@

audit: setup-test  ## Look the locked packages up among known vulnerabilities.
	$(RUN) scripts/audit.py requirements.lock requirements-peers.lock

licences: setup-test  ## List the licences of all packages that are installed.
	$(RUN) -m piplicenses --with-urls --format=markdown

# For every supported Python and platform at once, with hashes.
lock: $(VENV)/bin/uv  ## Write the locks anew from pyproject.toml.
	$(LOCK) $(call extras,test dev docs real dicom hub onnx cuda12 cuda13) --output-file requirements.lock
	$(LOCK) $(call extras,test tfds beam bench onnx) --output-file requirements-peers.lock

clean:  ## Remove the environment and the caches, not data and runs.
	rm -rf $(VENV) $(wildcard .venv-3.* .cuda-target-3.*) $(PEERS_VENV) $(CUDA_TARGET) .pytest_cache .mypy_cache .ruff_cache .hypothesis *.egg-info
