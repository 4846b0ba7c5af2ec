# Everything a contributor does, from a fresh clone: each target makes what it needs first.
# `make` alone lists the targets. Plain enough for GNU make 3.81, which macOS still ships.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# -qq where it installs: errors are shown, the chatter of a machine's own mirrors is not.
PIP := $(BIN)/python -m pip --disable-pip-version-check

# Passed to pytest as they are: make test PYTEST_ARGS="-k resume"
PYTEST_ARGS ?=
# Two processes more than cores (tests/conftest.py says why). Each begins with a run of whole modules,
# whose tests share what is dear to start, and takes tests from the others when it has none left.
# `-n 0` in PYTEST_ARGS undoes it.
PYTEST_PROCESSES := --numprocesses=logical --dist=worksteal
BENCH_ARGS ?=

# A flag is passed only when it was given, so that BAMBOO_… variables and the program's own defaults
# hold otherwise (flags win over both). HOST counts on make's command line only: some shells and
# toolchains export a HOST that is a machine's name or a compiler's target, never a bind address.
ifeq ($(origin HOST),command line)
SERVE_HOST := --host '$(HOST)'
endif
ifdef PORT
SERVE_PORT := --port '$(PORT)'
endif
ifdef DATA_DIR
SERVE_DATA_DIR := --data-dir '$(DATA_DIR)'
endif

# One stamp per level of install. They live inside the venv, so removing it forgets them too.
VENV_STAMP := $(VENV)/.stamp-venv
RUNTIME_STAMP := $(VENV)/.stamp-runtime
DEV_STAMP := $(VENV)/.stamp-dev

# Clients that others wrote, in Node.js: those of the end-to-end tests, and the official ones of the
# wires' protocols; and the compiler of the TypeScript client, with what its tests need. Nothing to do
# where npm is absent.
NODE_DIR := tests/e2e/node
WIRES_NODE_DIR := tests/wires/node
TS_DIR := clients/typescript
ifneq ($(shell command -v npm 2>/dev/null),)
TS_STAMP := $(TS_DIR)/node_modules/.stamp
NODE_STAMPS := $(NODE_DIR)/node_modules/.stamp $(WIRES_NODE_DIR)/node_modules/.stamp $(TS_STAMP)
endif

# The official Python clients of the wires' protocols. They need an environment of their own.
WIRES_PYTHON := $(VENV)/wires
WIRES_PYTHON_LOCK := tests/wires/clients/requirements.txt
WIRES_PYTHON_STAMP := $(WIRES_PYTHON)/.stamp

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup serve test check audit format coverage torture wires-clients conformance bench bench-peers openapi clients readme docs docs-serve lock lock-clients clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))

setup: $(DEV_STAMP) ## Create .venv with everything to develop and test

serve: $(RUNTIME_STAMP) ## Run the gateway (PORT=, HOST=, DATA_DIR=)
	@exec $(BIN)/bamboo serve $(SERVE_HOST) $(SERVE_PORT) $(SERVE_DATA_DIR)

test: $(DEV_STAMP) $(NODE_STAMPS) $(WIRES_PYTHON_STAMP) ## Run the tests on all cores (PYTEST_ARGS="-k resume")
	$(BIN)/python -m pytest $(PYTEST_PROCESSES) $(PYTEST_ARGS)

check: $(DEV_STAMP) ## Formatting, lint, types, the architecture's import rules, the locks' hashes
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/python -m tests.locks

# The tools of a release, in an environment of their own.
RELEASE_LOCK := tests/release/tools/requirements.txt
RELEASE_STAMP := $(VENV)/release/.stamp
.PHONY: release-check

release-check: $(DEV_STAMP) $(RELEASE_STAMP) ## Build, install and check what a release publishes (RELEASE_ARGS=--quick)
	$(BIN)/python -m tests.release.check $(RELEASE_ARGS)

# --no-deps: the lock holds everything (see bench-peers).
$(RELEASE_STAMP): $(RELEASE_LOCK) | $(VENV_STAMP)
	@echo 'Installing the tools of a release into $(VENV)/release'
	@$(BIN)/python -m venv --clear $(VENV)/release
	@$(VENV)/release/bin/python -m pip --disable-pip-version-check install -qq \
		--no-deps --require-hashes -r $(RELEASE_LOCK)
	@touch $@

audit: $(DEV_STAMP) ## Ask whether any pinned dependency is known to be vulnerable (needs a network)
	$(BIN)/python -m tests.locks audit

format: $(DEV_STAMP) ## Format the code and fix what can be fixed safely
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

coverage: $(DEV_STAMP) $(NODE_STAMPS) $(WIRES_PYTHON_STAMP) ## Run the tests and report branch coverage
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(PYTEST_ARGS)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report

torture: $(DEV_STAMP) ## Run the long crash, fault and soak tests
	$(BIN)/python -m pytest -m slow --hypothesis-profile=new $(PYTEST_ARGS)

wires-clients: $(DEV_STAMP) $(NODE_STAMPS) $(WIRES_PYTHON_STAMP) ## Install the official clients of the wires' protocols

conformance: $(DEV_STAMP) $(NODE_STAMPS) $(WIRES_PYTHON_STAMP) ## Run every official client of the wires, and write docs/reference/conformance.md
	$(BIN)/python -m tests.wires.conformance $(PYTEST_ARGS)

bench: $(DEV_STAMP) ## Run the benchmarks (BENCH_ARGS=)
	$(BIN)/python -m benchmarks $(BENCH_ARGS)

# --no-deps: the locks hold everything, and pip 23 takes a pin for missing where a package asks for
# its extra (`pydantic[email]`) as soon as a newer release is out.
bench-peers: $(DEV_STAMP) ## Install what `make bench` compares chats with besides httpx
	$(BIN)/python -m venv $(VENV)/openai-sdk
	$(VENV)/openai-sdk/bin/python -m pip --disable-pip-version-check install -qq \
		--no-deps --require-hashes -r benchmarks/peers/requirements.txt
	$(BIN)/python -m venv $(VENV)/litellm
	$(VENV)/litellm/bin/python -m pip --disable-pip-version-check install -qq \
		--no-deps --require-hashes -r tests/agents/litellm/requirements.txt

openapi: $(DEV_STAMP) $(TS_STAMP) ## Regenerate openapi/openapi.json, and the client's types where npm is
	@mkdir -p openapi
	$(BIN)/bamboo openapi --output openapi/openapi.json
	$(if $(TS_STAMP),cd $(TS_DIR) && npm run --silent types)

clients: $(DEV_STAMP) ## Make the Python client's types and its synchronous half again
	$(BIN)/python clients/python/tools/types_from_openapi.py
	$(BIN)/python clients/python/tools/sync_from_async.py

readme: $(DEV_STAMP) ## Refresh the tables, files and command output that README.md and docs/ show
	$(BIN)/python -m tests.e2e.shown_commands

docs: $(DEV_STAMP) ## Build the documentation site in build/docs; a broken link fails
	$(BIN)/zensical build --clean --strict

docs-serve: $(DEV_STAMP) ## Serve the documentation site, and build it again after each change
	$(BIN)/zensical serve

# Universal: one lock for every platform and every Python from 3.11 on, with the hashes of all files
# of a release. --no-config and the unset variables keep this machine's mirrors out of it.
LOCK := env -u UV_INDEX -u UV_DEFAULT_INDEX -u UV_FIND_LINKS $(BIN)/uv pip compile pyproject.toml \
	--no-config --quiet --universal --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' --extra postgresql --extra redis --group build

lock: $(DEV_STAMP) ## Pin the dependencies again (LOCK_ARGS=--upgrade for newer releases)
	$(LOCK) $(LOCK_ARGS) --output-file requirements.lock
	$(LOCK) $(LOCK_ARGS) --group dev --constraints requirements.lock --output-file requirements-dev.lock
	@! grep -n '://' requirements.lock requirements-dev.lock || { echo 'error: a lock names a host' >&2; exit 1; }

lock-clients: $(DEV_STAMP) ## Pin the newest official clients of the wires
	$(BIN)/python -m tests.wires.conformance --lock

clean: ## Remove the venv and everything the tools made
	rm -rf $(VENV) $(NODE_DIR)/node_modules $(WIRES_NODE_DIR)/node_modules $(TS_DIR)/node_modules $(TS_DIR)/dist build/docs .cache .hypothesis .import_linter_cache .mypy_cache .pytest_cache .ruff_cache .coverage .coverage.*

# --clear, because a venv without this stamp is one whose creation was interrupted.
$(VENV_STAMP):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo "error: Bamboo Gateway needs Python 3.11 or newer; \`$(PYTHON)\` is missing or older. Try: make $(firstword $(MAKECMDGOALS)) PYTHON=/path/to/python3.11" >&2; exit 1; }
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The project is installed editable and without build isolation: the build backend is in the lock,
# so nothing that runs here is chosen on the day of the install.
INSTALL_PROJECT = $(PIP) install -qq --no-index --no-deps --no-build-isolation --editable .

$(RUNTIME_STAMP): requirements.lock pyproject.toml | $(VENV_STAMP)
	@echo 'Installing the runtime dependencies into $(VENV)'
	@$(PIP) install -qq --require-hashes -r requirements.lock
	@$(INSTALL_PROJECT)
	@touch $@

# The dev lock holds all of the runtime lock, so this fulfils the runtime stamp too.
$(DEV_STAMP): requirements-dev.lock requirements.lock pyproject.toml | $(VENV_STAMP)
	@echo 'Installing the development dependencies into $(VENV)'
	@$(PIP) install -qq --require-hashes -r requirements-dev.lock
	@$(INSTALL_PROJECT)
	@touch $(RUNTIME_STAMP) $@

# --no-deps: the lock holds everything, and pip 23 takes a pin for missing where a package asks for
# its extra as soon as a newer release is out.
$(WIRES_PYTHON_STAMP): $(WIRES_PYTHON_LOCK) | $(VENV_STAMP)
	@echo 'Installing the official clients of the wires into $(WIRES_PYTHON)'
	@$(BIN)/python -m venv --clear $(WIRES_PYTHON)
	@$(WIRES_PYTHON)/bin/python -m pip --disable-pip-version-check install -qq --no-compile \
		--no-deps --require-hashes -r $(WIRES_PYTHON_LOCK)
	@touch $@

# Install scripts stay off: the tests need the packages' own files and nothing they would fetch.
%/node_modules/.stamp: %/package.json %/package-lock.json
	cd $* && npm ci --ignore-scripts --no-audit --no-fund --loglevel=error
	@touch $@
