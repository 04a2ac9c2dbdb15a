# Every target sets up what it needs: a fresh machine has Python 3.11 or newer (with venv) and make, no more.
#   make demo    the main job: a run survives kill -9 of its worker and of Temporal
#   make up      Temporal, scripted vendors, a worker and the API on this machine; Ctrl-C stops them
#   make test    the tests            make lint    style, types, import rules
#   make bench   the measurements     make sim     10,000 simulated runs of the core
#   make bench-time  timers and sleepers: wake accuracy of 1,000, what 10,000 cost
#   make histories  record anew the histories that later workflows replay: before a release
#   make campaign  budgets under fire: 2,000 simulated runs, and 100 real ones whose workers are killed

UV_VERSION := 0.13.8
PYTHON ?= python3
PYTHON_RANGE := >=3.11,<3.15# the PostgreSQL wheel of the tests has no build for 3.15 yet
BIN := .venv/bin
INSTALLED := .venv/.installed
TEST_PROCESSES ?= 2
TESTS ?=# make test TESTS=tests/core

# A uv of the machine is used as it is; without one, a pinned uv is put into .uv, and nowhere else.
UV := $(shell command -v uv 2>/dev/null || echo .uv/bin/uv)
export UV_PYTHON_DOWNLOADS := never# the machine's own Python, nothing fetched behind its back
ifdef PIP_INDEX_URL
export UV_DEFAULT_INDEX ?= $(PIP_INDEX_URL)# whoever told pip about a mirror has told uv
endif

.DEFAULT_GOAL := help
.PHONY: help install demo up test lint bench bench-time sim histories campaign lock clean

help:
	@sed -n 's/^#   make/make/p' Makefile

install: $(INSTALLED)

.uv/bin/uv:
	$(PYTHON) -m venv .uv
	.uv/bin/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)

# The stamp makes the second time instant. A .venv whose Python has gone is made anew.
$(INSTALLED): requirements.lock pyproject.toml $(filter .uv/bin/uv,$(UV))
	$(BIN)/python -c "" 2>/dev/null || { rm -rf .venv; $(UV) venv --quiet --python "$(PYTHON_RANGE)" .venv; }
	$(UV) pip sync --quiet --python $(BIN)/python --require-hashes --compile-bytecode requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

demo: install
	$(BIN)/perdure demo

up: install
	$(BIN)/perdure up

test: install
	$(BIN)/python -m pytest -n $(TEST_PROCESSES) --dist loadfile $(TESTS)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: install
	$(BIN)/python -m bench

bench-time: install
	$(BIN)/python -m bench.time

histories: install
	$(BIN)/python -m tests.e2e.record_histories

sim: install
	$(BIN)/python -m tests.core.simulation --seeds 10000
	$(BIN)/python -m tests.core.simulation --time --seeds 2000
	$(BIN)/python -m tests.core.simulation --family --seeds 5000

campaign: install
	$(BIN)/python -m tests.core.simulation --budget --seeds 2000
	$(BIN)/python -m tests.e2e.budget_campaign --runs 100
	$(BIN)/python -m tests.e2e.family_campaign --seeds 20 --tree 5x5x5

# A requirements file and not uv.lock: the latter names the registry it was resolved from (docs/WHY.md).
lock: $(filter .uv/bin/uv,$(UV))
	$(UV) pip compile --quiet --universal --generate-hashes --no-header --no-annotate --python-version 3.11 \
		--group dev pyproject.toml --output-file requirements.lock

clean:
	rm -rf .venv .uv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
