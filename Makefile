# wicketgate: the environment is ./.venv; every target sets up what it needs, and only once.
.PHONY: help setup test-tools demo test check lint bench clean
.DEFAULT_GOAL := help

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := .setup/environment
TOOLS_STAMP := .setup/test-tools

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 12

$(STAMP): pyproject.toml uv.lock .ci/setup.sh
	@PYTHON="$(PYTHON)" bash .ci/setup.sh environment
	@mkdir -p .setup && touch $@

$(TOOLS_STAMP): .ci/setup.sh
	@bash .ci/setup.sh test-tools
	@mkdir -p .setup && touch $@

setup: $(STAMP) ## make ./.venv as uv.lock says

demo: $(STAMP) ## Kestrel Flat on loopback; make demo ARGS=--story plays the story
	@$(BIN)/wicketgate demo $(ARGS)

check: $(STAMP) ## lint and types
	$(BIN)/uv lock --check --quiet
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

test: $(STAMP) $(TOOLS_STAMP) check ## everything that CI runs
	$(BIN)/pytest -q -n 2 --dist loadfile $(ARGS)

bench: $(STAMP) $(TOOLS_STAMP) ## ratios against OpenSSH alone, in one run
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove what setup and the tools made
	rm -rf $(VENV) .setup .mypy_cache .ruff_cache .pytest_cache .hypothesis dist tests/.artifacts
