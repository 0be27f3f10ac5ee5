"""If a turn of an episode has no action, the episode has no loss. The gradients equal those with a zero loss mask."""

import copy

import msgspec
import pytest
import torch

from arlarena.proto.trajectory import PolicyVersion, pack_floats
from arlarena.trainer.batching.scoring import score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.objectives import recipe
from arlarena.trainer.replay import replay
from arlarena.trainer.settings import TrainerSettings

NOW = PolicyVersion("run", 3, "now")
RUN = TrainerSettings(device="cpu", kl_coefficient=0.0, gradient_clip=1e9)


@pytest.fixture
def groups(make_group):
    """Return two groups with seven episodes of different lengths and texts.

    Two episodes have a turn without an action: the first episode of group a, and the last episode of group b.
    """
    made = [make_group("a", [True, False, True], NOW, turns=3), make_group("b", [False, True, False, False], NOW)]
    for group in made:
        for member, one in enumerate(group.trajectories):
            for place, turn in enumerate(one.turns):
                ids = turn.tokens().copy()
                ids[0] += 3 * member + place
                turn.response_ids = ids.astype("<i4").tobytes()
                turn.logprobs = pack_floats([-4.6 - 0.2 * k for k in range(len(ids))])  # typical of a random policy
    made[0].trajectories[0].turns[1].no_action = True
    made[1].trajectories[3].turns[0].no_action = True
    return made


def scored(method, groups, **how):
    return score(method, groups, StalenessPolicy(3, 0, {"now": 3}), invalid_penalty=0.1, max_response_tokens=8, **how)


def masked(groups):
    """Return the groups without `no_action` flags. The loss masks of the flagged episodes are 0 instead."""
    result = copy.deepcopy(groups)
    for group in result:
        for one in group.trajectories:
            if any(turn.no_action for turn in one.turns):
                for turn in one.turns:
                    turn.loss_mask, turn.no_action = bytes([0] * len(turn.loss_mask)), False
    return result


def gradients(policy, rows, method):
    """Return the gradients and the loss of one update."""
    model, seen = copy.deepcopy(policy), {}
    learner = Learner(model, None, method, RUN)
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.update({name: p.grad.clone() for name, p in model.named_parameters()})
    )
    return seen, learner.update([rows], rate=1e-3)["loss"]


def by_hand(policy, groups, aggregation, width):
    """Return the gradient and the value of PPO's loss with GRPO's advantages by episode, computed in float64.

    The loss includes all tokens of all episodes. The tokens of episodes with a turn without an action have mask 0.
    """
    model = copy.deepcopy(policy).double()
    rows = []
    for group in groups:
        returns = torch.tensor([one.total_reward for one in group.trajectories], dtype=torch.float64)
        advantages = (returns - returns.mean()) / (returns.std() + 1e-6)
        for one, advantage in zip(group.trajectories, advantages, strict=True):
            no_action = any(turn.no_action for turn in one.turns)
            for prompt, turn in zip(one.prompts(), one.turns, strict=True):
                ids = torch.tensor([[*prompt, *turn.tokens()]])
                log_p = torch.log_softmax(model(input_ids=ids).logits[0].double(), -1)
                at = torch.arange(len(prompt) - 1, ids.shape[1] - 1)
                ratio = (log_p[at, ids[0, at + 1]] - torch.tensor(turn.behaviour_logprobs())).exp()
                clipped = ratio.clamp(1 - width, 1 + width)
                loss = torch.maximum(-advantage * ratio, -advantage * clipped)
                rows.append((loss, torch.full_like(loss, 0.0 if no_action else 1.0)))
    if aggregation == "token_mean":
        total = sum((loss * mask).sum() for loss, mask in rows) / sum(mask.sum() for _, mask in rows)
    else:
        means = [(loss * mask).sum() / mask.sum() for loss, mask in rows if mask.sum() > 0]
        total = sum(means) / len(means)
    total.backward()
    return {name: p.grad for name, p in model.named_parameters()}, float(total.detach())


def assert_close(result, expected, factor=1.0):
    largest = max(float(grad.abs().max()) for grad in expected.values())
    assert largest > 1e-6
    for name, grad in expected.items():
        torch.testing.assert_close(result[name].double(), factor * grad.double(), atol=2e-5 * largest, rtol=1e-4)


@pytest.mark.parametrize("aggregation", ["token_mean", "seq_mean_token_mean"])
def test_a_dropped_episode_equals_a_zero_loss_mask(policy, groups, aggregation):
    method = recipe("grpo", aggregation=aggregation, stat_unit="trajectory", clip_low=0.2, clip_high=0.2)
    rows = training_samples(scored(method, groups), "now")
    assert {row.turns[0][1] > 0 for row in rows} == {True, False}
    result, loss = gradients(policy, rows, method)
    expected, total = by_hand(policy, groups, aggregation, 0.2)
    assert loss == pytest.approx(total, rel=1e-4)
    assert_close(result, expected)
    kept, _ = gradients(policy, training_samples(scored(method, groups, no_action_turns="keep"), "now"), method)
    assert any(not torch.allclose(kept[name], grad, rtol=1e-2) for name, grad in result.items())


@pytest.mark.parametrize(
    "name", ["grpo", "grpo_st", "grpo_sm", "gspo", "gspo_release", "cispo", "sapo", "gigpo", "sampo"]
)
def test_dropping_an_episode_equals_masking_if_empty_rows_do_not_count(policy, groups, name):
    method = recipe(name)
    result, _ = gradients(policy, training_samples(scored(method, groups), "now"), method)
    expected, _ = gradients(policy, training_samples(scored(method, masked(groups)), "now"), method)
    assert_close(result, expected)


@pytest.mark.parametrize("aggregation", ["seq_mean_token_sum", "seq_mean_token_sum_norm"])
def test_dropping_an_episode_equals_scaled_masking_if_empty_rows_count(policy, groups, aggregation):
    method = recipe("grpo", aggregation=aggregation)
    skipped, full = (training_samples(scored(method, each), "now") for each in (groups, masked(groups)))
    assert (len(skipped), len(full)) == (3 * 2 + 2 * 3, 3 * 3 + 2 * 4)
    result, _ = gradients(policy, skipped, method)
    expected, _ = gradients(policy, full, method)
    assert_close(result, expected, factor=len(full) / len(skipped))


def test_the_complete_group_is_scored_and_used_episodes_are_numbered_consecutively(groups):
    method = recipe("sampo")
    mask, keep = scored(method, groups), scored(method, groups, no_action_turns="keep")
    assert [each.advantages.total for each in mask] == [each.advantages.total for each in keep]
    assert [each.usable for each in mask] == [(False, True, True), (True, True, True, False)]
    assert [each.usable for each in keep] == [(True,) * 3, (True,) * 4]
    rows = training_samples(mask, "now")
    assert [row.trajectory for row in rows] == [0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4]
    used = [zip(each.advantages.total, each.usable, strict=True) for each in mask]
    assert [row.turns[0][1] for row in rows] == [value for each in used for one, use in each if use for value in one]


def test_without_no_action_turns_the_setting_has_no_effect(groups):
    plain = masked(groups)
    method = recipe("sampo")
    mask, keep = (training_samples(scored(method, plain, no_action_turns=how), "now") for how in ("mask", "keep"))
    assert [row.key for row in mask] == [row.key for row in keep]
    assert len(mask) == 17


def test_a_replay_masks_no_action_episodes(tiny_directory, groups):
    """The only successful episode has a turn without an action. The group is kept, but this episode is dropped."""
    group = groups[0]
    group.trajectories = tuple(
        msgspec.structs.replace(one, success=number == 0) for number, one in enumerate(group.trajectories)
    )
    figures = {
        how: replay(
            [group], str(tiny_directory), recipe("sampo"), RUN.model_copy(update={"no_action_turns": how})
        ).metrics
        for how in ("mask", "keep")
    }
    assert [figures[how]["groups_kept"] for how in figures] == [1, 1]
    assert [figures[how]["rows"] for how in figures] == [6, 9]
    assert [figures[how]["no_action_share"] for how in figures] == [pytest.approx(1 / 3)] * 2
    assert figures["mask"]["grad_norm"] != pytest.approx(figures["keep"]["grad_norm"], rel=1e-3)
