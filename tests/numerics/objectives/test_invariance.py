"""What must not change the gradient: micro-batches, ranks, the order of rows, padding, merging of equal rows."""

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
    """(loss, gradient by row, metrics) of one optimiser step over micro-batches `parts`, lists of (number, row)."""
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
    assert_same(step(method, [rows, []], make_batch), whole)  # a rank that holds nothing


@pytest.mark.parametrize("name", list(RECIPES))
def test_the_order_of_rows_does_not_matter(name, make_rows, make_batch):
    rows = list(enumerate(make_rows(9)))
    method = recipe(name)
    assert_same(step(method, [rows[::-1]], make_batch), step(method, [rows], make_batch))


def test_dividing_per_micro_batch_would_be_seen(make_rows, make_batch):
    """The control of the tests above: the mistake they guard against does change the gradient here."""
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
    with pytest.raises(ValueError, match="whole"):
        policy_loss(recipe("sampo_literal"), batch, Denominators.count([batch]))


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("growing", [False, True], ids=["one_turn_rows", "growing_rows"])
def test_what_lies_under_the_mask_is_never_read(name, growing, make_rows, make_growing_rows, make_batch):
    """Padding, tool output: NaN there reaches neither loss nor gradient, and equals leaving the tokens out."""
    make = make_growing_rows if growing else make_rows
    rows, method = make(6), recipe(name)
    poisoned = make(6)
    for row in poisoned:
        for t, m in enumerate(row.mask):
            if not m:
                row.new[t] = row.old[t] = row.ref[t] = row.entropy[t] = float("nan")
    packed = make(6)
    for row in packed:
        live = [t for t, m in enumerate(row.mask) if m]
        ends = list(itertools.accumulate(size for size, _ in row.turns))
        inside = [sum(row.mask[end - size : end]) for end, (size, _) in zip(ends, row.turns, strict=True)]
        row.turns = [(size, advantage) for size, (_, advantage) in zip(inside, row.turns, strict=True)]
        for field in ("new", "old", "ref", "entropy", "mask"):
            setattr(row, field, [getattr(row, field)[t] for t in live])
    results = []
    for variant in (rows, poisoned, packed):
        batch = make_batch(variant)
        loss, _ = policy_loss(method, batch, Denominators.count([batch]), RUN)
        loss.backward()
        results.append((loss.item(), batch.log_probs.grad[batch.mask]))
        assert bool((batch.log_probs.grad[~batch.mask] == 0).all())
    for loss, gradient in results[1:]:
        assert loss == pytest.approx(results[0][0], rel=1e-12)
        torch.testing.assert_close(gradient, results[0][1], rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("kind", ["all masked", "no tokens", "no rows"])
def test_an_empty_micro_batch_is_a_zero_in_the_graph(name, kind, make_rows, make_batch):
    rows = [] if kind == "no rows" else make_rows(1)[:3]
    for row in rows:
        row.mask = [0] * len(row.mask)
        if kind == "no tokens":
            row.new, row.old, row.ref, row.entropy, row.mask = [], [], [], [], []
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


# ---- equal rows merged into one ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grpo", "grpo_st", "grpo_sm", "gspo_release", "cispo_sm", "sapo_sm", "sampo_release"])
def test_merging_equal_rows_of_one_sign_keeps_the_step(name, make_rows, make_batch, make_row):
    """Same prompt and response, same sign of A: one row with summed A and its count as weight."""
    method, base = recipe(name, clip_low=0.05), make_rows(12, extreme=False)
    for row in base[:2]:
        row.mask = [1] * len(row.mask)
    base[0].advantage, base[1].advantage = -0.4, 0.7

    def twin(row, advantage):
        return make_row(row.trajectory + 1, advantage, row.new, row.old, row.ref, row.entropy, row.mask)

    copies = [twin(base[0], -1.1), twin(base[0], -0.2), twin(base[1], 0.3)]
    separate = make_batch([*base, *copies])
    loss, metrics = policy_loss(method, separate, Denominators.count([separate]), RUN)
    loss.backward()
    lengths = [len(row.new) for row in [*base, *copies]]
    pieces = list(separate.log_probs.grad.split(lengths))
    pieces[0] = pieces[0] + pieces[len(base)] + pieces[len(base) + 1]
    pieces[1] = pieces[1] + pieces[len(base) + 2]

    base[0].advantage, base[1].advantage = -0.4 - 1.1 - 0.2, 0.7 + 0.3
    weights = torch.tensor([3.0, 2.0] + [1.0] * (len(base) - 2), dtype=torch.float64)
    merged = make_batch(base, row_weights=weights)
    count = Denominators.count([merged])
    assert count == Denominators.count([separate])
    merged_loss, merged_metrics = policy_loss(method, merged, count, RUN)
    merged_loss.backward()
    assert merged_loss.item() == pytest.approx(loss.item(), rel=1e-12)
    torch.testing.assert_close(merged.log_probs.grad, torch.cat(pieces[: len(base)]), rtol=1e-11, atol=1e-14)
    assert merge_metrics([merged_metrics]) == pytest.approx(merge_metrics([metrics]), rel=1e-12)


def test_merging_within_a_trajectory_keeps_the_trajectory_ratio(make_row, make_batch):
    def row(trajectory, advantage, delta):
        n = len(delta)
        return make_row(trajectory, advantage, [d - 1 for d in delta], [-1.0] * n, [-1.1] * n, [0.3] * n, [1] * n)

    same, method = [0.2, -0.1], recipe("sampo", clip_low=0.05, clip_high=0.05)
    separate = make_batch([row(0, -1.0, same), row(0, -0.5, same), row(0, 1.0, [0.0, 0.05])])
    merged = make_batch(
        [row(0, -1.5, same), row(0, 1.0, [0.0, 0.05])], row_weights=torch.tensor([2.0, 1.0], dtype=torch.float64)
    )
    losses = [policy_loss(method, batch, Denominators.count([batch]), RUN)[0] for batch in (separate, merged)]
    assert losses[0].item() == pytest.approx(losses[1].item(), rel=1e-12)
