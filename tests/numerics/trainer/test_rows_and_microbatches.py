"""Packed rows give the results of rows computed alone, for any size of micro-batches and chunks."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch
from support.trainer.trainer_support import growing_rows, random_rows

from arlarena.trainer.batching.packing import TrainingSample, micro_batches
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.forward import Scorer
from arlarena.trainer.objectives import RECIPES, recipe
from arlarena.trainer.settings import TrainerSettings


def settings(**changes):
    return TrainerSettings(lr=1e-3, kl_coefficient=0.02, entropy_coefficient=0.003, gradient_clip=1e9, **changes)


def in_float64(model):
    return copy.deepcopy(model).to("cpu", torch.float64)


def reference_log_probs(exact, row, temperature):
    """Return log-probs and entropies of the response of one row alone, from a policy in float64."""
    ids = torch.tensor(np.concatenate([row.prompt, row.response])[None].astype(np.int64))
    logits = exact(input_ids=ids).logits[0].detach() / temperature
    log_p = torch.log_softmax(logits, -1)
    at = torch.arange(len(row.prompt) - 1, ids.shape[1] - 1)
    return log_p[at, ids[0, at + 1]], -(log_p[at].exp() * log_p[at]).sum(-1)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("max_tokens", [10_000, 40, 1])
@pytest.mark.parametrize("instructions", [0, 40, 70])
def test_log_probs_equal_those_of_each_row_alone(policy, max_tokens, temperature, instructions):
    rows = random_rows(0, instructions=instructions)
    exact = in_float64(policy)
    compared = 0
    for batch in micro_batches(rows, max_tokens):
        log_probs, entropies = Scorer(policy, 10_000)(batch, temperature)
        for number in range(len(batch.trajectory_of_row)):
            own = batch.row_of_token == number
            row = next(
                row
                for row in rows
                if torch.equal(torch.from_numpy(row.behaviour[row.mask.astype(bool)]), batch.behaviour[own])
                and row.turns[0][1] == pytest.approx(float(batch.advantages[number]))
            )
            sampled = torch.from_numpy(row.mask.astype(bool))
            expected, expected_entropy = (each[sampled] for each in reference_log_probs(exact, row, temperature))
            torch.testing.assert_close(log_probs[own].double(), expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(entropies[own].double(), expected_entropy, atol=1e-5, rtol=1e-5)
            assert int(batch.trajectory_of_row[number]) == row.trajectory
            compared += 1
    assert compared == len(rows)


def test_shared_tokens_are_computed_once():
    rows = random_rows(1, instructions=40)
    (batch,) = micro_batches(rows, 10_000)
    distinct = {row.key: row for row in rows}.values()
    prompts = {row.prompt.tobytes(): row.prompt for row in distinct}.values()
    # The forest has 32 shared tokens of the instructions, the rest of each prompt, and each response.
    tokens = 32 + sum(len(prompt) - 32 for prompt in prompts) + sum(len(row.response) for row in distinct)
    assert len(batch.forest.ids) == tokens < sum(len(row.prompt) + len(row.response) for row in distinct)
    assert len(batch.token_index) == sum(int(row.mask.sum()) for row in rows)
    assert len(batch.targets) <= sum(len(row.response) for row in distinct)


def test_a_microbatch_respects_its_token_limit():
    for batch in micro_batches(random_rows(2), 60):
        assert len(batch.forest.ids) <= 60


def as_turns(rows):
    """Return one row for each turn of `rows`. The prompt of a turn is all tokens before the turn."""
    turns = []
    for row in rows:
        start = 0
        for size, advantage in row.turns:
            part, before = slice(start, start + size), np.concatenate([row.prompt, row.response[:start]])
            given = row.behaviour[part], row.mask[part]
            turns.append(TrainingSample(before, row.response[part], *given, ((size, advantage),), row.trajectory))
            start += size
    return turns


@pytest.mark.parametrize("name", ["sampo", "gspo", "grpo", "cispo", "sapo", "gigpo"])
def test_a_growing_row_has_the_gradient_of_its_turns(policy, name):
    rows = growing_rows(9)
    method = recipe(name)  # the loss is a mean over tokens, so the split into rows has no effect
    complete, _ = gradients_after(policy, rows, settings(), method)
    turns, _ = gradients_after(policy, as_turns(rows), settings(), method)
    largest = max(float(grad.abs().max()) for grad in complete.values())
    assert largest > 0
    for key, grad in complete.items():
        torch.testing.assert_close(turns[key], grad, atol=2e-6 * largest, rtol=1e-4)


def gradients_after(policy, rows, run, method):
    """Return the gradients and the metrics of one update."""
    model = copy.deepcopy(policy)
    learner = Learner(model, policy, method, run)
    seen = {}
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.update({name: p.grad.clone() for name, p in model.named_parameters()})
    )
    metrics = learner.update([rows], rate=1e-3)
    return seen, metrics


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_microbatch_and_chunk_sizes_do_not_change_gradients(policy, name):
    rows = random_rows(3, instructions=33)
    method = recipe(name)
    complete, metrics = gradients_after(policy, rows, settings(), method)
    assert all(torch.isfinite(grad).all() for grad in complete.values())
    cut, cut_metrics = gradients_after(policy, rows, settings(tokens_per_microbatch=30, logits_chunk_tokens=3), method)
    largest = max(float(grad.abs().max()) for grad in complete.values())
    assert largest > 0
    for key, grad in complete.items():
        torch.testing.assert_close(cut[key], grad, atol=2e-6 * largest, rtol=1e-4)
    for key in ("loss", "reference_kl", "entropy", "grad_norm", "outside", "clip_negative_low"):
        assert cut_metrics[key] == pytest.approx(metrics[key], rel=1e-3, abs=1e-7), key


@pytest.mark.parametrize("level", ["token", "turn", "row", "trajectory"])
def test_microbatch_size_does_not_change_gradients_of_growing_rows(policy, level):
    rows, method = growing_rows(14), recipe("sampo_release", ratio_level=level, clip_low=0.5, clip_high=0.5)
    complete, metrics = gradients_after(policy, rows, settings(), method)
    cut, cut_metrics = gradients_after(policy, rows, settings(tokens_per_microbatch=30, logits_chunk_tokens=3), method)
    largest = max(float(grad.abs().max()) for grad in complete.values())
    assert largest > 0
    for key, grad in complete.items():
        torch.testing.assert_close(cut[key], grad, atol=2e-6 * largest, rtol=1e-4)
    assert cut_metrics["ratio_mean"] == pytest.approx(metrics["ratio_mean"], rel=1e-4)


@pytest.mark.parametrize("name", ["sampo", "sampo_release", "grpo", "gspo"])
def test_the_order_of_rows_does_not_change_gradients(policy, name):
    rows = random_rows(4)
    forward, _ = gradients_after(policy, rows, settings(), recipe(name))
    backward, _ = gradients_after(policy, rows[::-1], settings(), recipe(name))
    largest = max(float(grad.abs().max()) for grad in forward.values())
    for key, grad in forward.items():
        torch.testing.assert_close(backward[key], grad, atol=2e-6 * largest, rtol=1e-4)


def test_zero_advantages_leave_only_the_kl_gradient(policy):
    rows = [replace(row, turns=((len(row.response), 0.0),)) for row in random_rows(5)]
    model = copy.deepcopy(policy)
    learner = Learner(model, policy, recipe("sampo"), TrainerSettings(lr=1e-3, kl_coefficient=0.01, weight_decay=0.0))
    metrics = learner.update([rows], rate=1e-3)
    assert metrics["grad_norm"] < 1e-6  # the policy equals the reference, where k3 has its minimum


def test_the_decoupled_anchor_is_the_policy_at_the_start_of_the_step(policy):
    rows = random_rows(6)
    learner = Learner(copy.deepcopy(policy), policy, recipe("grpo"), settings(policy_anchor="decoupled"))
    half = len(rows) // 2
    metrics = learner.update([rows[:half], rows[half:]], rate=1e-3)
    assert metrics["ratio_mean"] != 1.0  # the second minibatch starts from changed weights
    first = Learner(copy.deepcopy(policy), policy, recipe("grpo"), settings(policy_anchor="decoupled"))
    alone = first.update([rows], rate=1e-3)
    assert alone["ratio_mean"] == pytest.approx(1.0, abs=1e-6)
    assert alone["outside"] == 0.0


def test_mismatch_is_measured_on_fresh_rows_of_the_first_update(policy):
    rows, exact = [], in_float64(policy)
    for row in random_rows(7):
        log_probs, _ = reference_log_probs(exact, row, 1.0)
        turns = ((len(row.response), 1.0),)
        rows.append(replace(row, behaviour=log_probs.numpy().astype(np.float32), turns=turns, trajectory=0))
    learner = Learner(copy.deepcopy(policy), policy, recipe("grpo"), settings())
    metrics = learner.update([rows, rows], rate=1e-3)
    assert 0 < metrics["mismatch_max"] < 1e-4
    assert metrics["mismatch_tokens"] == sum(int(row.mask.sum()) for row in rows)
    stale = [replace(row, behaviour=row.behaviour - 1, fresh=False) for row in rows]
    assert learner.update([stale], rate=1e-3)["mismatch_tokens"] == 0


def test_no_rows_do_not_change_the_weights(policy):
    learner = Learner(copy.deepcopy(policy), policy, recipe("sampo"), settings())
    before = copy.deepcopy(learner.policy.state_dict())
    assert learner.update([], rate=1e-3)["grad_norm"] == 0.0
    assert all(torch.equal(value, before[key]) for key, value in learner.policy.state_dict().items())


def test_mean_entropies_are_those_of_each_row_alone(policy):
    rows, exact = random_rows(8), in_float64(policy)
    learner = Learner(copy.deepcopy(policy), policy, recipe("empg"), settings(tokens_per_microbatch=40))
    for row, result in zip(rows, learner.mean_entropies(rows), strict=True):
        entropy = reference_log_probs(exact, row, 1.0)[1] * torch.from_numpy(row.mask)
        assert result == pytest.approx(float(entropy.sum()) / max(1, int(row.mask.sum())), abs=1e-5)


def test_invalid_rows_are_refused():
    one = np.ones(1, dtype=np.int32)
    with pytest.raises(ValueError, match="the prompt is empty"):
        TrainingSample(one[:0], one, np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.uint8), ((1, 1.0),))
    with pytest.raises(ValueError, match=r"do not add up to a response of 1 token$"):
        TrainingSample(one, one, np.zeros(1, dtype=np.float32), np.ones(1, dtype=np.uint8), ((2, 1.0),))


def test_rows_without_sampled_tokens_change_only_counts(policy):
    rows = random_rows(12)
    empty = {name: getattr(rows[0], name)[:0] for name in ("response", "behaviour", "mask")}
    empty_response = replace(rows[0], **empty, turns=((0, 1.0),), trajectory=5)
    unsampled = replace(rows[1], mask=rows[1].mask * 0, trajectory=5)
    method = recipe("grpo")  # the loss is a mean over tokens
    without, _ = gradients_after(policy, rows, settings(), method)
    with_them, _ = gradients_after(policy, [*rows, empty_response, unsampled], settings(), method)
    for key, grad in without.items():
        torch.testing.assert_close(with_them[key], grad, atol=1e-7, rtol=1e-5)
