# The only command surface. `make` prints what there is.
SHELL := /bin/bash
.DEFAULT_GOAL := help
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	command -v $$p >/dev/null && $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' && echo $$p && break; done)
UV_VERSION := 0.13.9
BIN := .venv/bin
LOCKS := requirements/all.lock requirements/model.lock
COMPILE := $(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes \
	--custom-compile-command 'make lock'

.PHONY: help
help: ## print this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-8s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.venv/ready: $(LOCKS) pyproject.toml
	@test -n "$(PYTHON)" || { echo "turnstream needs Python 3.11 or newer; none is on the PATH" >&2; exit 1; }
	@echo "setting up .venv with $$($(PYTHON) --version)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv || { rm -rf .venv; \
		echo "Python's venv module does not work here; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv==$(UV_VERSION)
	@$(BIN)/uv pip sync -q --compile-bytecode --python $(BIN)/python --require-hashes $(LOCKS)
	@$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q schemas connectors graph streams deploy/local
	@mkdir -p .typing && ln -sfn .. .typing/turnstream
	@touch $@

.PHONY: setup
setup: .venv/ready ## make .venv from the lock files

.PHONY: demo
demo: setup ## start the local stack, run turns, kill a worker, replay, stop
	@$(BIN)/turnstream demo

.PHONY: up
up: setup ## start the local stack and stay; Ctrl-C stops it
	@$(BIN)/turnstream up

.PHONY: test
test: setup ## all tests, on real Kafka and Postgres
	@$(BIN)/python -m tests

.PHONY: quick
quick: setup ## the tests that need no server, in less than a minute
	@$(BIN)/python -m tests --quick

.PHONY: lint
lint: setup ## formatting, lint, types, import rules
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

.PHONY: bench
bench: setup ## print the tables of tests/bench; ARGS="--only memory" and others: ARGS=--help
	@$(BIN)/python -m tests.bench $(ARGS)

.PHONY: chaos
chaos: setup ## the fault campaign; ARGS="--runs 50 --seed 2" and others: ARGS=--help
	@$(BIN)/python -m tests.chaos --runs 1000 --report tests/chaos/reports/campaign $(ARGS)

.PHONY: build
build: setup ## the wheel and the source archive, in dist/
	@$(BIN)/python -m build

.PHONY: docs
docs: setup ## write docs/reference.md, and parts of docs/consumers.md, from the code
	@$(BIN)/python -m turnstream.streams.app.reference > docs/reference.md
	@$(BIN)/python -m turnstream.streams.app.reference docs/consumers.md

.PHONY: lock
lock: ## compile the lock files anew
	@$(COMPILE) pyproject.toml --extra local --extra processor --group dev -o requirements/all.lock
	@$(COMPILE) pyproject.toml --extra processor -o requirements/runtime.lock
	@$(COMPILE) requirements/model.in --no-deps -o requirements/model.lock

.PHONY: clean
clean: ## remove .venv, caches and build results
	@rm -rf .venv .typing build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
