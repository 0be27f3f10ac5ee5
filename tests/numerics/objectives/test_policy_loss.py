"""The loss and its gradient equal float64 loops over the formulas. The loops share no code with the package."""

import math

import pytest
import torch

from arlarena.trainer.objectives import RECIPES, Denominators, LossConfig, policy_loss, recipe

# ---- the formulas, token by token ----------------------------------------------------------------------------------


def clamp(value, low, high):
    return max(low, min(high, value))


def deltas(row):
    return [clamp(n - o, -20.0, 20.0) for n, o in zip(row.new, row.old, strict=True)]


def turn_at(row, t):
    """Return the index of the turn of token `t` within `row`."""
    ends = [sum(size for size, _ in row.credits()[: k + 1]) for k in range(len(row.credits()))]
    return next(k for k, end in enumerate(ends) if t < end)


def advantage_at(row, t):
    return row.credits()[turn_at(row, t)][1]


def unit_at(rows, level, i, t):
    """Return the key of the unit that contains token `t` of row `i`. All tokens of a unit have the same ratio."""
    return {
        "token": (i, t),
        "turn": (i, turn_at(rows[i], t)),
        "row": i,
        "trajectory": rows[i].trajectory,
    }[level]


def token_ratios(rows, level):
    """Return {(row, token): ratio} for all tokens."""
    values = {}
    for i, row in enumerate(rows):
        for t in range(len(row.new)):
            values.setdefault(unit_at(rows, level, i, t), []).append(deltas(row)[t])
    return {
        (i, t): math.exp(sum(unit) / len(unit))
        for i, row in enumerate(rows)
        for t in range(len(row.new))
        for unit in [values[unit_at(rows, level, i, t)]]
    }


def token_weights(rows, aggregation, length):
    tokens = sum(len(row.new) for row in rows)
    rows_with_tokens = sum(1 for row in rows if row.new)
    weights = {}
    for i, row in enumerate(rows):
        for t in range(len(row.new)):
            weights[i, t] = {
                "token_mean": 1 / tokens,
                "seq_mean_token_mean": 1 / (rows_with_tokens * len(row.new)),
                "seq_mean_token_sum": 1 / len(rows),
                "seq_mean_token_sum_norm": 1 / (len(rows) * length),
            }[aggregation]
    return weights


def surrogate(method, ratio, log_prob, a, delta):
    """Return the loss of one token, and its derivative by log π_θ. Factors without gradient count as constants."""
    low, high = 1 - method.clip_config.clip_low, 1 + method.clip_config.clip_high
    # At level `token`, the gradient is 0 if Δ is clamped. At other levels, the token form of the ratio has a gradient
    # even if Δ is clamped.
    moves = 0.0 if method.ratio_level == "token" and abs(delta) >= 20 else 1.0
    if method.clip in ("ppo", "gspo", "gspo_literal"):
        free, bound = -a * ratio, -a * clamp(ratio, low, high)
        loss, slope = max(free, bound), (-a * ratio * moves if free >= bound else 0.0)
        dual_clip = method.clip_config.dual_clip if method.clip == "ppo" else None
        if dual_clip and a < 0 and -a * dual_clip < loss:
            loss, slope = -a * dual_clip, 0.0
        return loss, slope
    if method.clip == "cispo":
        weight = clamp(ratio, low, high)
        return -weight * a * log_prob, -weight * a
    if method.clip == "sapo":
        tau = method.clip_config.tau_positive if a > 0 else method.clip_config.tau_negative
        x = tau * (ratio - 1)
        gate = 1 / (1 + math.exp(-x)) if x > -700 else 0.0
        return -4 / tau * gate * a, -4 * gate * (1 - gate) * ratio * a * moves
    return -a * log_prob, -a


def dropped(method, row):
    if method.mask != "sequence" or not row.new or sum(advantage_at(row, t) for t in range(len(row.new))) >= 0:
        return False
    return sum(row.old[t] - row.new[t] for t in range(len(row.new))) / len(row.new) > method.mask_delta


def expected(method, rows, kl_coefficient=0.0, entropy_coefficient=0.0):
    """Return the loss, and {(row, token): derivative by log π_θ}."""
    ratios = token_ratios(rows, method.ratio_level)
    weights = token_weights(rows, method.aggregation, method.length_norm)
    loss, slopes = 0.0, {}
    for (i, t), weight in weights.items():
        row = rows[i]
        value, slope = surrogate(method, ratios[i, t], row.new[t], advantage_at(row, t), deltas(row)[t])
        keep = 0.0 if dropped(method, row) else 1.0
        d = clamp(row.ref[t] - row.new[t], -20, 20)
        k3 = math.exp(d) - d - 1
        k3_slope = 0.0 if k3 > 10 or abs(d) >= 20 else 1 - math.exp(d)
        loss += weight * (keep * value + kl_coefficient * min(k3, 10.0) - entropy_coefficient * row.entropy[t])
        slopes[i, t] = weight * (keep * slope + kl_coefficient * k3_slope)
    if method.clip == "gspo_literal":
        slopes = spread_over_units(method, rows, slopes)
    return loss, slopes


def spread_over_units(method, rows, slopes):
    """Return the derivatives of the literal form of the ratio.

    All tokens of a unit share one differentiable s_i. Each token gets the mean derivative of the unit's tokens.
    """
    level = method.ratio_level
    spread = {}
    for i, t in slopes:
        unit = [(j, u) for j, u in slopes if unit_at(rows, level, j, u) == unit_at(rows, level, i, t)]
        moves = 0.0 if abs(rows[i].new[t] - rows[i].old[t]) >= 20 else 1.0
        spread[i, t] = moves * sum(slopes[token] for token in unit) / len(unit)
    return spread


def flat(rows, slopes):
    values = [slopes[i, t] for i, row in enumerate(rows) for t in range(len(row.new))]
    return torch.tensor(values, dtype=torch.float64)


# ---- every method, every combination -------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("name", list(RECIPES))
def test_every_recipe_equals_its_formula(name, seed, make_rows, make_batch):
    rows, method = make_rows(seed), recipe(name)
    batch = make_batch(rows)
    loss, metrics = policy_loss(method, batch, Denominators.count([batch]))
    loss.backward()
    value, slopes = expected(method, rows)
    assert loss.item() == pytest.approx(value, rel=1e-11, abs=1e-12)
    assert metrics["policy_loss"].item() == pytest.approx(value, rel=1e-11, abs=1e-12)
    torch.testing.assert_close(batch.log_probs.grad, flat(rows, slopes), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("clip", ["ppo", "gspo", "cispo", "sapo", "reinforce"])
@pytest.mark.parametrize("level", ["token", "turn", "row", "trajectory"])
@pytest.mark.parametrize(
    "aggregation", ["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "seq_mean_token_sum_norm"]
)
@pytest.mark.parametrize("growing", [False, True], ids=["one_turn_rows", "growing_rows"])
def test_any_combination_equals_its_formula(
    clip, level, aggregation, growing, make_rows, make_growing_rows, make_batch
):
    method = recipe("grpo", clip=clip, ratio_level=level, aggregation=aggregation, clip_low=0.1, mask="sequence")
    rows = make_growing_rows(11) if growing else make_rows(11)
    batch = make_batch(rows)
    run = LossConfig(kl_coefficient=0.01, entropy_coefficient=0.003)
    loss, _ = policy_loss(method, batch, Denominators.count([batch]), run)
    loss.backward()
    value, slopes = expected(method, rows, 0.01, 0.003)
    assert loss.item() == pytest.approx(value, rel=1e-11)
    torch.testing.assert_close(batch.log_probs.grad, flat(rows, slopes), rtol=1e-10, atol=1e-13)
    entropy_slopes = token_weights(rows, aggregation, 512.0)
    torch.testing.assert_close(batch.entropy.grad, -0.003 * flat(rows, entropy_slopes), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("level", ["turn", "row", "trajectory"])
@pytest.mark.parametrize("growing", [False, True], ids=["one_turn_rows", "growing_rows"])
def test_literal_form_equals_its_formula(level, growing, make_rows, make_growing_rows, make_batch):
    method = recipe("sampo_literal", ratio_level=level, clip_low=0.05, clip_high=0.05)
    rows = make_growing_rows(5) if growing else make_rows(5)
    batch = make_batch(rows)
    policy_loss(method, batch, Denominators.count([batch]))[0].backward()
    torch.testing.assert_close(batch.log_probs.grad, flat(rows, expected(method, rows)[1]), rtol=1e-10, atol=1e-13)


def test_dual_clip_limits_the_loss_of_tokens_with_negative_advantage(make_rows, make_batch):
    rows, method = make_rows(3, spread=1.5), recipe("grpo", dual_clip=3.0)
    batch = make_batch(rows)
    loss, _ = policy_loss(method, batch, Denominators.count([batch]))
    loss.backward()
    value, slopes = expected(method, rows)
    assert loss.item() == pytest.approx(value, rel=1e-11)
    assert loss.item() < policy_loss(recipe("grpo"), batch, Denominators.count([batch]))[0].item()
    torch.testing.assert_close(batch.log_probs.grad, flat(rows, slopes), rtol=1e-10, atol=1e-13)


@pytest.mark.parametrize("name", ["grpo", "gigpo", "gspo", "sampo", "sampo_release", "sampo_literal"])
def test_some_ratios_of_these_tests_are_clipped(name, make_rows, make_batch):
    batches = [make_batch(make_rows(seed)) for seed in range(4)]
    metrics = [policy_loss(recipe(name), batch, Denominators.count([batch]))[1] for batch in batches]
    for key in ("clip_negative_low", "clip_positive_high"):
        assert sum(part[key].item() for part in metrics) > 0
    assert all(0 < part["outside"] <= 1 for part in metrics)


def test_clip_metrics_count_tokens_by_hand(make_row, make_batch):
    """With A < 0, two of the ratios 0.5, 0.6, 1, 2 are below the interval. With A > 0, one of 0.5, 4 is above it."""
    rows = []
    for i, (advantage, ratios) in enumerate(((-1.0, (0.5, 0.6, 1.0, 2.0)), (1.0, (0.5, 4.0)))):
        n, moved = len(ratios), [-1 + math.log(x) for x in ratios]
        rows.append(make_row(i, advantage, moved, [-1.0] * n, [-1.0] * n, [0.2] * n))
    batch = make_batch(rows)
    _, metrics = policy_loss(recipe("grpo"), batch, Denominators.count([batch]))
    wanted = {"outside": 5 / 6, "clip_negative_low": 2 / 6, "clip_positive_high": 1 / 6, "ratio_mean": 8.6 / 6}
    wanted |= {"ratio_max": 4.0, "ratio_min": 0.5, "entropy": 0.2}
    wanted["off_policy_kl"] = -math.log(0.5 * 0.6 * 2 * 0.5 * 4) / 6
    assert {key: metrics[key].item() for key in wanted} == pytest.approx(wanted, abs=1e-12)


# ---- SAMPO by hand -------------------------------------------------------------------------------------------------


def hand_rows(make_row):
    """Return three rows of one turn each.

    Trajectory 0 has a turn of 2 tokens with A = 2, and a turn of 1 token with A = -1. Trajectory 1 has a turn of 1
    token with A = 1.
    """

    def row(trajectory, advantage, delta):
        zeros = [0.0] * len(delta)
        return make_row(trajectory, advantage, [d - 1.0 for d in delta], [-1.0] * len(delta), zeros, zeros)

    return [row(0, 2.0, [0.3, 0.0]), row(0, -1.0, [0.0]), row(1, 1.0, [-0.1])]


def test_sampo_by_hand_at_trajectory_level(make_row, make_batch):
    # The mean Δ of trajectory 0 is 0.3/3 = 0.1, so s = 1.105171, clipped to 1.04. Trajectory 1: s = e^-0.1 = 0.904837.
    # min(2s, 2.08) = 2.08 for two tokens; min(-s, -1.04) = -1.105171; min(s, 0.95) = 0.904837.
    # The sum over the 4 tokens is 4.16 - 1.105171 + 0.904837 = 3.959666.
    batch = make_batch(hand_rows(make_row))
    method = recipe("sampo", clip_low=0.05, clip_high=0.04)
    loss, _ = policy_loss(method, batch, Denominators.count([batch]))
    assert loss.item() == pytest.approx(-3.959666 / 4, abs=1e-6)
    loss.backward()
    # The gradient of clipped tokens is 0. The gradient of other tokens is -s A / 4.
    assert batch.log_probs.grad.tolist() == pytest.approx([0.0, 0.0, 1.105171 / 4, -0.904837 / 4], abs=1e-6)


def test_row_level_is_turn_level_where_each_row_is_one_turn(make_rows, make_batch):
    rows = make_rows(13)
    found = []
    for level in ("turn", "row"):
        batch = make_batch(rows)
        loss, metrics = policy_loss(recipe("sampo_release", ratio_level=level), batch, Denominators.count([batch]))
        loss.backward()
        found.append((loss.item(), batch.log_probs.grad, {key: value.item() for key, value in metrics.items()}))
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])
    assert found[0][2] == found[1][2]


def test_row_level_is_trajectory_level_where_each_trajectory_is_one_row(make_growing_rows, make_batch):
    rows = make_growing_rows(13)
    for number, row in enumerate(rows):
        row.trajectory = number
    gradients = {}
    for level in ("turn", "row", "trajectory"):
        batch = make_batch(rows)
        policy_loss(recipe("sampo_release", ratio_level=level), batch, Denominators.count([batch]))[0].backward()
        gradients[level] = batch.log_probs.grad
    torch.testing.assert_close(gradients["row"], gradients["trajectory"], rtol=1e-12, atol=0)
    assert not torch.allclose(gradients["row"], gradients["turn"], rtol=1e-3)


def test_sampo_by_hand_at_row_level(make_row, make_batch):
    # Row 0: mean Δ 0.15, s = 1.161834, s A clipped to 2.08. Row 1: s = 1, s A = -1. Row 2: s = 0.904837 = s A.
    # The loss of a row is a mean over its tokens. The mean over the rows is (2.08 - 1 + 0.904837) / 3, negated.
    batch = make_batch(hand_rows(make_row))
    method = recipe("sampo_release", clip_low=0.05, clip_high=0.04)
    loss, _ = policy_loss(method, batch, Denominators.count([batch]))
    assert loss.item() == pytest.approx(-1.984837 / 3, abs=1e-6)
    loss.backward()
    assert batch.log_probs.grad.tolist() == pytest.approx([0.0, 0.0, 1 / 3, -0.904837 / 3], abs=1e-6)


def test_token_form_uses_the_advantage_of_each_turn_and_literal_form_their_mean(make_row, make_batch):
    rows = hand_rows(make_row)[:2]
    for name, gradient in (("sampo", [-2.0, -2.0, 1.0]), ("sampo_literal", [-1.0, -1.0, -1.0])):
        batch = make_batch(rows)
        method = recipe(name, clip_low=0.5, clip_high=0.5)
        policy_loss(method, batch, Denominators.count([batch]))[0].backward()
        assert batch.log_probs.grad.tolist() == pytest.approx([g * math.exp(0.1) / 3 for g in gradient], rel=1e-12)


# ---- gradients against finite differences --------------------------------------------------------------------------


def frozen_surrogate(method, rows, weights, x):
    """Return the surrogate loss at the log-probs `x`. Factors without gradient are computed from `rows`, not `x`."""
    total, position = 0.0, 0
    ratios = token_ratios(rows, method.ratio_level)
    for i, row in enumerate(rows):
        for t in range(len(row.new)):
            here, position = x[position], position + 1
            if dropped(method, row):
                continue
            if method.ratio_level == "token" and method.clip != "cispo":
                ratio = math.exp(clamp(here - row.old[t], -20, 20))
            elif method.clip == "cispo":
                ratio = ratios[i, t]
            else:
                ratio = ratios[i, t] * math.exp(here - row.new[t])
            total += weights[i, t] * surrogate(method, ratio, here, row.advantage, 0.0)[0]
    return total


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.endswith("_literal")])
def test_gradient_equals_finite_differences(name, make_rows, make_batch):
    rows, method = make_rows(7, extreme=False), recipe(name)
    batch = make_batch(rows)
    policy_loss(method, batch, Denominators.count([batch]))[0].backward()
    weights = token_weights(rows, method.aggregation, method.length_norm)
    x, h = batch.log_probs.detach().tolist(), 1e-6
    for k in range(len(x)):
        up, down = [*x[:k], x[k] + h, *x[k + 1 :]], [*x[:k], x[k] - h, *x[k + 1 :]]
        slope = (frozen_surrogate(method, rows, weights, up) - frozen_surrogate(method, rows, weights, down)) / (2 * h)
        assert batch.log_probs.grad[k].item() == pytest.approx(slope, abs=2e-8)


# ---- the sequence mask ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("advantage", "moved", "trains"),
    [(-1.0, -0.01, False), (-1.0, 0.01, True), (1.0, -0.01, True), (1.0, 0.01, True), (-1.0, -0.002, True)],
)
@pytest.mark.parametrize("name", ["grpo_sm", "cispo_sm", "sapo_sm"])
def test_sequence_mask_drops_rows_with_negative_advantage_and_lower_probability(
    name, advantage, moved, trains, make_row, make_batch
):
    """`moved` is log π_θ - log π_old of each token. The limit `mask_delta` is 0.003."""
    row = make_row(0, advantage, [-1.0 + moved] * 3, [-1.0] * 3, [-1.0] * 3, [0.5] * 3)
    batch = make_batch([row])
    loss, metrics = policy_loss(recipe(name), batch, Denominators.count([batch]))
    loss.backward()
    assert bool(batch.log_probs.grad.abs().min() > 0) is trains
    assert metrics["rows_masked"].item() == (0.0 if trains else 1.0)


def test_sequence_mask_does_not_change_kl_and_denominators(make_row, make_batch):
    bad = make_row(0, -1.0, [-2.0, -2.0], [-1.0, -1.0], [-1.5, -1.5], [0.5, 0.5])
    good = make_row(1, 1.0, [-1.0, -1.0], [-1.0, -1.0], [-1.0, -1.0], [0.5, 0.5])
    batch = make_batch([bad, good])
    loss, _ = policy_loss(recipe("grpo_sm"), batch, Denominators.count([batch]), LossConfig(kl_coefficient=0.1))
    k3 = math.exp(0.5) - 0.5 - 1
    assert loss.item() == pytest.approx((2 * -1.0 + 0.1 * 2 * k3) / 4, rel=1e-12)


@pytest.mark.parametrize(
    ("level", "loss"),
    [
        ("turn", (-2 * math.exp(0.1) + 2 * math.exp(-0.3)) / 3),  # mean Δ of the turns: 0.1 and -0.3
        ("row", (-2 + 2) * math.exp(-0.1 / 3) / 3),  # mean Δ of the row: (0.2 + 0 - 0.3) / 3
    ],
)
def test_two_turns_in_one_row_have_their_own_advantage(level, loss, make_row, make_batch):
    deltas = [-0.8, -1.0, -1.3]
    row = make_row(0, 0.0, deltas, [-1.0] * 3, [-1.0] * 3, [0.1] * 3, [(2, 1.0), (1, -2.0)])
    batch = make_batch([row])
    method = recipe("sampo", ratio_level=level, clip_low=0.9, clip_high=0.9)
    found, _ = policy_loss(method, batch, Denominators.count([batch]))
    assert found.item() == pytest.approx(loss, rel=1e-12, abs=1e-15)
