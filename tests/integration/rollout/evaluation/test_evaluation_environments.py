"""A conversation with tools and a shop: the prompts are those of training, and replays repeat the states."""

import itertools
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.environments.environment_support import environment_server
from support.evaluation.evaluation_support import Evaluation, ScriptedModel, results_of, statuses
from support.rollout.rollout_support import RIGHT, Corridor, Walk, served

from arlarena.rollout.evaluation.models.protocol import ModelMessage
from arlarena.rollout.evaluation.play.attempt import MAX_DIVERGENCES
from arlarena.rollout.evaluation.play.budgets import BudgetLimits
from arlarena.rollout.evaluation.play.slots import PlayLimits
from arlarena.rollout.evaluation.strategies.debate import DebatePlayer
from arlarena.rollout.evaluation.strategies.react import ReactPlayer
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat

pytestmark = pytest.mark.processes


def compute(messages: Sequence[ModelMessage], seed: int) -> str:
    """A program at first, then an answer."""
    if len(messages) == 1:
        return f"<think>{seed}</think>```python\nprint({seed % 100})\n```"
    return f"\\boxed{{{seed % 100}}}"


async def test_a_conversation_keeps_all_turns_and_is_resumed_after_a_budget(tmp_path: Path) -> None:
    options = "[environment.options.sandbox]\nwall_s = 20\n"
    with environment_server(tmp_path, "tir_math", capacity=32, extra=options) as (url, _):
        model = ScriptedModel(compute)
        clean = await Evaluation(tmp_path / "clean", model).run({"tir_math": url}, 4)
        first = ScriptedModel(compute)
        cut = await Evaluation(tmp_path / "cut", first, budget=BudgetLimits(tokens=1)).run({"tir_math": url}, 4)
        second = ScriptedModel(compute)
        resumed = await Evaluation(tmp_path / "cut", second).run({"tir_math": url}, 4)
    assert statuses(clean) == {"ok": 4}
    assert all(record.steps == 2 for record in clean.results.values())
    for messages in model.asked:
        assert [message.role for message in messages] == ["user", "assistant", "user"][: len(messages)]
    (*_, answered) = [messages for messages in model.asked if len(messages) == 3]
    printed = re.search(r"print\((\d+)\)", answered[1].text)
    assert printed is not None
    assert printed[1] in answered[2].text, "the message after a program has its output"
    assert cut.remaining == 4
    assert len(first.seeds) + len(second.seeds) == len(model.seeds) == 8
    assert results_of(resumed) == results_of(clean)


def shop(messages: Sequence[ModelMessage], seed: int) -> str:
    """Searches, opens the first product and buys it."""
    text = messages[-1].text
    if "Buy Now" in text or "buy now" in text:
        return "<think>buy</think><action>click[buy now]</action>"
    product = re.search(r"\b(B0[0-9A-Z]{8})\b", text, re.I)
    if product:
        return f"<think>open</think><action>click[{product[1].lower()}]</action>"
    return "<think>look</think><action>search[shoes]</action>"


async def test_a_shop_with_plain_prompts_react_and_debate(tmp_path: Path) -> None:
    options = "[environment.options]\nproducts = 200\nevaluation_goals = 10\nmax_steps = 5\n"
    form = ReplyFormat("<action>{action}</action>", thought=True)
    with environment_server(tmp_path, "webshop", capacity=32, extra=options) as (url, _):
        plain = await Evaluation(tmp_path / "plain", ScriptedModel(shop)).run({"webshop": url}, 3)
        talk = ScriptedModel(lambda messages, seed: "Thought: look\nAction: search[shoes]")
        react = await Evaluation(tmp_path / "react", talk, ReactPlayer(form)).run({"webshop": url}, 3)
        many = ScriptedModel(shop)
        debate = await Evaluation(tmp_path / "debate", many, DebatePlayer(form, 3, 2)).run({"webshop": url}, 3)
    for outcome in (plain, react, debate):
        assert statuses(outcome) == {"ok": 3}
        assert all(turn.format_valid for record in outcome.results.values() for turn in record.turns)
    assert all(record.turns[0].action == "search[shoes]" for record in plain.results.values())
    assert all(record.steps == 5 and not record.terminated for record in react.results.values())
    assert len(many.seeds) == len(set(many.seeds)) == 6 * sum(record.steps for record in debate.results.values())
    assert max(len(messages) for messages in talk.asked) == 9, "ReAct sees five observations and four replies"


class Restless(Corridor):
    """An environment whose resets of a task never have equal states."""

    numbers = itertools.count()

    def reset(self, walk: Walk, item: dict[str, Any]) -> dict[str, Any]:
        return super().reset(walk, {**item, "index": next(self.numbers)})


def right(messages: Sequence[ModelMessage], seed: int) -> str:
    return RIGHT


async def test_a_resume_whose_states_differ_starts_afresh_and_records_it(tmp_path: Path) -> None:
    async with served(Restless().app()) as url:
        for resumes in range(3):
            model, evaluation = ScriptedModel(right), Evaluation(tmp_path, None)
            spent = sum((usage.input or 0) + (usage.output or 0) for usage in evaluation.history().usages)
            evaluation.model, evaluation.budget = model, BudgetLimits(tokens=spent + 1)
            outcome = await evaluation.run({"corridor": url}, 1)
            assert (len(model.seeds), outcome.remaining) == (1, 1)
            (history,) = evaluation.history().attempts.values()
            assert history.starts == resumes
        outcome = await Evaluation(tmp_path, ScriptedModel(right)).run({"corridor": url}, 1)
    (record,) = outcome.results.values()
    assert (record.status, record.success, record.divergences, record.requests) == ("ok", True, 1, 6)


async def test_an_environment_that_never_repeats_its_states_is_given_up(tmp_path: Path) -> None:
    corridor = Restless()
    corridor.on_step = corridor.sessions.clear
    async with served(corridor.app()) as url:
        limits = PlayLimits(1, 60, give_up_after_s=5, first_pause_s=0.01, longest_pause_s=0.02)
        outcome = await Evaluation(tmp_path, ScriptedModel(right), play=limits).run({"corridor": url}, 1)
    (record,) = outcome.results.values()
    assert (record.status, record.divergences) == ("infra_error", MAX_DIVERGENCES + 1)
    assert "does not repeat its states" in record.error
