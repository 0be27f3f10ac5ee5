"""In a batch with several temperatures, each row has the results of the row computed alone at its temperature."""

import copy
from dataclasses import replace

import msgspec
import numpy as np
import pytest
import torch
from support.trainer.trainer_support import growing_rows, random_rows

from arlarena.proto.trajectory import PolicyVersion, Sampling, pack_floats
from arlarena.trainer.batching.packing import micro_batches
from arlarena.trainer.batching.scoring import score, training_sample, training_samples, turn_entropies
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.forward import Scorer
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings

TEMPERATURES = (1.0, 0.5, 0.7, 1.3)
NOW = PolicyVersion("run", 3, "now")
FRESH = StalenessPolicy(3, 0, {"now": 3})


def mixed(rows):
    return [replace(row, temperature=TEMPERATURES[k % len(TEMPERATURES)]) for k, row in enumerate(rows)]


def alone(model, row, temperature=None):
    """Return the log-probs and entropies of the sampled tokens of one row alone, from the full logits."""
    ids = torch.tensor(np.concatenate([row.prompt, row.response])[None].astype(np.int64))
    log_p = torch.log_softmax(model(input_ids=ids).logits[0] / (temperature or row.temperature), -1)
    at = len(row.prompt) - 1 + torch.from_numpy(np.flatnonzero(row.mask))
    return log_p[at, ids[0, at + 1]], -(log_p[at].exp() * log_p[at]).sum(-1)


def in_order(batches, rows):
    """Return, for each row of the micro-batches, its index in `rows`."""
    order = []
    for batch in batches:
        for number in range(len(batch.trajectory_of_row)):
            mine = batch.behaviour[batch.row_of_token == number].numpy()
            (result,) = [k for k, row in enumerate(rows) if np.array_equal(row.behaviour[row.mask.astype(bool)], mine)]
            order.append(result)
    assert sorted(order) == list(range(len(rows)))
    return order


def told_apart(rows):
    """Return rows that `in_order` can identify: each has a sampled token and unique log-probs of the sampler."""
    made = []
    for number, row in enumerate(rows):
        mask = row.mask.copy()
        mask[0] = 1
        made.append(replace(row, mask=mask, behaviour=(row.behaviour - number).astype(np.float32)))
    return made


@pytest.mark.parametrize("kind", ["turns", "growing"])
@pytest.mark.parametrize(("max_tokens", "chunk"), [(10_000, None), (10_000, 3), (40, None), (1, 1)])
def test_log_probs_entropies_and_gradients_are_those_of_each_row_alone(policy, kind, max_tokens, chunk):
    rows = mixed(told_apart(random_rows(0, instructions=40) if kind == "turns" else growing_rows(0)))
    model, other = copy.deepcopy(policy).double(), copy.deepcopy(policy).double()
    batches = list(micro_batches(rows, max_tokens))
    order = iter(in_order(batches, rows))
    scorer = Scorer(model, chunk)
    for batch in batches:
        log_probs, entropies = scorer(batch)
        (0.3 * log_probs**2 - 0.7 * entropies).sum().backward()
        for number in range(len(batch.trajectory_of_row)):
            mine, row = batch.row_of_token == number, rows[next(order)]
            expected, expected_entropies = alone(other, row)
            (0.3 * expected**2 - 0.7 * expected_entropies).sum().backward()
            torch.testing.assert_close(log_probs[mine], expected, atol=1e-10, rtol=0)
            torch.testing.assert_close(entropies[mine], expected_entropies, atol=1e-10, rtol=0)
    largest = max(float(parameter.grad.abs().max()) for parameter in other.parameters())
    for one, two in zip(model.parameters(), other.parameters(), strict=True):  # the model's norms compute in float32
        torch.testing.assert_close(one.grad, two.grad, atol=1e-7 * largest, rtol=1e-5)


def test_equal_tokens_at_different_temperatures_are_not_shared():
    first, *_ = random_rows(3)
    twins = [replace(first, temperature=t, trajectory=n) for n, t in enumerate((0.5, 1.0, 0.5, 1.0, 1.0))]
    (batch,) = micro_batches(twins, 10_000)
    sampled = int(first.mask.sum())
    assert len(batch.targets) == 2 * sampled
    assert batch.temperature.tolist() == [0.5] * sampled + [1.0] * sampled
    assert batch.trajectory_of_row.tolist() == [0, 2, 1, 3, 4]
    places = batch.token_index.view(5, sampled).tolist()
    assert places[0] == places[1] != places[2] == places[3] == places[4]


def test_equal_temperatures_are_one_number_with_equal_results(policy):
    rows = [replace(row, temperature=0.6) for row in random_rows(4)]
    (batch,) = micro_batches(rows, 10_000)
    assert batch.temperature == 0.6
    plain, _ = Scorer(policy)(next(micro_batches(random_rows(4), 10_000)), 0.6)
    assert torch.equal(Scorer(policy)(batch)[0], plain)


@pytest.mark.parametrize("anchor", ["bypass", "decoupled"])
def test_an_update_with_mixed_temperatures_equals_a_float64_loop(policy, anchor):
    """The loss has PPO at token level, k3 to another policy and an entropy bonus, at the temperature of each row."""
    rows = mixed(random_rows(5))
    reference = copy.deepcopy(policy)
    with torch.no_grad():
        for parameter in reference.parameters():
            parameter.mul_(0.9)
    model, seen = copy.deepcopy(policy), {}
    options = {"kl_coefficient": 0.05, "entropy_coefficient": 0.01, "gradient_clip": 1e9, "temperature": 0.9}
    run = TrainerSettings(device="cpu", policy_anchor=anchor, correction="none", **options)
    learner = Learner(model, copy.deepcopy(reference), recipe("grpo"), run)
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.update({name: p.grad.clone() for name, p in model.named_parameters()})
    )
    loss = learner.update([rows], rate=1e-3)["loss"]

    exact, other = copy.deepcopy(policy).double(), reference.double()
    tokens, total = sum(int(row.mask.sum()) for row in rows), 0.0
    for row in rows:
        log_probs, entropies = alone(exact, row)
        old = torch.from_numpy(row.behaviour[row.mask.astype(bool)]).double()
        ratio = (log_probs - (log_probs.detach() if anchor == "decoupled" else old)).clamp(-20, 20).exp()
        ((_, advantage),) = row.turns
        policy_loss = torch.maximum(-advantage * ratio, -advantage * ratio.clamp(0.8, 1.2))
        d = alone(other, row)[0].detach() - log_probs
        total = total + (policy_loss + 0.05 * (d.exp() - d - 1).clamp(max=10) - 0.01 * entropies).sum() / tokens
    total.backward()
    assert loss == pytest.approx(float(total.detach()), rel=1e-4)
    largest = max(float(parameter.grad.abs().max()) for parameter in exact.parameters())
    for name, parameter in exact.named_parameters():
        torch.testing.assert_close(seen[name].double(), parameter.grad, atol=2e-5 * largest, rtol=1e-4)


# ---- from groups --------------------------------------------------------------------------------------------------


def sampled_at(policy, group, temperature):
    """Set the group's temperature, and the log-probs of its tokens to those of `policy`. Returns the group."""
    group.sampling = Sampling(temperature=temperature)
    exact = copy.deepcopy(policy).double()
    for trajectory in group.trajectories:
        for turn in trajectory.turns:
            (row,) = rows_of_turn(turn)
            turn.logprobs = pack_floats(alone(exact, row, temperature)[0].detach().numpy())
    return group


def rows_of_turn(turn):
    return [training_sample(turn.new_prompt(), [turn], [0.0])]


def test_groups_of_several_temperatures_show_no_mismatch(policy, make_group):
    groups = [sampled_at(policy, make_group(f"g{t}", [True, False], NOW), t) for t in (0.5, 1.0, 1.4)]
    scored = score(recipe("grpo"), groups, FRESH, invalid_penalty=0.1, max_response_tokens=8)
    rows = training_samples(scored, "now")
    assert {row.temperature for row in rows} == {0.5, 1.0, 1.4}
    learner = Learner(copy.deepcopy(policy), None, recipe("grpo"), TrainerSettings(device="cpu", temperature=1.0))
    result = learner.update([rows], rate=0.0)
    assert result["mismatch_k3"] < 1e-9
    assert result["mismatch_max"] < 1e-4
    assert result["ratio_mean"] == pytest.approx(1.0, abs=1e-5)
    wrong = learner.update([[replace(row, temperature=1.0) for row in rows]], rate=0.0)
    assert wrong["mismatch_k3"] > 0.01  # control: at a wrong temperature there is a mismatch


def test_turn_entropies_use_the_temperature_of_their_group(policy, make_group):
    groups = [sampled_at(policy, make_group(f"g{t}", [True, False], NOW), t) for t in (0.5, 1.0)]
    learner = Learner(copy.deepcopy(policy), None, recipe("empg"), TrainerSettings(device="cpu", temperature=1.0))
    exact = copy.deepcopy(policy).double()
    for group, entropies in zip(groups, turn_entropies(groups, learner.mean_entropies), strict=True):
        for trajectory, result in zip(group.trajectories, entropies, strict=True):
            expected = [
                alone(exact, *rows_of_turn(turn), group.sampling.temperature)[1].mean().item()
                for turn in trajectory.turns
            ]
            assert result == pytest.approx(expected, abs=1e-5)


def test_growing_rows_have_the_temperature_of_their_group(make_group):
    group = msgspec.structs.replace(make_group("g", [True, False], NOW), sampling=Sampling(temperature=0.8))
    for trajectory in group.trajectories:
        trajectory.turns[1].reset = False
    scored = score(recipe("grpo"), [group], FRESH, invalid_penalty=0.1, max_response_tokens=8, growing=True)
    rows = training_samples(scored, "now", growing=True)
    assert [len(row.turns) for row in rows] == [2, 2]
    assert {row.temperature for row in rows} == {0.8}
