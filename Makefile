SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON ?= python3
BIN := .venv/bin
ROOMS := features models streams serving headrace
SBOM ?= build/sbom.json
CHECKED := $(ROOMS) tests $(wildcard docs/examples)

# uv comes from PATH, else from PyPI into .tools/; it must never bring a Python of its own.
UV := $(or $(shell command -v uv),.tools/bin/uv)
export UV_PYTHON_DOWNLOADS := never

.PHONY: help
help:  ## list what there is
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*##/\t/' | expand -t 12

.PHONY: setup
setup: .venv/.ready  ## install everything, as locked, into .venv

.PHONY: demo
demo: .venv/.ready  ## the whole loop on this machine: events, features, learning, predictions
	$(BIN)/headrace demo $(ARGS)

.PHONY: test
test: .venv/.ready  ## run the tests (ARGS="-k window" for some)
	$(BIN)/pytest -n auto --dist worksteal $(ARGS)

.PHONY: lint
lint: .venv/.ready  ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

.PHONY: types
types: .venv/.ready  ## mypy --strict
	$(BIN)/mypy --strict $(CHECKED)

.PHONY: imports
imports: .venv/.ready  ## the rooms import downwards only
	$(BIN)/lint-imports --no-logo

.PHONY: sbom
sbom: .venv/.ready  ## list what is shipped, as CycloneDX (build/sbom.json)
	mkdir -p build
	$(BIN)/python -m tests.supply runtime > build/runtime.txt
	PYTHONWARNINGS=ignore $(BIN)/cyclonedx-py requirements --pyproject pyproject.toml --output-reproducible \
	  --output-file $(SBOM) build/runtime.txt

.PHONY: audit
audit: .venv/.ready  ## ask what is known against what is shipped; says so where nobody can be asked
	mkdir -p build
	$(BIN)/python -m tests.supply runtime > build/runtime.txt
	$(BIN)/python -m tests.supply audit build/runtime.txt $(ARGS)

.PHONY: check
check: lint types imports sbom test  ## what CI runs, after make audit

.PHONY: bench
bench: .venv/.ready  ## measure throughput and latency here
	$(BIN)/python -m tests.bench $(ARGS)

.PHONY: fmt
fmt: .venv/.ready  ## mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.PHONY: lock
lock: $(UV)  ## pin what pyproject.toml asks for, with hashes (ARGS=--upgrade for the newest)
	$(UV) pip compile pyproject.toml --group dev --universal --python-version 3.11 --quiet \
	  --generate-hashes --no-emit-index-url --no-emit-find-links \
	  --custom-compile-command "make lock" --output-file requirements.lock $(ARGS)

.PHONY: clean
clean:  ## remove all that was made here
	rm -rf .venv .tools .cache .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	rm -rf build dist *.egg-info
	find $(ROOMS) tests docs -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true

.venv/.ready: pyproject.toml requirements.lock | $(UV)
	@$(PYTHON) -c 'import sys; sys.exit("Headrace needs Python 3.11 or newer: make PYTHON=..." if sys.version_info < (3, 11) else 0)'
	$(UV) venv --quiet --allow-existing --python "$$(command -v $(PYTHON))" .venv
	$(UV) pip sync --quiet --compile-bytecode --python $(BIN)/python --require-hashes requirements.lock
	$(UV) pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.tools/bin/uv:
	$(PYTHON) -m venv .tools
	.tools/bin/python -m pip install --quiet --disable-pip-version-check uv==0.13.9
