"""The correction for the policy anchor `decoupled`, and the errors for invalid inputs of the loss."""

import math

import pytest
import torch

from arlarena.trainer.objectives import Denominators, LossConfig, policy_loss, recipe


@pytest.mark.parametrize(("correction", "weights"), [("truncate", [2.0, 1.5, 0.25]), ("icepop", [0.0, 1.5, 0.0])])
def test_the_correction_weights_tokens_by_old_over_sampler_probability(correction, weights, make_row, make_batch):
    row = make_row(0, 1.0, [-1.0] * 3, [-1.0] * 3, [-1.0] * 3, [0.1] * 3)
    behaviour = torch.tensor([-1.0 - math.log(x) for x in (4.0, 1.5, 0.25)], dtype=torch.float64)
    batch = make_batch([row], behaviour_log_probs=behaviour)
    loss, metrics = policy_loss(recipe("grpo"), batch, Denominators.count([batch]), LossConfig(correction=correction))
    loss.backward()
    assert batch.log_probs.grad.tolist() == pytest.approx([-w / 3 for w in weights], rel=1e-12)
    assert float(metrics["correction_mean"]) == pytest.approx(sum(weights) / 3, rel=1e-12)
    assert float(metrics["corrected_away_positive"]) == pytest.approx(weights.count(0.0) / 3)


def test_the_geometric_correction_drops_whole_rows(make_row, make_batch):
    tokens = [[4.0, 4.0], [4.0, 0.5], [0.4, 0.4, 0.4]]  # π_old/μ of each token; geometric means 4, √2, 0.4
    rows = [make_row(i, -1.0, *([[-1.0] * len(k)] * 3), [0.1] * len(k)) for i, k in enumerate(tokens)]
    behaviour = torch.tensor([-1.0 - math.log(x) for k in tokens for x in k], dtype=torch.float64)
    batch = make_batch(rows, behaviour_log_probs=behaviour)
    run = LossConfig(correction="geometric", correction_low=0.5, correction_high=2.0)
    loss, metrics = policy_loss(recipe("grpo"), batch, Denominators.count([batch]), run)
    loss.backward()
    assert batch.log_probs.grad.tolist() == pytest.approx([0.0, 0.0, 1 / 7, 1 / 7, 0.0, 0.0, 0.0], rel=1e-12)
    assert float(metrics["corrected_away_negative"]) == pytest.approx(5 / 7)


@pytest.mark.parametrize(
    ("run", "missing"),
    [
        (LossConfig(kl_coefficient=0.1), "ref_log_probs"),
        (LossConfig(entropy_coefficient=0.1), "entropy"),
        (LossConfig(correction="icepop"), "behaviour_log_probs"),
    ],
)
def test_a_term_without_its_tensor_is_an_error(run, missing, make_rows, make_batch):
    full = make_batch(make_rows(0))
    names = ("log_probs", "old_log_probs", "row_of_token", "trajectory_of_row", "advantages")
    bare = type(full)(**{name: getattr(full, name) for name in names})
    with pytest.raises(ValueError, match=missing):
        policy_loss(recipe("grpo"), bare, Denominators.count([bare]), run)


def test_wrong_shapes_and_indices_are_named(make_rows, make_batch):
    rows = make_rows(0)
    floats = torch.zeros(sum(len(row.new) for row in rows))
    with pytest.raises(ValueError, match=r"behaviour_log_probs has shape \(2,\)"):
        make_batch(rows, behaviour_log_probs=torch.zeros(2))
    with pytest.raises(ValueError, match=r"turn_of_token has dtype torch\.float32"):
        make_batch(rows, turn_of_token=floats)


@pytest.mark.parametrize(
    "options",
    [
        {"kl_coefficient": -1.0}, {"entropy_coefficient": -0.1}, {"correction": "cap"}, {"correction_high": 1.0},
        {"correction_low": 1.0},
    ],
)  # fmt: skip
def test_invalid_loss_configurations_are_refused(options):
    with pytest.raises(ValueError, match=r"at least 0|unknown correction|correction_low must be in"):
        LossConfig(**options)
