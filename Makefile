SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

BIN := .venv/bin
DATA ?= .data
CLIS ?= .clis
STAMP := .venv/.synced
COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header \
	--no-emit-index-url --no-emit-find-links --no-annotate --exclude-newer "7 days" $(if $(UPGRADE),--upgrade)

.PHONY: help
help: ## Show what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: setup
setup: $(STAMP) ## Make .venv with everything in it, hashes checked; nothing to do the second time

$(STAMP): requirements/dev.txt requirements/uv.txt pyproject.toml .ci/venv
	@echo 'making .venv; a few minutes, once' >&2
	@bash .ci/venv .venv
	@$(BIN)/uv pip sync --quiet --python $(BIN)/python --require-hashes requirements/dev.txt
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps --no-build-isolation --editable .
	@touch $@

.PHONY: lock
lock: ## Lock the dependencies with hashes (UPGRADE=1 takes newer ones, never younger than a week)
	$(COMPILE) requirements/uv.in -o requirements/uv.txt
	$(COMPILE) pyproject.toml --extra embedded --group dev --group agent --group bench -o requirements/bench.txt
	$(COMPILE) pyproject.toml --extra embedded --group dev --group agent -c requirements/bench.txt -o requirements/dev.txt
	$(COMPILE) pyproject.toml -c requirements/bench.txt -o requirements/run.txt
	$(COMPILE) --group agent -c requirements/bench.txt -o requirements/agent.txt

.PHONY: demo
demo: setup ## Run the whole story: an agent at work, parked by its budget and resumed, a branch, a refusal
	@$(BIN)/autovibe demo

.PHONY: dev
dev: setup ## Start the embedded stack and stay; data is kept in $(DATA)
	@$(BIN)/autovibe dev --data $(DATA)

.PHONY: start
start: ## Start the services in containers and wait until they are healthy
	deploy/secrets.sh
	docker compose up --detach --build --wait

.PHONY: stop
stop: ## Stop the containers; the data stays
	docker compose down

.PHONY: logs
logs: ## Follow what the containers log
	docker compose logs --follow --tail 100

.PHONY: clean
clean: ## Remove what was made, and the data too, after asking
	rm -rf build dist htmlcov .coverage .coverage.* .hypothesis .import_linter_cache .pytest_cache .ruff_cache .venv
	find . -name __pycache__ -prune -exec rm -rf {} +
	@if [ -e "$(DATA)" ]; then read -r -p "Delete all data in $(DATA)? [y/N] " answer; \
		if [ "$$answer" = y ]; then rm -rf "$(DATA)"; else echo "kept $(DATA)"; fi; fi

.PHONY: test
test: setup ## Run all tests (ARGS="-k name" for some)
	@$(BIN)/pytest -n auto $(ARGS)

.PHONY: test-clis
test-clis: setup ## Run the real Claude Code, Qwen Code and Aider, installed apart in $(CLIS) (ARGS="-k aider" for some)
	@tests_clis/install.sh $(abspath $(CLIS)) $(BIN)/uv
	@AUTOVIBE_CLIS=$(abspath $(CLIS)) $(BIN)/pytest tests_clis $(ARGS)

.PHONY: lint
lint: setup ## Style, types, and who may import whom
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/pyright
	@$(BIN)/lint-imports

.PHONY: check
check: ## All that must hold before a change goes in: what .ci/run does
	@bash .ci/run

.PHONY: bench
bench: setup ## Measure against peers; results and commands are in docs/benchmarks.md
	@$(BIN)/uv pip install --quiet --python $(BIN)/python --require-hashes --requirement requirements/bench.txt
	@$(BIN)/python -m bench $(ARGS)
