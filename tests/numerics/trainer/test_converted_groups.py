"""Groups of schema 2, converted to schema 3, give the gradients that the trainer of schema 2 computed.

In schema 2 each turn held its full prompt. `tests/data/recorded_groups` holds groups with conversations, windows,
conversations that restart, responses of two versions, masked tokens, and turns without a loss. For each method and kind
of row, it also holds the largest component of the gradient, and the products of the gradient with eight fixed random
vectors. The trainer of schema 2 computed these numbers in float64.
"""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from arlarena.proto.convert import convert_groups
from arlarena.proto.trajectory import read_groups
from arlarena.trainer.batching.scoring import score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.policy import frozen_copy
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings

RECORDED = Path(__file__).parents[2] / "data" / "recorded_groups"
EXPECTED = json.loads((RECORDED / "gradients.json").read_text())
KNOWN = StalenessPolicy(3, 2, {"old": 2, "now": 3})


def fill(policy, seed):
    """Fill `policy` with random float64 weights that do not depend on the version of torch. Returns `policy`."""
    generator = np.random.default_rng(seed)
    with torch.no_grad():
        for name, parameter in sorted(policy.double().named_parameters()):
            drawn = 0.15 * generator.standard_normal(tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(drawn + ("norm" in name)))
    return policy


def gradient(policy, groups, method, growing):
    """Return the gradient of one update as one vector, [number of parameters]."""
    reference = fill(frozen_copy(policy), 1)
    settings = TrainerSettings(device="cpu", lr=1e-3, kl_coefficient=0.02, entropy_coefficient=0.003, gradient_clip=1e9)
    learner = Learner(fill(policy, 0), reference, method, settings)
    scored = score(
        method, groups, KNOWN, invalid_penalty=0.1, max_response_tokens=8, entropy_fn=learner.mean_entropies,
        growing=growing,
    )  # fmt: skip
    seen = []
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.extend(parameter.grad.reshape(-1) for _, parameter in sorted(policy.named_parameters()))
    )
    learner.update([training_samples(scored, "now", growing=growing)], rate=1e-3)
    return torch.cat(seen).numpy()


def products(vector):
    """Return the dot products [8] of `vector` with eight fixed random vectors."""
    return np.random.default_rng(7).standard_normal((8, len(vector))) @ vector


@pytest.mark.parametrize("name", list(EXPECTED))
def test_converted_groups_have_the_recorded_gradients(policy, tmp_path, name):
    path = tmp_path / "groups.msgpack"
    path.write_bytes(convert_groups((RECORDED / "groups_v2.msgpack").read_bytes()))
    method, rows = name.split("/")
    result = gradient(policy, read_groups(path), recipe(method), rows == "episodes")
    expected = EXPECTED[name]
    assert np.abs(result).max() == pytest.approx(expected["largest"], rel=1e-6)
    # If two gradients differ, their products with a random vector differ by about the norm of the difference.
    assert products(result) == pytest.approx(expected["products"], abs=1e-6 * expected["largest"])
