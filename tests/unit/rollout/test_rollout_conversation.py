"""Episodes that are conversations: a prompt is the one before, what was sampled, and what the environment says next."""

import gc
from itertools import pairwise
from typing import Any

import pytest

from arlarena.client.policy import PolicyClient
from arlarena.client.transport import Timeouts
from arlarena.proto.trajectory import Sampling, Task, Trajectory
from arlarena.rollout.conversation import Conversations
from arlarena.rollout.episode import Assignment, Policy, play
from arlarena.rollout.policies import ChatPolicy, EnginePolicy, ExpertPolicy
from arlarena.rollout.runner import SessionSlot
from arlarena.rollout.tokens import Tokens

TASK = Task("corridor", "train", 7, seed=5)
RIGHT, STAY = "<think></think><action>right</action>", "hm"


@pytest.fixture
def talking(house: Any) -> Any:
    house.corridor.talks = True
    return house


def script(*replies: str) -> Any:
    """A `say` that gives one reply after another."""
    waiting = list(replies)
    return lambda prompt, seed: waiting.pop(0)


def engine(house: Any, tokens: Tokens, context: int | None = 512, max_tokens: int = 64) -> EnginePolicy:
    return EnginePolicy(house.inference, tokens, Sampling(max_tokens=max_tokens), context)


async def run(house: Any, policy: Policy, key: str = "g/0") -> Trajectory:
    (session,) = await house.environments.open(1)
    return (await play(session, Assignment("g-0", TASK, key), policy)).trajectory


def check_growth(one: Trajectory, tokens: Tokens, heard: list[str]) -> None:
    """Every prompt is the last, its response as it was sampled, and the template's glue with the next message."""
    prompts = [prompt.tolist() for prompt in one.prompts()]
    assert prompts[0] == list(tokens.prompt(heard[0]))
    assert len(one.turns) == len(heard)
    assert one.conversations() == [(0, len(heard))]
    for (before, after), turn, message in zip(pairwise(prompts), one.turns, heard[1:], strict=False):
        said = turn.tokens().tolist()
        assert after == [*before, *said, *tokens.following(message, said)]


async def test_prompts_grow_token_for_token(talking: Any, tokens: Tokens) -> None:
    talking.mouth.say = script(RIGHT, STAY, RIGHT, RIGHT)
    one = await run(talking, engine(talking, tokens))
    check_growth(one, tokens, ["walk to 3", "now at 1", "now at 1", "now at 2"])
    assert [request["token_ids"] for request in talking.mouth.requests] == [prompt.tolist() for prompt in one.prompts()]
    # The tiny template by hand: a reply that closed itself is followed by the user's mark at once.
    text = tokens._backend.decode(one.prompts()[2].tolist(), skip_special_tokens=False)
    said = f"<|assistant|>{RIGHT}<|end|><|user|>now at 1<|assistant|>{STAY}<|end|><|user|>now at 1<|assistant|>"
    assert text == "<|user|>walk to 3" + said


async def test_truncated_response_gets_end_of_turn_in_the_next_prompt(talking: Any, tokens: Tokens) -> None:
    one = await run(talking, engine(talking, tokens, max_tokens=2))
    assert {turn.finish_reason for turn in one.turns} == {"length"}
    check_growth(one, tokens, ["walk to 3", *["now at 0"] * 5])
    first, second = one.prompts()[:2]
    assert second.tolist()[len(first) + 2] == tokens.end_id


async def test_windowed_environment_starts_a_new_conversation_each_turn(house: Any, tokens: Tokens) -> None:
    one = await run(house, engine(house, tokens))
    assert [prompt.tolist() for prompt in one.prompts()] == [list(tokens.prompt(f"you are at {i}")) for i in range(3)]
    assert all(turn.reset for turn in one.turns)


async def test_context_bounds_prompt_plus_response(talking: Any, tokens: Tokens) -> None:
    free = await run(talking, engine(talking, tokens))
    talking.mouth.requests.clear()
    third = len(free.prompts()[2])
    # Room for two turns, for a bit of the third, and for nothing after it.
    talking.mouth.say = script(RIGHT, RIGHT, STAY * 9, RIGHT)
    one = await run(talking, engine(talking, tokens, context=third + 4))
    assert [request["sampling_params"]["max_tokens"] for request in talking.mouth.requests][:1] == [
        min(64, third + 4 - len(free.prompts()[0]))
    ]
    assert talking.mouth.requests[2]["sampling_params"]["max_tokens"] == 4
    assert len(one.turns) == 3
    assert one.turns[2].finish_reason == "length"
    assert (one.outcome, one.score, one.success, one.truncated) == ("policy_error", 0.0, False, True)
    assert one.metrics["fault:prompt_too_long"] == 1.0
    check_growth(one, tokens, ["walk to 3", "now at 1", "now at 2"])


async def test_restarted_episode_starts_a_new_conversation(talking: Any, tokens: Tokens) -> None:
    seen = 0

    def say(prompt: str, seed: int) -> str:
        nonlocal seen
        seen += 1
        if seen == 2:
            talking.mouth.faults = [500]  # for the request after this one
        return RIGHT

    talking.mouth.say, slot = say, SessionSlot()
    policy, assignment = engine(talking, tokens), Assignment("g-0", TASK, "g/0")
    for _ in range(2):  # the second on the same session
        one = (await talking.runner.episode(slot, assignment, policy)).trajectory
        assert one.success
        check_growth(one, tokens, ["walk to 3", "now at 1", "now at 2"])
    assert slot.restarts == 1


async def test_expert_conversation_contains_its_noise(talking: Any, tokens: Tokens) -> None:
    one = await run(talking, ExpertPolicy(tokens))
    check_growth(one, tokens, ["walk to 3", "now at 1", "now at 2"])
    slipped = [await run(talking, ExpertPolicy(tokens, expert_noise=0.4), f"key/{number}") for number in range(9)]
    for other in slipped:
        check_growth(other, tokens, ["walk to 3", *[f"now {turn.observation}" for turn in other.turns[1:]]])
    assert any(not any(turn.loss_mask) for other in slipped for turn in other.turns)


async def test_chat_model_gets_the_full_conversation(talking: Any, tokens: Tokens) -> None:
    replies = [RIGHT, "well, <think>no…", "  " + RIGHT + "\n", RIGHT]
    talking.mouth.say = script(*replies)
    async with PolicyClient(talking.inference.url, Timeouts(request_s=1.0), retries=0) as client:
        one = await run(talking, ChatPolicy(client, "big", tokens, Sampling()))
    heard = ["walk to 3", "now at 1", "now at 1", "now at 2"]
    messages = [{"role": "user", "content": heard[0]}]
    for request, reply, message in zip(talking.mouth.requests, replies, [*heard[1:], ""], strict=True):
        assert request["messages"] == messages
        messages += [{"role": "assistant", "content": reply}, {"role": "user", "content": message}]
    check_growth(one, tokens, heard)
    assert [turn.response for turn in one.turns] == replies


async def test_chat_model_in_a_windowed_environment_gets_one_message(house: Any, tokens: Tokens) -> None:
    async with PolicyClient(house.inference.url, Timeouts(request_s=1.0), retries=0) as client:
        await run(house, ChatPolicy(client, "big", tokens, Sampling()))
    sent = [request["messages"] for request in house.mouth.requests]
    assert sent == [[{"role": "user", "content": f"you are at {i}"}] for i in range(3)]


async def test_turns_without_action_are_recorded_and_counted(talking: Any, tokens: Tokens) -> None:
    talking.mouth.say = script(STAY, RIGHT, STAY, RIGHT, RIGHT)
    one = await run(talking, engine(talking, tokens))
    assert [turn.no_action for turn in one.turns] == [True, False, True, False, False]
    assert one.metrics["no_action_turns"] == 2


async def test_conversations_are_separate_and_freed_with_their_sessions(talking: Any, tokens: Tokens) -> None:
    conversations = Conversations(tokens)
    sessions = await talking.environments.open(2)
    states = [await session.reset(split="train", index=7) for session in sessions]
    for session, state, said in zip(sessions, states, ("a", "bb"), strict=True):
        conversations.for_turn(session, state, 0).add_response(tokens.reply(said), said)
    states = [await session.step(RIGHT) for session in sessions]
    found = [conversations.for_turn(session, state, 1) for session, state in zip(sessions, states, strict=True)]
    assert [one.messages[1]["content"] for one in found] == ["a", "bb"]
    assert conversations.for_turn(sessions[0], states[0], 0).messages == [{"role": "user", "content": "now at 1"}]
    assert len(conversations._by_session) == 2
    del sessions, session
    gc.collect()
    assert len(conversations._by_session) == 0
