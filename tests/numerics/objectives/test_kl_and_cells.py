"""KL divergences, entropy, the mismatch of sampler and trainer, and the table of eight cells."""

import math
import random

import pytest
import torch

from arlarena.trainer.objectives import cell_table, entropy, mismatch
from arlarena.trainer.objectives.cell_diagnostics import CELLS
from arlarena.trainer.objectives.kl import k3, off_policy_kl


def double(values):
    return torch.tensor(values, dtype=torch.float64)


@pytest.mark.parametrize("d", [-50.0, -20.0, -3.0, -0.1, 0.0, 0.1, 2.0, 2.6, 2.7, 19.0, 50.0])
def test_k3_equals_its_formula_and_clamps(d):
    """d = log π_ref - log π_θ is clamped to ±20, and k3 to 10.

    The gradient is 1 - e^d. If d or k3 is clamped, the gradient is 0.
    """
    log_probs = double([-1.0]).requires_grad_()
    value = k3(log_probs, double([-1.0 + d]))
    value.sum().backward()
    bounded = max(-20.0, min(20.0, d))
    raw = math.exp(bounded) - bounded - 1
    assert value.item() == pytest.approx(min(raw, 10.0), rel=1e-12)
    if d != -20.0:  # exactly at the bound, both gradients are correct
        inside = raw <= 10 and abs(d) < 20
        assert log_probs.grad.item() == pytest.approx(1 - math.exp(d) if inside else 0.0, rel=1e-9)


def test_k3_estimates_the_divergence():
    p, q = [0.5, 0.3, 0.2], [0.2, 0.2, 0.6]
    exact = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    estimate = sum(a * k3(double([math.log(a)]), double([math.log(b)])).item() for a, b in zip(p, q, strict=True))
    assert estimate == pytest.approx(exact, rel=1e-12)


def test_off_policy_kl_is_old_minus_current_log_prob():
    assert off_policy_kl(double([-2.0]).requires_grad_(), double([-1.0])).item() == 1.0


@pytest.mark.parametrize("seed", range(3))
def test_entropy_equals_its_sum(seed):
    rng = random.Random(seed)
    logits = [[rng.gauss(0, 3) for _ in range(7)] for _ in range(4)]
    wanted = []
    for row in logits:
        total = sum(math.exp(x) for x in row)
        wanted.append(-sum(math.exp(x) / total * (x - math.log(total)) for x in row))
    assert entropy(double(logits)).tolist() == pytest.approx(wanted, rel=1e-12)


def test_entropy_of_forbidden_tokens_and_its_gradient():
    logits = torch.tensor([[0.0, 0.0, -math.inf]], dtype=torch.float64, requires_grad=True)
    value = entropy(logits)
    assert value.item() == pytest.approx(math.log(2))
    value.sum().backward()
    assert bool(torch.isfinite(logits.grad).all())


def test_mismatch_by_hand():
    found = mismatch(double([-1.0, -2.0, -9.0]), double([-1.0, -2.5, 0.0]), torch.tensor([1, 1, 0]))
    assert found.max_abs == pytest.approx(0.5)
    assert found.mean_k3 == pytest.approx((math.exp(0.5) - 1.5) / 2)
    assert found.tokens == 2
    assert mismatch(double([]), double([]), torch.tensor([])).tokens == 0


def test_rows_are_counted_in_their_cells(make_row, make_batch):
    rows = [
        make_row(0, a, [-1.0 + move] * n, [-1.0] * n, [-1.0] * n, [h] * n)
        for a, h, n in ((-1.0, 0.1, 1), (-1.0, 0.9, 2), (2.0, 0.1, 3), (2.0, 0.9, 4))
        for move in (-0.2, 0.3)
    ]
    rows.append(make_row(0, 0.0, [-3.0], [-1.0], [-1.0], [0.1]))
    rows.append(make_row(0, 1.0, [], [], [], []))
    table = cell_table(make_batch(rows))
    assert len(set(CELLS)) == 8
    assert CELLS[0] == "negative/low_entropy/ratio_below"
    assert CELLS[7] == "positive/high_entropy/ratio_above"
    assert table.rows.tolist() == [1.0] * 8
    assert table.tokens.tolist() == [1.0, 1.0, 2.0, 2.0, 3.0, 3.0, 4.0, 4.0]
    low, high = math.exp(-0.2) + 0.2 - 1, math.exp(0.3) - 0.3 - 1
    assert table.kl.tolist() == pytest.approx([n * kl for n in (1, 2, 3, 4) for kl in (low, high)])
    assert table.off_policy_kl.tolist() == pytest.approx([n * kl for n in (1, 2, 3, 4) for kl in (0.2, -0.3)])
    shares = table.kl_shares()
    assert sum(shares.values()) == pytest.approx(1.0)
    assert shares["positive/low_entropy/ratio_above"] == pytest.approx(3 * high / (10 * (low + high)))


def test_the_table_of_a_batch_is_the_sum_of_the_tables_of_its_parts(make_rows, make_batch):
    rows = make_rows(3)
    whole, parts = cell_table(make_batch(rows)), cell_table(make_batch(rows[:4])) + cell_table(make_batch(rows[4:]))
    for name in ("rows", "tokens", "kl", "off_policy_kl"):
        torch.testing.assert_close(getattr(whole, name), getattr(parts, name))
    assert sum(cell_table(make_batch([])).kl_shares().values()) == 0.0


def test_the_table_needs_entropy(make_rows, make_batch):
    full = make_batch(make_rows(0))
    names = ("log_probs", "old_log_probs", "row_of_token", "trajectory_of_row", "advantages")
    with pytest.raises(ValueError, match="entropy"):
        cell_table(type(full)(**{name: getattr(full, name) for name in names}))
