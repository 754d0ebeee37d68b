# The front door. Needs Python 3.11 or newer with venv, git and make; the rest comes from wheels.
#   make demo              install, then run the demonstration
#   make test ARGS="-k x"  the tests            make nightly   the long ones
#   make check             everything that has to be right before a change goes in
#   make bench             the benchmarks       make clean     remove what this file made

PYTHON ?= python3
ARGS ?=
BIN := .venv/bin
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
SOURCES := pyproject.toml constraints.txt $(wildcard proto/*.py) $(wildcard proto/nbx/v1/*.proto)

.DELETE_ON_ERROR:
.PHONY: demo test check nightly bench clean

demo: .venv/.installed
	$(BIN)/nbx demo $(ARGS)

# In the order in which they are found, files that start services are not the last ones.
test: .venv/.installed-dev
	$(BIN)/python -m pytest -m "not nightly" -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: .venv/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) test

nightly: .venv/.installed-dev
	$(BIN)/python -m pytest -m nightly --timeout 3600 $(ARGS)

bench: .venv/.installed-dev
	PYTHONPATH=. $(BIN)/python -m benchmarks.run $(ARGS)

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache nbx/v1
	find nbx tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# Stamps: an environment is made once, and installed into again only when what is installed has changed.
.venv/.made:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
	  { echo "nbx needs Python 3.11 or newer, and '$(PYTHON)' is not: try  make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || \
	  { echo "'$(PYTHON)' comes without venv: install it (Debian, Ubuntu: apt install python3-venv)" >&2; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.installed: .venv/.made $(SOURCES)
	$(INSTALL) -e .
	@touch $@

.venv/.installed-dev: .venv/.made $(SOURCES)
	$(INSTALL) -e '.[dev]'
	@touch .venv/.installed $@
