"""If the loss or gradient of an update is not finite, only this update is skipped.

A skipped update does not change the weights or the optimiser state.
"""

import copy
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.trainer.trainer_support import random_rows

from arlarena.trainer.learning.coordinator import Coordinator
from arlarena.trainer.learning.learner import Learner, first_not_finite
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings

NAN, INF = math.nan, math.inf
COUNTS = ("updates_applied", "updates_skipped")


def learner_of(policy, name="grpo", **options):
    run = {"kl_coefficient": 0.02, "entropy_coefficient": 0.003, "tokens_per_microbatch": 60} | options
    return Learner(copy.deepcopy(policy), None, recipe(name), TrainerSettings(device="cpu", **run))


def state_of(learner):
    """Return the bytes of the weights and of the optimiser state, by name."""
    tensors = learner.weights() | learner.optimizer_state()
    return {name: value.detach().clone().numpy().tobytes() for name, value in tensors.items()}


def planted(rows, **changes):
    """Return the rows with `changes` to one row. `behaviour` and `advantage` are numbers.

    `behaviour` replaces the log-prob of the first sampled token of this row.
    """
    rows = list(rows)
    place = next(k for k, row in enumerate(rows) if row.mask.any())
    row = rows[place]
    for name, value in changes.items():
        if name == "behaviour":
            value, number = row.behaviour.copy(), value
            value[np.flatnonzero(row.mask)[0]] = number
        elif name == "advantage":
            name, value = "turns", ((len(row.response), value),)
        row = replace(row, **{name: value})
    rows[place] = row
    return rows


def plant_in_weights(learner, value, name="model.embed_tokens.weight"):
    with torch.no_grad():
        dict(learner.policy.named_parameters())[name].fill_(value)


def plant_in_entropies(learner, value):
    learner.scorer.register_forward_hook(lambda _m, _a, out: (out[0], None if out[1] is None else out[1] * value))


def plant_in_reference(learner, value):
    with torch.no_grad():
        learner.reference.model.lm_head.weight[7] = value


GOOD = random_rows(1)
# name: (a function that changes the learner, or None; the rows)
CASES = {
    "advantage nan": (None, planted(GOOD, advantage=NAN)),
    "advantage inf": (None, planted(GOOD, advantage=INF)),
    "advantage -inf": (None, planted(GOOD, advantage=-INF)),
    "sampler's log-prob nan": (None, planted(GOOD, behaviour=NAN)),
    "reference nan": (lambda learner: plant_in_reference(learner, NAN), GOOD),
    "weights nan": (lambda learner: plant_in_weights(learner, NAN), GOOD),
    "weights inf": (lambda learner: plant_in_weights(learner, INF, "lm_head.weight"), GOOD),
    "entropy nan": (lambda learner: plant_in_entropies(learner, NAN), GOOD),
    "entropy inf": (lambda learner: plant_in_entropies(learner, INF), GOOD),
    "gradient overflows": (None, [replace(row, turns=((len(row.response), 1e34),)) for row in GOOD]),
    "temperature nan": (None, planted(GOOD, temperature=NAN)),
}


TRIPLES = [
    (case, name, anchor)
    for case in CASES
    for name in ("grpo", "sampo", "sampo_release", "cispo_sm", "rloo")
    for anchor in (["bypass", "decoupled"] if name in ("sampo", "rloo") else ["bypass"])
    if (case, name) != ("sampler's log-prob nan", "rloo")  # rloo does not read the sampler's log-probs
]


@pytest.mark.parametrize(("case", "name", "anchor"), TRIPLES)
def test_a_non_finite_update_changes_no_bit(policy, case, name, anchor):
    plant, rows = CASES[case]
    learner = learner_of(policy, name, policy_anchor=anchor)
    learner.update([random_rows(2)], rate=1e-3)
    assert learner.skipped_minibatches == []
    if plant:
        plant(learner)
    before = state_of(learner)
    result = learner.update([rows], rate=1e-3)
    assert state_of(learner) == before
    assert learner.skipped_minibatches == [0]
    assert [result[name] for name in COUNTS] == [0.0, 1.0]
    assert all(math.isfinite(value) for value in result.values())
    assert all(parameter.grad is None for parameter in learner.policy.parameters())


def test_the_loss_of_the_overflowing_gradient_is_finite(policy):
    """In the case "gradient overflows" only the gradient is not finite, so the case tests the check of its norm."""
    learner = learner_of(policy)
    rows = CASES["gradient overflows"][1]
    assert math.isfinite(learner.update([rows], rate=1e-3)["loss"])
    assert learner.skipped_minibatches == [0]


@pytest.mark.parametrize("place", range(4))
@pytest.mark.parametrize("anchor", ["bypass", "decoupled"])
def test_one_non_finite_minibatch_of_four_is_skipped_alone(policy, anchor, place):
    good = [random_rows(seed) for seed in (3, 4, 5)]
    expected = learner_of(policy, policy_anchor=anchor)
    figures = expected.update(good, rate=1e-3)
    assert [figures[name] for name in COUNTS] == [3.0, 0.0]

    learner = learner_of(policy, policy_anchor=anchor)
    result = learner.update([*good[:place], planted(random_rows(6), advantage=NAN), *good[place:]], rate=1e-3)
    assert learner.skipped_minibatches == [place]
    assert [result[name] for name in COUNTS] == [3.0, 1.0]
    assert state_of(learner) == state_of(expected)
    assert {key: value for key, value in result.items() if key not in COUNTS} == {
        key: value for key, value in figures.items() if key not in COUNTS
    }


def test_skipped_minibatches_are_those_of_the_last_update(policy):
    learner = learner_of(policy)
    bad = planted(random_rows(6), advantage=NAN)
    learner.update([bad, random_rows(7), bad], rate=1e-3)
    assert learner.skipped_minibatches == [0, 2]
    assert Coordinator(learner).skipped_minibatches == [0, 2]
    learner.update([random_rows(7)], rate=1e-3)
    assert learner.skipped_minibatches == []
    learner.update([bad], rate=1e-3)
    result = learner.update([], rate=1e-3)
    assert learner.skipped_minibatches == []
    assert [result[name] for name in COUNTS] == [0.0, 0.0]


def test_entropies_of_nan_weights_are_nan(policy):
    learner = learner_of(policy)
    plant_in_weights(learner, NAN)
    rows = [row for row in GOOD if row.mask.any()]
    assert all(map(math.isnan, learner.mean_entropies(rows)))


# ---- weights ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_the_first_non_finite_weight_is_named(policy, value):
    learner = learner_of(policy)
    assert first_not_finite(learner.weights()) is None
    with torch.no_grad():
        learner.policy.model.layers[1].mlp.up_proj.weight[-1, -1] = value
        learner.policy.lm_head.weight[0, 0] = value
    assert first_not_finite(learner.weights()) == "model.layers.1.mlp.up_proj.weight"


def test_weights_of_any_shape_and_dtype_are_checked():
    weights = {
        "step": torch.tensor(3),
        "empty": torch.zeros(0),
        "half": torch.tensor([65504.0], dtype=torch.float16),
        "brain": torch.tensor([3e38], dtype=torch.bfloat16),
        "scalar": torch.tensor(1.0),
    }
    assert first_not_finite(weights) is None
    assert first_not_finite(weights | {"last": torch.tensor([1.0, INF], dtype=torch.bfloat16)}) == "last"
