# All targets work in a fresh clone and need Python 3.11 or newer. They install missing packages with scripts/setup.py.
# PYTHON=python3.12 selects an interpreter. ARLARENA_TORCH_INDEX=URL selects another package index for torch only.

PYTHON ?= python3
BIN := .venv/bin
PACKAGES := proto client sandbox $(wildcard environments/* services/*)
TYPED := $(PACKAGES) benchmarks scripts examples
CODE := $(TYPED) tests
# By default, the tests run in two pytest processes. All tests of a file run in one process, because they share servers.
# The files run in the order of the folders. The folders with long tests come first. Each process has one thread: on two
# cores, two processes with two threads each are many times slower. If a process crashes, pytest names the test and ends.
TEST_PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder \
	--max-worker-restart 0
# pytest-timeout (120 s) cannot stop a test that hangs in C code. After 180 s, faulthandler ends the process.
QUICK := -m "not slow" -o faulthandler_timeout=180

# With PYTHONDONTWRITEBYTECODE, every process compiles ARLArena's modules, torch and transformers again for seconds.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-all check format docs images secrets sbom e2e verify bench clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## create .venv with pinned versions; EXTRA="trl vllm" also creates optional environments (list: scripts/setup.py)
	@$(PYTHON) scripts/setup.py $(EXTRA)

demo: setup ## train a small policy on Sokoban by behaviour cloning and SAMPO, and evaluate it: about 10 minutes on 2 cores
	@$(BIN)/arlarena up configs/demo.toml --fresh

test: ## run the tests except the slow ones: 7 to 9 minutes on 2 cores; on more cores, set TEST_PROCESSES=4
	@$(PYTHON) scripts/setup.py openenv kubernetes page
	@$(PYTEST) $(QUICK)

test-all: ## run all tests, including the slow ones
	@$(PYTHON) scripts/setup.py openenv fuzz docs kubernetes containers page
	@$(PYTEST)

check: ## check lint, format, types, imports between packages, and the Kubernetes manifests
	@$(PYTHON) scripts/setup.py kubernetes
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy $(TYPED)
	@$(BIN)/lint-imports
	@$(BIN)/python -m scripts.manifests

format: setup ## format the code and apply automatic lint fixes
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

docs: ## build the documentation site in site/; fails if a link or reference is broken
	@$(PYTHON) scripts/setup.py docs
	@NO_MKDOCS_2_WARNING=1 .venv-docs/bin/mkdocs build --strict --quiet
	@echo "open site/index.html"

secrets: ## write the secrets of compose.yaml into secrets/; keeps existing secrets
	@$(PYTHON) -m scripts.compose_secrets

images: ## build the images for CPUs, one after another: NAME="trainer redis", ARGS="--build-option=--network=host"
	@$(PYTHON) scripts/images.py build $(NAME) $(ARGS)

sbom: ## write the list of packages of each image (CycloneDX) into sbom/
	@$(PYTHON) scripts/setup.py containers
	@.venv-containers/bin/python -m scripts.sbom $(NAME)

e2e: ## test the images and compose.yaml on a Docker engine: build, train, kill each service, attack, scan; 20 minutes
	@$(PYTHON) scripts/setup.py containers
	@$(BIN)/pytest -q -n 0 -rs tests/e2e/containers

verify: ## check documented results at full size: PART=demo, env, trainer, inference, vllm, alfworld, webshop, sandbox, tir_math, faults
	@$(PYTHON) scripts/setup.py kubernetes
	@$(BIN)/python scripts/verify.py $(PART)

bench: setup ## compare the speed of a part with other software: PART=env_server, trainer, inference, rollout, … (ARGS="--rounds 3")
	@test -f benchmarks/$(PART)/speed.py || { echo "usage: make bench PART=NAME, where NAME is one of" \
		$(patsubst benchmarks/%/speed.py,%,$(wildcard benchmarks/*/speed.py)); exit 2; }
	@OMP_NUM_THREADS=1 $(BIN)/python -m benchmarks.$(PART).speed $(ARGS)

clean: ## remove virtual environments and caches; keeps runs/
	@rm -rf .venv .venv-* site .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
