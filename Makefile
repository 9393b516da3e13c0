# The same verbs for a person and for CI. Everything happens in .venv, made on first use.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3.13 || echo python3)
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: help demo test check style types imports tests bench clean

help:
	@echo "make demo    a simulated inbound and an outbound call, in the terminal"
	@echo "make test    style, types and all tests"
	@echo "make bench   what a call costs, next to a hand-written server"
	@echo "make clean   remove what the others made"

# One stamp per set of extras: a change of pyproject.toml installs again.
$(VENV)/.local: pyproject.toml
	@echo "Setting up $(VENV) (a minute or two on the first run) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[local]'
	@touch $@

$(VENV)/.dev: pyproject.toml
	@echo "Setting up $(VENV) (a minute or two on the first run) ..."
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check -e '.[local,dev]'
	@touch $@ $(VENV)/.local

demo: $(VENV)/.local
	@$(BIN)/voice-runtime demo

test: check tests

check: style types imports

style: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.dev
	$(BIN)/mypy

imports: $(VENV)/.dev
	$(BIN)/lint-imports

tests: $(VENV)/.dev
	$(BIN)/pytest --numprocesses=2 --dist=loadfile

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks

clean:
	rm -rf $(VENV) .venv-* build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
