"""Complete evaluations on real environment servers, with failing models, servers and budgets."""

import asyncio
import hashlib
import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.environments.environment_support import environment_server
from support.evaluation.evaluation_support import (
    MOVES,
    Evaluation,
    ScriptedModel,
    middle,
    move,
    results_of,
    statuses,
)

from arlarena.rollout.episode import turn_seed
from arlarena.rollout.evaluate import eval_assignments
from arlarena.rollout.evaluation.directory import JOURNAL, read_journal
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.errors import Denied, Rejected, Retryable, TooLong
from arlarena.rollout.evaluation.play.budgets import BudgetLimits
from arlarena.rollout.evaluation.play.slots import PlayLimits
from arlarena.rollout.evaluation.records import ReplyEvent, RequestEvent
from arlarena.rollout.evaluation.strategies.expert import ExpertPlayer
from arlarena.rollout.evaluation.strategies.random_player import RandomPlayer
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat
from arlarena.rollout.settings import EvaluationSettings

pytestmark = pytest.mark.processes


@pytest.fixture(scope="module")
def sokoban(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("sokoban")
    with environment_server(folder, capacity=64, extra="[environment.options]\nmax_moves = 8\n") as (url, _):
        yield url


@pytest.fixture(scope="module")
def guess(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with environment_server(tmp_path_factory.mktemp("guess"), "guess", capacity=64) as (url, _):
        yield url


async def test_two_environments_complete_and_the_seeds_are_those_of_training(
    sokoban: str, guess: str, tmp_path: Path
) -> None:
    model = ScriptedModel(
        lambda messages, seed: (middle if "The number" in messages[-1].text else move)(messages, seed)
    )
    evaluation = Evaluation(tmp_path, model)
    outcome = await evaluation.run({"sokoban": sokoban, "guess": guess}, 6, attempts=2)
    assert (statuses(outcome), outcome.remaining, outcome.stopped) == ({"ok": 24}, 0, "")
    guesses = [record for key, record in outcome.results.items() if key.environment == "guess"]
    assert all(record.success and record.score == 1.0 and 1 <= record.steps <= 7 for record in guesses)
    assert all(record.metrics["turns"] == record.steps == len(record.turns) for record in outcome.results.values())
    settings = EvaluationSettings(count=6, attempts=2)
    expected = {
        turn_seed(assignment.seed_key, turn)
        for name in ("sokoban", "guess")
        for assignment in eval_assignments(settings, name)
        for key, record in outcome.results.items()
        if (key.environment, f"{key.split}-{key.index}-{key.attempt}") == (name, assignment.id)
        for turn in range(record.steps)
    }
    assert set(model.seeds) == expected
    assert len(model.seeds) == len(expected) == sum(record.steps for record in outcome.results.values())
    assert model.most <= evaluation.requests.concurrency
    assert outcome.possibly_charged == 0


async def test_a_second_run_plays_nothing_again(guess: str, tmp_path: Path) -> None:
    first = await Evaluation(tmp_path, ScriptedModel(middle)).run({"guess": guess}, 5)
    model = ScriptedModel(middle)
    again = await Evaluation(tmp_path, model).run({"guess": guess}, 5)
    assert (again.results, model.seeds) == (first.results, [])


async def test_a_changed_plan_is_another_evaluation(guess: str, tmp_path: Path) -> None:
    await Evaluation(tmp_path, ScriptedModel(middle)).run({"guess": guess}, 2)
    with pytest.raises(EvaluationError, match=r"guess\.indices"):
        await Evaluation(tmp_path, ScriptedModel(middle)).run({"guess": guess}, 3)


async def test_a_fifth_of_the_requests_fail_and_the_results_are_those_of_the_clean_run(
    sokoban: str, tmp_path: Path
) -> None:
    clean = await Evaluation(tmp_path / "clean", ScriptedModel(move)).run({"sokoban": sokoban}, 16)
    chance, raised = random.Random(1), [0, 0]

    def fault() -> None:
        if chance.random() < 0.2:
            charged = chance.random() < 0.5
            raised[charged] += 1
            raise Retryable("told to fail", possibly_charged=charged, retry_after_s=chance.choice((None, 0.01)))

    model = ScriptedModel(move, fault=fault)
    evaluation = Evaluation(tmp_path / "faults", model)
    outcome = await evaluation.run({"sokoban": sokoban}, 16)
    assert results_of(outcome) == results_of(clean)
    assert min(raised) > 5
    assert outcome.possibly_charged == evaluation.history().possibly_charged == raised[True]
    assert sum(record.requests for record in outcome.results.values()) == len(model.seeds) + sum(raised)


@pytest.mark.parametrize(
    ("error", "status", "remaining"),
    [(TooLong("9 tokens too many"), "policy_error", 0), (Rejected("no such parameter"), "model_error", 1)],
)
async def test_an_error_of_one_attempt_does_not_end_the_others(
    guess: str, tmp_path: Path, error: Exception, status: str, remaining: int
) -> None:
    def say(messages: object, seed: int) -> str:
        if seed == turn_seed(eval_assignments(EvaluationSettings(count=4), "guess")[2].seed_key, 1):
            raise error
        return middle(messages, seed)  # type: ignore[arg-type]

    outcome = await Evaluation(tmp_path, ScriptedModel(say)).run({"guess": guess}, 4)
    (failed,) = [record for record in outcome.results.values() if record.status != "ok"]
    assert (failed.key.index, failed.status, failed.success, failed.steps) == (2, status, False, 1)
    assert str(error) in failed.error
    assert (outcome.remaining, len(outcome.results)) == (remaining, 4)
    model = ScriptedModel(middle)
    healed = await Evaluation(tmp_path, model).run({"guess": guess}, 4)
    assert healed.remaining == 0
    record = healed.results[failed.key]
    assert (record.status == "ok") == bool(remaining)
    assert len(model.seeds) == (record.steps - 1 if remaining else 0), "the reply of turn 0 is not requested again"


async def test_a_denied_key_ends_the_evaluation_and_a_resume_completes_it(guess: str, tmp_path: Path) -> None:
    calls = 0

    def fault() -> None:
        nonlocal calls
        calls += 1
        if calls > 10:
            raise Denied("no credit")

    broke = ScriptedModel(middle, fault=fault, delay_s=0.005)
    with pytest.raises(EvaluationError, match="no credit"):
        await Evaluation(tmp_path, broke).run({"guess": guess}, 10)
    assert calls <= 10 + Evaluation(tmp_path, broke).requests.concurrency
    rich = ScriptedModel(middle)
    outcome = await Evaluation(tmp_path, rich).run({"guess": guess}, 10)
    assert statuses(outcome) == {"ok": 10}
    assert not set(rich.seeds) & set(broke.seeds)


async def test_budgets_end_cleanly_and_a_larger_budget_resumes(sokoban: str, tmp_path: Path) -> None:
    clean = await Evaluation(tmp_path / "clean", ScriptedModel(move)).run({"sokoban": sokoban}, 8)
    total = sum((record.usage.output or 0) for record in clean.results.values())
    seeds: list[int] = []
    for budget in (
        BudgetLimits(money=total / 3000),
        BudgetLimits(tokens=1),
        BudgetLimits(seconds=1e-9),
        BudgetLimits(),
    ):
        model = ScriptedModel(move)
        evaluation = Evaluation(tmp_path / "budget", model, budget=budget)
        outcome = await evaluation.run({"sokoban": sokoban}, 8)
        seeds += model.seeds
        if budget.money is not None:
            assert "the money budget of" in outcome.stopped
            spent = sum(event.usage.output or 0 for event in replies(tmp_path / "budget"))
            largest = max(event.usage.output or 0 for event in replies(tmp_path / "budget"))
            assert total / 3 <= spent <= total / 3 + evaluation.requests.concurrency * largest
        elif budget != BudgetLimits():
            assert "budget of" in outcome.stopped
            assert model.seeds == []
    assert outcome.stopped == ""
    assert results_of(outcome) == results_of(clean)
    assert len(seeds) == len(set(seeds)) == sum(record.steps for record in clean.results.values())


def replies(directory: Path) -> list[ReplyEvent]:
    return [event for event in read_journal(directory / JOURNAL) if isinstance(event, ReplyEvent)]


async def test_the_server_is_killed_and_started_again(tmp_path: Path) -> None:
    options = "[environment.options]\nmax_moves = 8\n"
    with environment_server(tmp_path, capacity=64, extra=options) as (url, process):
        clean = await Evaluation(tmp_path / "clean", ScriptedModel(move)).run({"sokoban": url}, 24)
        port = url.rpartition(":")[2]
        model = ScriptedModel(move, delay_s=0.02)
        evaluation = Evaluation(tmp_path / "killed", model)
        playing = asyncio.ensure_future(evaluation.run({"sokoban": url}, 24))
        while len(model.seeds) < 100:
            await asyncio.sleep(0.005)
        process.kill()
        process.wait(10)
        assert not playing.done()
        with environment_server(tmp_path, capacity=64, extra=options, arguments=("--port", port)):
            outcome = await playing
    assert statuses(outcome) == {"ok": 24}
    assert results_of(outcome) == results_of(clean)
    assert sum(record.restarts for record in outcome.results.values()) >= 8
    assert len(model.seeds) == len(set(model.seeds)), "no reply is requested twice"


async def test_an_environment_that_is_gone_gives_infra_errors_that_a_resume_plays(guess: str, tmp_path: Path) -> None:
    evaluation = Evaluation(tmp_path, ScriptedModel(middle), play=PlayLimits(4, 60, 0.3, 0.02, 0.1))
    with environment_server(tmp_path, "guess") as (url, process):
        evaluation.model = ScriptedModel(middle, delay_s=0.01)
        playing = asyncio.ensure_future(evaluation.run({"guess": url}, 12))
        while len(evaluation.model.seeds) < 6:
            await asyncio.sleep(0.002)
        process.kill()
        outcome = await playing
    failed = [record for record in outcome.results.values() if record.status == "infra_error"]
    assert len(outcome.results) == 12
    assert len(failed) == outcome.remaining >= 8
    assert not any(record.scored for record in failed)
    assert "127.0.0.1" in failed[0].error
    resumed = Evaluation(tmp_path, ScriptedModel(middle))
    healed = await resumed.run({"guess": guess}, 12)
    assert (statuses(healed), healed.remaining) == ({"ok": 12}, 0)
    assert not set(evaluation.model.seeds) & set(resumed.model.seeds)  # type: ignore[union-attr]


async def test_a_full_server_is_waited_for(tmp_path: Path) -> None:
    with environment_server(tmp_path, "guess", capacity=2) as (url, _):
        outcome = await Evaluation(tmp_path / "out", ScriptedModel(middle)).run({"guess": url}, 12)
    assert statuses(outcome) == {"ok": 12}


async def test_a_model_that_sees_gets_images_and_they_are_kept_by_hash(tmp_path: Path) -> None:
    options = '[environment.options]\nmax_moves = 4\nobservation = "image"\n'
    with environment_server(tmp_path, capacity=16, extra=options) as (url, _):
        model = ScriptedModel(move, sees_images=True)
        outcome = await Evaluation(tmp_path / "out", model).run({"sokoban": url}, 2, images=True)
    assert statuses(outcome) == {"ok": 2}
    assert all(len(messages[-1].images) == 1 for messages in model.asked)
    for record in outcome.results.values():
        for turn in record.turns:
            (name,) = turn.images
            data = (tmp_path / "out" / "images" / name).read_bytes()
            assert hashlib.sha256(data).hexdigest() == name.removesuffix(".png")
            assert data in {messages[-1].images[0].data for messages in model.asked}


async def test_the_expert_solves_and_the_random_player_repeats_itself(tmp_path: Path) -> None:
    options = "[environment.options]\nmax_moves = 40\n"
    with environment_server(tmp_path, capacity=32, extra=options) as (url, _):
        expert = await Evaluation(tmp_path / "expert", None, ExpertPlayer()).run({"sokoban": url}, 6, split="train")
        assert all(record.success for record in expert.results.values())
        with pytest.raises(EvaluationError, match="expert_splits"):
            await Evaluation(tmp_path / "no", None, ExpertPlayer()).run({"sokoban": url}, 2)
        player = RandomPlayer(ReplyFormat("<action>{action}</action>", thought=True))
        once = await Evaluation(tmp_path / "once", None, player).run({"sokoban": url}, 6)
        again = await Evaluation(tmp_path / "again", None, player).run({"sokoban": url}, 6)
    assert results_of(once) == results_of(again)
    actions = {turn.action for record in once.results.values() for turn in record.turns}
    assert actions == {*MOVES, "still"}
    assert all(turn.action_valid and turn.format_valid for record in once.results.values() for turn in record.turns)


async def test_a_random_player_needs_a_list_of_actions(guess: str, tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match="lists no admissible actions"):
        await Evaluation(tmp_path, None, RandomPlayer(ReplyFormat())).run({"guess": guess}, 1)


async def test_replies_that_no_environment_expects_are_recorded_as_the_models(guess: str, tmp_path: Path) -> None:
    texts = iter(["", "\ud800", "x" * 100_000, "y" * 300_000])
    model = ScriptedModel(lambda messages, seed: next(texts, "<action>50</action>"))
    evaluation = Evaluation(tmp_path, model, play=PlayLimits(1, 60, 30, 0.01, 0.05))
    (record,) = (await evaluation.run({"guess": guess}, 1)).results.values()
    assert (record.status, record.success, record.steps) == ("policy_error", False, 4)
    assert record.metrics["fault:reply_refused"] == 1
    assert [turn.response[:1] for turn in record.turns] == ["", "?", "x", "y"]
    assert len(model.seeds) == 4


async def test_the_journal_says_what_was_asked_before_each_reply(guess: str, tmp_path: Path) -> None:
    outcome = await Evaluation(tmp_path, ScriptedModel(middle)).run({"guess": guess}, 3)
    asked: dict[object, RequestEvent] = {}
    for event in read_journal(tmp_path / JOURNAL):
        if isinstance(event, RequestEvent):
            asked[event.key, event.call] = event
        elif isinstance(event, ReplyEvent):
            request = asked.pop((event.key, event.call))
            turn = outcome.results[event.key].turns[request.turn]
            assert (turn.response, turn.state_key) == (event.text, request.state_key)
    assert asked == {}
