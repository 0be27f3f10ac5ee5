"""One episode: exact tokens, marks, keys of the state before the action, figures of behaviour, faults of the policy."""

from random import Random
from types import SimpleNamespace
from typing import Any

import pytest

from arlarena.client.errors import Refused, Unavailable
from arlarena.environment.replies import ACTION
from arlarena.proto.trajectory import PolicyVersion, Sampling, Task, Trajectory
from arlarena.rollout.episode import Assignment, Policy, play, turn_seed
from arlarena.rollout.policies import EnginePolicy, ExpertPolicy
from arlarena.rollout.tokens import Tokens

TASK = Task("corridor", "train", 7, seed=5)


def script(*replies: str) -> Any:
    """A `say` that gives one reply after another."""
    waiting = list(replies)
    return lambda prompt, seed: waiting.pop(0)


async def run(house: Any, policy: Policy, key: str = "g/0") -> Trajectory:
    (session,) = await house.environments.open(1)
    return (await play(session, Assignment("g-0", TASK, key), policy)).trajectory


def engine(house: Any, tokens: Tokens, context: int | None = 512, **sampling: Any) -> EnginePolicy:
    return EnginePolicy(house.inference, tokens, Sampling(**{"max_tokens": 64, **sampling}), context)


async def test_a_solved_episode_is_recorded_token_for_token(house: Any, tokens: Tokens) -> None:
    replies = [f"<think>{i}</think><action>right</action>" for i in range(3)]
    house.mouth.say = script(*replies)
    one = await run(house, engine(house, tokens))
    assert (one.success, one.score, one.terminated, one.truncated, one.outcome) == (True, 1.0, True, False, "ok")
    assert one.fault == ""
    assert one.total_reward == pytest.approx(0.7)
    assert len(one.turns) == 3
    for i, turn in enumerate(one.turns):
        assert list(turn.new_prompt()) == tokens.prompt(f"you are at {i}")
        assert list(turn.tokens()) == tokens.reply(replies[i])
        assert turn.behaviour_logprobs().tolist() == [-0.5] * len(turn.tokens())
        assert turn.mask().tolist() == [1] * len(turn.tokens())
        assert turn.state_key == f"train/7@{i}"
        assert turn.observation_key == f"o{i}"
        assert (turn.observation, turn.response, turn.action) == (f"at {i}", replies[i], "right")
        assert (turn.finish_reason, turn.format_valid, turn.action_valid) == ("stop", True, True)
        assert [(s.start, s.end, s.version) for s in turn.spans] == [
            (0, len(turn.tokens()), PolicyVersion("run", 3, "abc"))
        ]


async def test_request_to_inference(house: Any, tokens: Tokens) -> None:
    await run(house, engine(house, tokens, temperature=0.7))
    sent = house.mouth.requests
    assert [request["token_ids"] for request in sent] == [tokens.prompt(f"you are at {i}") for i in range(3)]
    seeds = [request["sampling_params"]["seed"] for request in sent]
    assert seeds == [turn_seed("g/0", turn) for turn in range(3)]
    assert len(set(seeds)) == 3
    assert all(0 <= seed < 2**63 for seed in seeds)
    first = sent[0]["sampling_params"]
    assert (first["temperature"], first.get("top_p", 1.0), first.get("top_k", 0)) == (0.7, 1.0, 0)
    assert (first["max_tokens"], first["logprobs"]) == (64, 0)


async def test_unparsable_reply_is_recorded_and_the_episode_continues(house: Any, tokens: Tokens) -> None:
    house.mouth.say = script("mumble", "", "<action>right</action>", *["<think></think><action>right</action>"] * 3)
    one = await run(house, engine(house, tokens))
    assert [turn.action_valid for turn in one.turns] == [False, False, True, True, True]
    assert [turn.format_valid for turn in one.turns] == [False, False, False, True, True]
    assert list(one.turns[1].tokens()) == [tokens.end_id]
    assert one.success
    assert one.metrics["idle_turns"] == 2
    assert one.metrics["invalid_actions"] == 2


async def test_a_response_cut_at_its_limit_is_marked(house: Any, tokens: Tokens) -> None:
    one = await run(house, engine(house, tokens, max_tokens=2))
    assert {turn.finish_reason for turn in one.turns} == {"length"}
    assert {len(turn.tokens()) for turn in one.turns} == {2}
    assert (one.truncated, one.terminated, one.success, one.score) == (True, False, False, 0.0)


async def test_figures_of_behaviour(house: Any, tokens: Tokens) -> None:
    moves = ["right", "left", "right", "left", "left", "jump"]
    house.mouth.say = script(*(f"<think></think><action>{move}</action>" for move in moves))
    one = await run(house, engine(house, tokens))
    # States 0 1 0 1 0 0 0: three returns to the state before the last; `left` at 0 bumps, `jump` does nothing.
    assert one.metrics["turns"] == 6
    assert one.metrics["back_and_forth"] == 3
    assert one.metrics["idle_turns"] == 2
    assert one.metrics["repeated_actions"] == 2
    assert one.metrics["invalid_actions"] == 1
    assert one.metrics["episode_prompt_tokens"] == sum(map(len, one.prompts()))
    assert one.metrics["episode_response_tokens"] == sum(len(turn.tokens()) for turn in one.turns)


async def test_the_context_bounds_the_response(house: Any, tokens: Tokens) -> None:
    prompt = len(tokens.prompt("you are at 0"))
    one = await run(house, engine(house, tokens, context=prompt + 3))
    assert house.mouth.requests[0]["sampling_params"]["max_tokens"] == 3
    assert one.turns[0].finish_reason == "length"


async def test_a_prompt_beyond_the_context_is_the_policys_fault(house: Any, tokens: Tokens) -> None:
    one = await run(house, engine(house, tokens, context=len(tokens.prompt("you are at 0"))))
    assert (one.outcome, one.score, one.success, one.truncated) == ("policy_error", 0.0, False, True)
    assert one.metrics["fault:prompt_too_long"] == 1.0
    n = len(tokens.prompt("you are at 0"))
    assert one.fault == f"a prompt of {n} tokens leaves no room for a response in a context of {n} tokens"
    assert house.mouth.requests == []


async def test_prompt_too_long_at_the_server_is_the_same_fault(house: Any, tokens: Tokens) -> None:
    house.mouth.faults = [400]
    house.mouth.complaint = "This model's maximum context length is 8 tokens"
    one = await run(house, engine(house, tokens))
    assert (one.outcome, one.turns) == ("policy_error", ())
    assert "maximum context length is 8 tokens" in one.fault


async def test_another_refusal_is_no_fault_of_the_policy(house: Any, tokens: Tokens) -> None:
    house.mouth.faults = [400]
    with pytest.raises(Refused, match="told to fail"):
        await run(house, engine(house, tokens))


async def test_step_error_blamed_on_the_policy_scores_zero(house: Any, tokens: Tokens) -> None:
    house.mouth.say = script("<think></think><action>right</action>", "<poison>")
    one = await run(house, engine(house, tokens))
    assert (one.outcome, one.score, one.truncated) == ("policy_error", 0.0, True)
    assert one.metrics["fault:poisoned"] == 1.0
    assert "poison" in one.fault
    assert one.turns[-1].response == "<poison>"
    assert not one.turns[-1].action_valid


async def test_a_failing_service_is_an_exception_and_no_reward(house: Any, tokens: Tokens) -> None:
    house.mouth.faults = [500]
    with pytest.raises(Unavailable, match="500"):
        await run(house, engine(house, tokens))
    house.corridor.faults = [200.0] * 9
    with pytest.raises(Unavailable, match="no answer within 1 s"):
        await run(house, engine(house, tokens))


async def test_a_step_that_the_server_fails_is_an_exception_and_no_reward(house: Any, tokens: Tokens) -> None:
    def say(prompt: str, seed: int) -> str:
        house.corridor.faults = [500] * 9
        return "<think></think><action>right</action>"

    house.mouth.say = say
    with pytest.raises(Unavailable, match="told to fail"):
        await run(house, engine(house, tokens))


@pytest.mark.parametrize("plan", [True, False])
async def test_the_expert_plays_with_the_policys_tokens(house: Any, tokens: Tokens, plan: bool) -> None:
    house.corridor.plan = plan
    one = await run(house, ExpertPolicy(tokens))
    assert one.success
    for turn in one.turns:
        assert list(turn.tokens()) == tokens.reply("<think></think><action>right</action>")
        assert turn.behaviour_logprobs().tolist() == [0.0] * len(turn.tokens())
        assert turn.mask().tolist() == [1] * len(turn.tokens())
        assert str(turn.spans[0].version) == "expert:0:-"


async def test_expert_noise_has_no_loss_and_later_turns_have(house: Any, tokens: Tokens) -> None:
    expert = ExpertPolicy(tokens, expert_noise=0.4, action=ACTION)
    played = [await run(house, expert, f"key/{number}") for number in range(20)]
    turns = [turn for one in played for turn in one.turns]
    slips = [turn for turn in turns if not any(turn.loss_mask)]
    assert 0.2 < len(slips) / len(turns) < 0.6
    right = tokens.reply("<think></think><action>right</action>")
    assert all(list(turn.tokens()) == right and all(turn.loss_mask) for turn in turns if turn not in slips)
    assert all(list(turn.tokens()) != right for turn in slips)
    again = await run(house, ExpertPolicy(tokens, expert_noise=0.4, action=ACTION), "key/3")
    assert [turn.response for turn in again.turns] == [turn.response for turn in played[3].turns]


async def test_trained_noise_is_admissible_and_keeps_the_thought(house: Any, tokens: Tokens) -> None:
    house.corridor.actions = ["left", "right"]
    played = [
        await run(house, ExpertPolicy(tokens, 0.4, train_on_noise=True, action=ACTION), f"key/{number}")
        for number in range(20)
    ]
    turns = [turn for one in played for turn in one.turns]
    assert all(all(turn.loss_mask) and turn.action_valid for turn in turns)
    left = sum(turn.response == "<think></think><action>left</action>" for turn in turns)
    assert 0.1 < left / len(turns) < 0.35  # half of the slips are what the expert would have done
    assert {turn.response for turn in turns} == {f"<think></think><action>{one}</action>" for one in ("left", "right")}


@pytest.mark.parametrize("opening", ["<think>", ""])
def test_noise_replaces_the_action_outside_the_thought(tokens: Tokens, opening: str) -> None:
    state: Any = SimpleNamespace(observation=SimpleNamespace(admissible_actions=["left"]))
    thought = f"{opening}not <action>up</action> again</think>"
    expert = ExpertPolicy(tokens, 1.0, train_on_noise=True, action=ACTION)
    slipped = expert._with_noise(f"{thought}<action>right</action>", state, Random(0))
    assert slipped == f"{thought}<action>left</action>"
