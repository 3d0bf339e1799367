# Everything runs in .venv, which `make setup` builds from nothing.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
# Runs sync every file: where memory has room, tests write there instead of to a disk.
ROOM   := $(shell df --output=avail -k /dev/shm 2>/dev/null | tail -1)
TMPFS  := $(shell test "$(ROOM)" -gt 6000000 2>/dev/null && echo PYTEST_DEBUG_TEMPROOT=/dev/shm)
TEST   := OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 $(TMPFS) $(BIN)/pytest -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: setup demo test check lint types unit slow search newest docs notebooks clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	touch $(STAMP)

demo: setup
	$(BIN)/embedseg-large demo --overwrite

test: lint types unit

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/deptry embedseg_large

types: setup
	$(BIN)/mypy

# --dist loadscope keeps the tests of one module, and so their Dask cluster, in one process. Modules run in the
# order of their names: integration tests, which take longest, first. One thread per process: two processes share
# two cores, and threads that wait for each other on busy cores make a training step ten times slower.
unit: setup
	$(TEST) -m "not slow"

# Random sweeps, every variant of a kill, real clusters, other programs' formats: a quarter of an hour more.
slow: setup
	$(TEST) -m slow

# Properties with 500 new random examples each; what it finds becomes an example or a test. An hour.
search: setup
	$(TEST) --hypothesis-profile=search -m "slow or not slow" $(shell grep -rlE "^@given" tests)

# Storage, volumes and labels with the newest Python and zarr, in an environment of its own: three minutes.
newest: setup
	.ci/newest

# What concerns one file, in under a minute: make check FILE=embedseg_large/runs/lock.py
# Lint and types of its room, the import rules, and the room's own unit and property tests. FILE may be a room.
check: setup
	$(BIN)/python scripts/check.py $(FILE)

# Into docs/_build/html; a warning is an error.
docs: setup
	$(BIN)/sphinx-build --quiet --fail-on-warning --keep-going docs docs/_build/html

# The tutorials whose sources have changed, into docs/tutorials/*.ipynb: minutes.
notebooks: setup
	$(BIN)/python docs/notebooks.py

clean:
	rm -rf docs/_build docs/reference/cli docs/reference/generated $(VENV) .venv-newest embedseg-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis
