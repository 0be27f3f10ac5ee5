"""The learning rate during a run, and the first step of Adam."""

import pytest
import torch

from arlarena.trainer.learning.optimizer import adamw, lr_multiplier, set_rate


def test_the_rate_warms_up_and_decays():
    shares = [lr_multiplier(step, 9, step / 100, 0.1) for step in range(100)]
    assert shares[0] == pytest.approx(0.1)
    assert max(shares) == pytest.approx(1 - 0.9 * 0.09, rel=0.01)
    assert shares[50] == pytest.approx(0.55)
    assert shares[99] == pytest.approx(0.109)
    assert shares[10:] == sorted(shares[10:], reverse=True)


def test_without_warm_up_and_decay_the_rate_is_constant():
    assert [lr_multiplier(step, 0, step / 10, 1.0) for step in range(12)] == [1.0] * 12


def test_after_the_end_of_the_budget_the_rate_stays_final():
    assert lr_multiplier(50, 0, 1.4, 0.25) == pytest.approx(0.25)


def test_the_first_adam_step_moves_every_weight_by_the_rate():
    """Gradients of 1e-6 and of 1 change a weight by the same amount. This is the reason for the warm-up."""
    weights = torch.nn.Parameter(torch.zeros(2))
    optimizer = adamw([weights], 1.0, (0.9, 0.999), 0.0)
    set_rate(optimizer, 0.25)
    weights.grad = torch.tensor([1e-6, -1.0])
    optimizer.step()
    assert weights.tolist() == pytest.approx([-0.25, 0.25], rel=0.02)
