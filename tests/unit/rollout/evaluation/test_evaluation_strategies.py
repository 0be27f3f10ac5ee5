"""Strategies: what they ask, and what they play."""

import asyncio
import io
import os
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from arlarena.client.environments import StepOutcome
from arlarena.proto.env_api import Metadata, Observation, Parser
from arlarena.rollout.evaluation.errors import BudgetSpent, EvaluationStopped
from arlarena.rollout.evaluation.models.protocol import ModelMessage, Reply
from arlarena.rollout.evaluation.strategies.debate import DebatePlayer
from arlarena.rollout.evaluation.strategies.person import LineReader, PersonPlayer
from arlarena.rollout.evaluation.strategies.protocol import TurnView
from arlarena.rollout.evaluation.strategies.random_player import RandomPlayer
from arlarena.rollout.evaluation.strategies.react import ReactPlayer
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat

TAGGED = ReplyFormat("<action>{action}</action>", thought=True)
FREE = ReplyFormat()


class Asked:
    """A caller that records the messages and purposes of its requests."""

    def __init__(self, say: Callable[[str, int], str]) -> None:
        self.say, self.calls, self.purposes = say, [], []  # type: ignore[var-annotated]

    async def __call__(self, messages: Sequence[ModelMessage], *, purpose: str = "answer") -> Reply:
        self.calls.append(list(messages))
        self.purposes.append(purpose)
        return Reply(self.say(purpose, len(self.calls)))


def view(
    call: Any, turn: int = 0, *, prompt: str = "go", message: str | None = None, actions: list[str] | None = None,
    memory: dict[str, Any] | None = None, seed_key: str = "k", conversation: Sequence[ModelMessage] = (),
) -> TurnView:  # fmt: skip
    observation = Observation(f"room {turn}", prompt, turn, 9 - turn, actions, message=message)
    state = StepOutcome(observation, Metadata("task", "s", "o"), 0.0)
    messages = [*conversation, ModelMessage("user", message or prompt)]
    return TurnView(turn, None, state, messages, call, seed_key, {} if memory is None else memory)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("<think>up?</think><action> Go  LEFT </action>", "go left"),
        ("<action>a</action><think>b</think><action>c</action>", "c"),
        ("plain text", "plain text"),
        ("<think>never closed <action>up</action>", ""),
        ("<action>cut off", "cut off"),
    ],
)
def test_the_action_in_a_reply(reply: str, action: str) -> None:
    assert TAGGED.action_of(reply) == action


def test_a_format_is_that_of_the_environments_parser() -> None:
    assert ReplyFormat.of(Parser("2", "", tags=["<think>", "</think>"], action="[{action}]")) == ReplyFormat(
        "[{action}]", True
    )
    assert ReplyFormat("[{action}]").write("up", "why") == "[up]"
    assert TAGGED.write("up", "why") == "<think>why</think><action>up</action>"
    assert FREE.write("x = 1") == "x = 1"


async def test_react_keeps_all_thoughts_actions_and_observations() -> None:
    asked = Asked(
        lambda purpose, number: f"Thought: {number} is best\nAction: <action>move {number}</action>\nObservation: I win"
    )
    memory: dict[str, Any] = {}
    player = ReactPlayer(TAGGED)
    played = [await player.respond(view(asked, turn, memory=memory, actions=["move 1"])) for turn in range(3)]
    assert played[2] == "<think>3 is best</think><action>move 3</action>"
    roles = [message.role for message in asked.calls[2]]
    assert roles == ["user", "assistant", "user", "assistant", "user"]
    texts = [message.text for message in asked.calls[2]]
    assert texts[0].endswith("\ngo")
    assert "Thought:" in texts[0]
    assert "Observation: room 1\nAdmissible actions: move 1" in texts[2]
    assert texts[1].startswith("Thought: 1 is best")
    assert "I win" not in texts[1], "an observation that the model invented is not kept"


@pytest.mark.parametrize(
    ("written", "played"),
    [
        ("Thought: a\nb\nAction: up\nmore", "<think>a\nb</think><action>up</action>"),
        ("hm.\nAction 2: up", "<think>hm.</think><action>up</action>"),
        ("<think>x</think><action>up</action>", "<think>x</think><action>up</action>"),
        ("", ""),
    ],
)
async def test_react_reads_what_models_write(written: str, played: str) -> None:
    assert await ReactPlayer(TAGGED).respond(view(Asked(lambda *_: written))) == played


async def test_react_in_a_conversation_plays_replies_of_several_lines() -> None:
    asked = Asked(lambda *_: "Thought: compute\nAction: ```python\nprint(1)\n```")
    memory: dict[str, Any] = {}
    assert await ReactPlayer(FREE).respond(view(asked, message="2+2?", memory=memory)) == "```python\nprint(1)\n```"
    await ReactPlayer(FREE).respond(view(asked, 1, message="output: 1", memory=memory))
    assert asked.calls[1][-1].text == "Observation: output: 1"


@pytest.mark.parametrize("text", ["\n" * 100_000, " " * 100_000, "Thought:" + " \n" * 50_000, "Action" * 20_000])
async def test_react_reads_long_replies_in_linear_time(text: str) -> None:
    began = time.process_time()
    await ReactPlayer(TAGGED).respond(view(Asked(lambda *_: text)))
    assert time.process_time() - began < 1.0


async def test_debaters_see_the_others_answers_and_the_majority_wins() -> None:
    def say(purpose: str, number: int) -> str:
        agent, number = int(purpose.split()[1]), int(purpose.split()[3])
        action = "left" if number == 1 and agent == 1 else "UP" if agent == 2 else "up"
        return f"<think>{agent}.{number}</think><action>{action}</action>"

    asked = Asked(say)
    played = await DebatePlayer(TAGGED, agents=3, rounds=2).respond(view(asked))
    assert played == "<think>1.2</think><action>up</action>"
    assert Counter(asked.purposes) == {f"debater {agent} round {number}": 1 for agent in (1, 2, 3) for number in (1, 2)}
    second = asked.calls[asked.purposes.index("debater 2 round 2")]
    assert [message.role for message in second] == ["user", "assistant", "user"]
    assert second[1].text == "<think>2.1</think><action>UP</action>"
    assert all(text in second[2].text for text in ("1.1", "3.1"))
    assert "2.1" not in second[2].text


async def test_a_judge_decides() -> None:
    asked = Asked(lambda purpose, number: "verdict" if purpose == "judge" else f"answer {number} {{x}}")
    talk = (ModelMessage("user", "problem"), ModelMessage("assistant", "one"))
    assert (
        await DebatePlayer(FREE, 2, 1, judge=True).respond(view(asked, 1, message="two", conversation=talk))
        == "verdict"
    )
    question = asked.calls[-1]
    assert [message.role for message in question] == ["user", "assistant", "user"]
    assert all(text in question[-1].text for text in ("two", "answer 1 {x}", "answer 2 {x}"))


async def test_a_debate_waits_for_replies_in_flight_when_a_call_fails() -> None:
    arrived = []

    def say(purpose: str, number: int) -> str:
        if purpose.startswith("debater 1"):
            raise BudgetSpent("no more")
        arrived.append(purpose)
        return "x"

    with pytest.raises(BudgetSpent):
        await DebatePlayer(FREE, 3, 2).respond(view(Asked(say)))
    assert arrived == ["debater 2 round 1", "debater 3 round 1"]


@pytest.mark.parametrize(("agents", "rounds"), [(1, 2), (3, 0)])
def test_a_debate_needs_agents_and_rounds(agents: int, rounds: int) -> None:
    with pytest.raises(ValueError, match="at least 2 agents and 1 round"):
        DebatePlayer(FREE, agents, rounds)


async def test_the_random_player_is_uniform_and_repeats_itself() -> None:
    actions, player = ["a", "b", "c", "d"], RandomPlayer(TAGGED)
    played = [
        await player.respond(view(None, turn % 50, actions=actions, seed_key=f"k{turn // 50}")) for turn in range(4000)
    ]
    again = [
        await player.respond(view(None, turn % 50, actions=actions, seed_key=f"k{turn // 50}")) for turn in range(4000)
    ]
    assert played == again
    counts = Counter(TAGGED.action_of(text) for text in played)
    # Chi-squared with 3 degrees of freedom exceeds 16.3 with a probability of 0.1 %.
    assert sum((counts[action] - 1000) ** 2 / 1000 for action in actions) < 16.3


def typed(text: str) -> LineReader:
    """The input of a person who ended it."""
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    return LineReader(reading)


async def test_lines_are_read_from_a_pipe_and_from_a_file(tmp_path: Path) -> None:
    text = "größer\n\n" + "x" * 10_000 + "\nlast"
    (tmp_path / "input").write_text(text)
    for reader in (typed(text), LineReader(os.open(tmp_path / "input", os.O_RDONLY))):
        assert [await reader.line() for _ in range(5)] == [*text.splitlines(keepends=True), ""]


async def test_the_wait_for_a_line_can_be_cancelled_and_loses_nothing() -> None:
    reading, writing = os.pipe()
    reader = LineReader(reading)
    os.write(writing, b"half a ")
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(reader.line(), 0.05)
    os.write(writing, b"line\n")
    assert await reader.line() == "half a line\n"


async def test_a_person_types_an_action_or_a_reply() -> None:
    out = io.StringIO()
    person = PersonPlayer(TAGGED, typed("up\n<think>x</think><action>left</action>\n"), out)
    assert await person.respond(view(None, actions=["up", "left"])) == "<think></think><action>up</action>"
    assert await person.respond(view(None)) == "<think>x</think><action>left</action>"
    assert "go\nAdmissible actions: up, left\nYour action" in out.getvalue()
    with pytest.raises(EvaluationStopped):
        await person.respond(view(None))
    free = PersonPlayer(FREE, typed("\nprint(1)\nprint(2)\n\nlast"), out)
    assert await free.respond(view(None)) == "print(1)\nprint(2)"
    assert await free.respond(view(None)) == "last"
