"""Several ranks give the gradients, weights, metrics and checkpoints of one rank.

A rank is one process of the trainer. The ranks communicate by gloo, and FSDP2 shards the parameters.
"""

import json
import math
import os
import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from support.trainer.trainer_support import growing_rows, random_rows

# One, two and three processes with torch and FSDP take a minute on two idle cores; test_two_ranks.py is short.
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

DRIVER = Path(__file__).with_name("rank_driver.py")
TERMS = {"device": "cpu", "lr": 1e-3, "kl_coefficient": 0.02, "entropy_coefficient": 0.003, "gradient_clip": 1e9}
SMALL = {"tokens_per_microbatch": 30, "logits_chunk_tokens": 3}


def invalid(rows):
    """Return `rows` with one row whose loss is NaN. Only one rank gets this row."""
    place = next(k for k, row in enumerate(rows) if row.mask.any())
    return [*rows[:place], replace(rows[place], turns=((len(rows[place].response), math.nan),)), *rows[place + 1 :]]


PLAN = [
    ("sampo", TERMS, [random_rows(1)]),
    ("sampo", TERMS | SMALL, [random_rows(2, count=17), random_rows(3, count=9)]),
    ("sampo", TERMS, [random_rows(4, count=1)]),  # fewer rows than ranks: one rank has no row
    ("sampo", TERMS | {"activation_checkpointing": True}, [growing_rows(5)]),
    ("sampo_release", TERMS | SMALL, [random_rows(6), growing_rows(12)]),
    ("grpo_st", TERMS | SMALL | {"policy_anchor": "decoupled"}, [random_rows(7), random_rows(8)]),
    ("cispo_sm", TERMS | SMALL, [random_rows(9)]),
    ("dr_grpo", TERMS | SMALL, [random_rows(10)]),
    ("gspo_literal", TERMS | SMALL, [random_rows(11, count=8)]),
    ("sampo", TERMS | SMALL, [random_rows(12), random_rows(13)]),
    ("sampo", TERMS | SMALL, [random_rows(12), invalid(random_rows(14)), random_rows(13)]),
]
WITHOUT_INVALID, WITH_INVALID = len(PLAN) - 2, len(PLAN) - 1


@pytest.fixture(scope="module")
def outcomes(tiny_directory, tmp_path_factory):
    """Return the folders with the results of `PLAN`, by number of ranks (1, 2 and 3)."""
    result = {}
    for count in (1, 2, 3):
        out = tmp_path_factory.mktemp(f"ranks-{count}")
        plan = out / "plan"
        plan.write_bytes(pickle.dumps(PLAN))
        launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)] if count > 1 else []
        done = subprocess.run(
            [sys.executable, *launch, DRIVER, tiny_directory, plan, out],
            env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=400,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr[-4000:]
        result[count] = out
    return result


def read(out, number, kind=""):
    return load_file(out / f"{number}{kind}.safetensors"), json.loads((out / f"{number}{kind}.json").read_text())


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("number", range(len(PLAN)), ids=[f"{n}-{name}" for n, (name, *_) in enumerate(PLAN)])
def test_the_number_of_ranks_does_not_change_results(outcomes, number, count):
    alone, expected = read(outcomes[1], number)
    together, result = read(outcomes[count], number)
    assert alone.keys() == together.keys()
    # The second update starts from weights after an Adam step. If a gradient is nearly 0, the Adam step depends on
    # rounding.
    for part, tolerance in (("gradient/", 1e-5), ("optimizer/", 5e-5)):
        first = {key: value for key, value in alone.items() if key.startswith(part) and value.dim()}
        largest = max(float(value.abs().max()) for value in first.values())
        assert largest > 0
        for key, value in first.items():
            torch.testing.assert_close(together[key], value, atol=tolerance * largest, rtol=1e-3)
    assert result["entropies"] == pytest.approx(expected["entropies"], abs=1e-3)
    assert result["skipped"] == expected["skipped"]
    assert result["log_probs"] == pytest.approx(expected["log_probs"], abs=1e-3)
    for one, other in zip(result["metrics"], expected["metrics"], strict=True):
        assert one.keys() == other.keys()
        for key in ("loss", "reference_kl", "entropy", "grad_norm", "outside", "ratio_max", "mismatch_k3"):
            if key in other:
                assert one[key] == pytest.approx(other[key], rel=2e-3, abs=1e-6), key


@pytest.mark.parametrize("count", [1, 2, 3])
def test_all_ranks_skip_an_update_that_is_not_finite_on_one_rank(outcomes, count):
    plain, figures = read(outcomes[count], WITHOUT_INVALID)
    skipping, result = read(outcomes[count], WITH_INVALID)
    assert (figures["skipped"], result["skipped"]) == ([], [1])
    for one, other in zip(result["metrics"], figures["metrics"], strict=True):
        assert (one.pop("updates_skipped"), other.pop("updates_skipped")) == (1.0, 0.0)
        assert one == other
        assert one["updates_applied"] == 2.0
    assert plain.keys() == skipping.keys()
    for key, value in plain.items():
        assert value.equal(skipping[key]), key


@pytest.mark.parametrize("count", [2, 3])
def test_a_checkpoint_resumes_on_any_number_of_ranks(outcomes, count):
    for number in range(len(PLAN)):
        alone, expected = read(outcomes[1], number, ".later")
        together, result = read(outcomes[count], number, ".later")
        assert result["loss"] == pytest.approx(expected["loss"], rel=2e-3, abs=1e-6)
        for key, value in alone.items():
            torch.testing.assert_close(
                together[key], value, atol=3e-4, rtol=1e-3
            )  # an Adam step can change a weight by the learning rate
