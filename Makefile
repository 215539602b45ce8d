# `make help` lists what there is. For everybody: `make try` and `make test`. For those who change the code: `make check`.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --quiet --quiet --disable-pip-version-check
DIR    ?=
BENCH  ?=
TESTS  ?=

.PHONY: help try check test sim crash fuzz lint types imports bench clean

help:
	@echo "make try              back up, change, dump, merge, verify, restore and compare a copy of a real directory"
	@echo "make try DIR=~/src    the same with a copy of yours; nothing outside a temporary directory is written"
	@echo "make check            lint, types, imports and the quick tests: some 3 minutes on two cores"
	@echo "make test             everything that must hold: some 20 minutes; names the programs that it misses"
	@echo "make test INSTALL=1   the same, and installs those with apt-get before (as root; no mail server, no inetd)"
	@echo "make test TESTS=DIR   a part: TESTS=tests/pool, TESTS='tests/cli -k restore'"
	@echo "make sim SEEDS=10000  histories of replicated volumes under faults"
	@echo "make crash STATES=10000  power cuts, kills, failing disks and two commands at once"
	@echo "make fuzz MINUTES=10  what comes from outside, led by coverage (docs/fuzzing.md); RUNS=N instead; TARGETS='pack answer'"
	@echo "make bench            beside restic, borg and tar; writes docs/benchmarks.md; a short one: BENCH=--quick"
	@echo "make lint             ruff, and scripts/check_*.py: sizes, imports, errors in docstrings, words; their lists may only shrink"
	@echo "make types imports clean"

# Back up, change, dump, merge, verify and restore a copy of a real directory: make try DIR=/some/dir
try: $(VENV)/.installed
	@PATH="$(CURDIR)/$(BIN):$$PATH" bash scripts/try.sh "$(DIR)"

# Everything that must hold, from the bottom floor up. INSTALL=1: get with apt-get what some tests compare with.
test: $(VENV)/.installed-test
	@INSTALL="$(INSTALL)" bash scripts/test-programs.sh
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -rs --durations=15 --durations-min=1 $(TESTS)

# What can be asked after each change: all but the tests that take long or start servers.
check: lint types imports
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/python -m pytest -m "not slow and not server" $(TESTS)

# Thousands of histories of replicated volumes under faults: make sim SEEDS=10000 FROM=1
SEEDS ?= 10000
FROM  ?= 1
sim: $(VENV)/.installed-test
	@DAL_SIM_SEEDS=$(SEEDS) DAL_SIM_SEED=$(FROM) $(BIN)/python -m pytest --timeout 3600 tests/sim

# States of a disk after power cuts, kills and failing syncs: make crash STATES=10000 SEED=1
STATES ?= 10000
SEED   ?= 1
crash: $(VENV)/.installed-test
	@DAL_CRASH_STATES=$(STATES) DAL_CRASH_SEED=$(SEED) $(BIN)/python -m pytest --timeout 36000 -s -n 2 tests/crash -k whatever_fails

# Everything that comes from outside, under atheris: make fuzz MINUTES=10, or RUNS=5000000 of each; TARGETS='pack answer'
MINUTES ?= 10
RUNS    ?= 0
TARGETS ?=
fuzz: $(VENV)/.installed-test
	@$(BIN)/python -c 'import atheris' 2>/dev/null || $(PIP) install --only-binary atheris -e '.[test,fuzz]' || true
	@if $(BIN)/python -c 'import atheris' 2>/dev/null; \
	 then exec $(BIN)/python tests/fuzz/run.py --minutes $(MINUTES) --runs $(RUNS) $(TARGETS); \
	 else echo "!!! NOT FUZZED: there is no atheris for $$($(BIN)/python -V) on this machine" >&2; \
	 fi

lint: $(VENV)/.installed-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check -q .
	@for check in sizes imports docstrings words; do $(BIN)/python scripts/check_$$check.py || exit 1; done

types: $(VENV)/.installed-dev
	@$(BIN)/mypy

imports: $(VENV)/.installed-dev
	@$(BIN)/lint-imports

# Beside restic, borg and tar; writes docs/benchmarks.md. A short one: make bench BENCH=--quick
bench: $(VENV)/.installed-server
	@$(BIN)/python bench/run.py $(BENCH)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Python 3.11 or newer is needed: make PYTHON=python3.11 ..." >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV)"
	@$(PIP) install -e .
	@touch $@

$(VENV)/.installed-server: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with the server"
	@$(PIP) install -e '.[server]'
	@touch $@

$(VENV)/.installed-test: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with what the tests need"
	@$(PIP) install -e '.[test]'
	@touch $@

$(VENV)/.installed-dev: pyproject.toml | $(BIN)/python
	@echo "installing into $(VENV), with what the checks need"
	@$(PIP) install -e '.[test,dev]'
	@touch $@

clean:
	@rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
