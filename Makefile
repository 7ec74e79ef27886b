# wicketgate: the environment is ./.venv; every target sets up what it needs, and only what is not there yet.
.PHONY: help setup demo-tools test-tools demo test check bench clean
.DEFAULT_GOAL := help
SHELL := /bin/bash

export PYTHON ?= python3
BIN := .venv/bin

help: ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: ## make ./.venv as uv.lock says
	@bash .ci/setup.sh environment

test-tools: ## the programs that tests and benchmarks run for real: sshd, chromium, PostgreSQL, ...
	@bash .ci/setup.sh test-tools

demo-tools: ## the program that the demo runs for real: ssh
	@bash .ci/setup.sh demo-tools

demo: setup demo-tools ## Kestrel Flat on loopback; make demo ARGS=--story plays the story unattended
	@$(BIN)/wicketgate demo $(ARGS)

check: setup ## lint and types
	$(BIN)/uv lock --check --quiet
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

test: setup test-tools check ## everything CI runs: check, then all tests; make test ARGS='-k house' for some
	$(BIN)/pytest -n 2 --dist loadfile $(ARGS)

bench: setup test-tools ## ratios against OpenSSH alone, in one run
	@$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove what set-up and the tools made; never a home
	rm -rf .venv .setup .mypy_cache .ruff_cache .pytest_cache .hypothesis dist tests/.artifacts
