# Everything runs in .venv, which `make setup` builds from nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: setup demo test lint types unit clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $(STAMP)

demo: setup
	$(BIN)/embedseg-large demo --overwrite

test: lint types unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/mypy

# --dist loadscope keeps the tests of one module, and so their Dask cluster, in one process.
unit: setup
	$(BIN)/pytest -n 2 --dist loadscope

clean:
	rm -rf $(VENV) embedseg-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
