# Everything here starts from a fresh clone with Python 3.11 or newer; `make setup` comes by itself where it is needed.
# PYTHON=python3.12 chooses an interpreter. ARLARENA_TORCH_INDEX=URL takes torch, and torch alone, from another index.

PYTHON ?= python3
BIN := .venv/bin
PACKAGES := proto client sandbox $(wildcard environments/* services/*)
CODE := $(PACKAGES) tests benchmarks scripts examples
# Two processes that share the test files, in the order of the folders: a file's tests share its servers, and the folders
# with long tests come first. One thread each: two processes of two threads on two cores are many times slower.
TEST_PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

# Where it is set, every process compiles our modules, torch and transformers again, which takes seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format docs verify bench clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with the pinned versions; EXTRA="trl vllm" makes optional environments too (scripts/setup.py has all)
	@$(PYTHON) scripts/setup.py $(EXTRA)

demo: setup ## clone a small policy, train it with SAMPO on Sokoban, compare before and after: about 10 minutes on 2 cores
	@$(BIN)/arlarena up configs/demo.toml --fresh

test: ## the quick tests: about eleven minutes on 2 cores; TEST_PROCESSES=4 for more cores
	@$(PYTHON) scripts/setup.py openenv
	@$(PYTEST) -m "not slow"

test-all: ## every test, the slow ones too
	@$(PYTHON) scripts/setup.py openenv fuzz docs
	@$(PYTEST)

check: setup ## lint, format, types, direction of imports
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy $(PACKAGES)
	@$(BIN)/lint-imports

format: setup ## put the code into its form
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

docs: ## build the documentation site into site/, and fail on a broken link or reference
	@$(PYTHON) scripts/setup.py docs
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "open site/index.html"

verify: setup ## check the claims of a part at full size: PART=demo, env, trainer, inference, vllm, alfworld, sandbox, tir_math, faults
	@$(BIN)/python scripts/verify.py $(PART)

bench: setup ## measure a part beside its peer: PART=env_server, trainer, inference, rollout, … (ARGS="--rounds 3")
	@test -f benchmarks/$(PART)/speed.py || { echo "usage: make bench PART=NAME, where NAME is one of" \
		$(patsubst benchmarks/%/speed.py,%,$(wildcard benchmarks/*/speed.py)); exit 2; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$(PART).speed $(ARGS)

clean: ## remove virtual environments and caches; what is in runs/ stays
	@rm -rf .venv .venv-* site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
