"""The gradient does not depend on micro-batches, ranks or the order of rows, and little on the dtype of the inputs."""

import itertools
import random

import pytest
import torch

from arlarena.trainer.objectives import (
    RECIPES,
    Denominators,
    LossConfig,
    merge_metrics,
    policy_loss,
    recipe,
    sequence_log_ratio,
    sequence_sums,
)

RUN = LossConfig(kl_coefficient=0.01, entropy_coefficient=0.002)
AGGREGATIONS = ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"]


def step(method, parts, make_batch, n_trajectories=5):
    """Return the loss, the gradient of each row, and the metrics of one optimiser step.

    `parts`: the micro-batches, each a list of (row number, row).
    """
    batches = [make_batch([row for _, row in part]) for part in parts]
    totals = [sequence_sums(batch, n_trajectories) for batch in batches]
    shared = sequence_log_ratio(sum(t[0] for t in totals), sum(t[1] for t in totals))
    if not method.literal:
        batches = [make_batch([row for _, row in part], sequence_log_ratio=shared) for part in parts]
    denominators = sum((Denominators.count([batch]) for batch in batches), Denominators(0, 0, 0))
    loss, gradients, metrics = 0.0, {}, []
    for part, batch in zip(parts, batches, strict=True):
        share, measured = policy_loss(method, batch, denominators, RUN)
        share.backward()
        loss += share.item()
        metrics.append(measured)
        pieces = batch.log_probs.grad.split([len(row.new) for _, row in part])
        gradients |= {number: piece for (number, _), piece in zip(part, pieces, strict=True)}
    return loss, [gradients[number] for number in sorted(gradients)], merge_metrics(metrics)


def assert_same(one, other):
    assert one[0] == pytest.approx(other[0], rel=1e-11, abs=1e-13)
    for mine, theirs in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-10, atol=1e-14)
    assert one[2] == pytest.approx(other[2], rel=1e-10, abs=1e-13)


@pytest.mark.parametrize("clip", ["ppo", "gspo", "cispo", "sapo"])
@pytest.mark.parametrize("level", ["token", "turn", "row", "trajectory"])
@pytest.mark.parametrize("aggregation", AGGREGATIONS)
@pytest.mark.parametrize("growing", [False, True], ids=["one_turn_rows", "growing_rows"])
def test_any_split_gives_the_same_step(aggregation, level, clip, growing, make_rows, make_growing_rows, make_batch):
    rows = list(enumerate(make_growing_rows(2) if growing else make_rows(2)))
    method = recipe("grpo", aggregation=aggregation, ratio_level=level, clip=clip, mask="sequence")
    whole = step(method, [rows], make_batch)
    for seed in range(3):
        rng = random.Random(seed)
        shuffled = rng.sample(rows, len(rows))
        cuts = [0, *sorted(rng.sample(range(1, len(rows)), 3)), len(rows)]
        parts = [shuffled[a:b] for a, b in itertools.pairwise(cuts)]
        assert_same(step(method, parts, make_batch), whole)
    assert_same(step(method, [[row] for row in rows], make_batch), whole)
    assert_same(step(method, [rows, []], make_batch), whole)  # a rank without rows


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_order_of_rows_does_not_matter(name, make_rows, make_batch):
    rows = list(enumerate(make_rows(9)))
    method = recipe(name)
    assert_same(step(method, [rows[::-1]], make_batch), step(method, [rows], make_batch))


def test_dividing_by_counts_of_each_micro_batch_changes_the_gradient(make_rows, make_batch):
    """Dividing by the counts of each micro-batch, instead of the step, changes the gradient.

    This control shows that the tests above can detect the mistake.
    """
    rows, method = make_rows(2), recipe("grpo")
    whole = make_batch(rows)
    policy_loss(method, whole, Denominators.count([whole]))[0].backward()
    pieces = []
    for part in (rows[:3], rows[3:]):
        batch = make_batch(part)
        (policy_loss(method, batch, Denominators.count([batch]))[0] / 2).backward()
        pieces.append(batch.log_probs.grad)
    assert not torch.allclose(torch.cat(pieces), whole.log_probs.grad, rtol=1e-3)


def test_precomputed_ratios_equal_those_of_whole_trajectories(make_rows, make_batch):
    rows, method = make_rows(4), recipe("sampo")
    inside = make_batch(rows)
    given = make_batch(rows, sequence_log_ratio=sequence_log_ratio(*sequence_sums(inside, 5)))
    count = Denominators.count([inside])
    losses = [policy_loss(method, batch, count)[0] for batch in (inside, given)]
    for loss in losses:
        loss.backward()
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
    torch.testing.assert_close(inside.log_probs.grad, given.log_probs.grad, rtol=1e-12, atol=0)


def test_the_literal_form_refuses_split_trajectories(make_rows, make_batch):
    batch = make_batch(make_rows(0), sequence_log_ratio=torch.zeros(5, dtype=torch.float64))
    with pytest.raises(ValueError, match="all rows of a trajectory"):
        policy_loss(recipe("sampo_literal"), batch, Denominators.count([batch]))


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("kind", ["no tokens", "no rows"])
def test_an_empty_micro_batch_has_a_loss_and_gradient_of_zero(name, kind, make_rows, make_batch):
    rows = [] if kind == "no rows" else make_rows(1)[:3]
    for row in rows:
        row.new, row.old, row.ref, row.entropy = [], [], [], []
    batch = make_batch(rows)
    loss, metrics = policy_loss(recipe(name), batch, Denominators(tokens=7, rows=3, live_rows=3), RUN)
    assert loss.item() == 0.0
    assert loss.grad_fn is not None
    loss.backward()
    assert batch.log_probs.grad is not None
    assert bool((batch.log_probs.grad == 0).all())
    assert all(torch.isfinite(value) for value in metrics.values())


@pytest.mark.parametrize("name", list(RECIPES))
def test_float32_and_bfloat16_inputs_stay_finite_and_close(name, make_rows, make_batch):
    rows, method = make_rows(8, extreme=False), recipe(name)
    exact = make_batch(rows)
    policy_loss(method, exact, Denominators.count([exact]), RUN)[0].backward()
    single = make_batch(rows, dtype=torch.float32)
    loss, _ = policy_loss(method, single, Denominators.count([single]), RUN)
    loss.backward()
    torch.testing.assert_close(single.log_probs.grad.double(), exact.log_probs.grad, rtol=1e-4, atol=1e-6)
    half = make_batch(rows, dtype=torch.bfloat16)
    loss, _ = policy_loss(method, half, Denominators.count([half]), RUN)
    loss.backward()
    assert loss.dtype == torch.float32
    assert bool(torch.isfinite(half.log_probs.grad).all())
