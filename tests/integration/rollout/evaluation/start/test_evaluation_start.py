"""What an evaluation asks of the servers that it starts, and what a dry run estimates."""

import re
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from support.environments.environment_support import environment_server
from support.evaluation.evaluation_support import Evaluation, ScriptedModel, middle

from arlarena.proto.env_api import Capacity
from arlarena.proto.shared_settings import EVERY_SPLIT
from arlarena.rollout.evaluation.models.protocol import SamplingRequest
from arlarena.rollout.evaluation.records import EvaluationPlan
from arlarena.rollout.evaluation.report.prices import read_prices
from arlarena.rollout.evaluation.served import CONCURRENCY
from arlarena.rollout.evaluation.sets.standard import find_set
from arlarena.rollout.evaluation.start.dry_run import MeasuredPrompt, bound, describe_requests
from arlarena.rollout.evaluation.start.environments import EnvironmentChoice, OpenedEnvironment, choices_of, opened
from arlarena.rollout.evaluation.start.local_service import LocalServices
from arlarena.rollout.evaluation.start.options import EvaluateOptions
from arlarena.rollout.evaluation.start.planning import plan_of
from arlarena.rollout.evaluation.start.tasks import TaskChoice
from arlarena.rollout.settings import RolloutSettings

pytestmark = pytest.mark.processes
SETTINGS = RolloutSettings()


@pytest.fixture(scope="module")
def guess(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with environment_server(tmp_path_factory.mktemp("guess"), "guess", capacity=8) as (url, _):
        yield url


class RecordedServices(LocalServices):
    """Starts nothing. `table`: the configuration of the environment that a server would get."""

    def __init__(self, directory: Path, url: str) -> None:
        super().__init__(directory)
        self.url, self.table = url, dict[str, Any]()

    async def start(
        self, module: str, arguments: Sequence[str], name: str, title: str, *, with_token: bool = False
    ) -> str:
        assert (module, arguments[0], with_token) == ("arlarena.env_server", "--config", False)
        self.table = tomllib.loads(Path(arguments[1]).read_text())["environment"]
        return self.url


async def table_of(guess: str, folder: Path, set_name: str | None, sessions: int, expert: bool = False) -> Any:
    services = RecordedServices(folder, guess)
    choices = choices_of([] if set_name else ["guess"], [], set_name)
    async with opened(choices, services, SETTINGS, sessions=sessions, expert=expert):
        return services.table


@pytest.mark.parametrize("set_name", [None, "guess-v1"])
@pytest.mark.parametrize("sessions", [2, 500])
async def test_a_started_server_has_room_for_the_sessions_and_for_the_check_of_a_set(
    guess: str, tmp_path: Path, set_name: str | None, sessions: int
) -> None:
    table = await table_of(guess, tmp_path, set_name, sessions)
    assert table["name"] == "guess"
    # Some more than both, because a session that is replaced after a failure stays open until its idle time.
    assert max(CONCURRENCY, sessions) + 16 <= table["capacity"] <= max(CONCURRENCY, sessions) + 64


@pytest.mark.parametrize("expert", [True, False])
async def test_only_for_the_expert_a_started_server_gives_replies_on_evaluation_splits(
    guess: str, tmp_path: Path, expert: bool
) -> None:
    table = await table_of(guess, tmp_path, None, 4, expert)
    assert table["expert_splits"] == ([EVERY_SPLIT] if expert else [])


async def test_a_set_is_checked_on_a_server_that_is_started_for_one_session(tmp_path: Path) -> None:
    standard = find_set("guess-v1")
    options = EvaluateOptions("expert", tmp_path, set_name="guess-v1")
    async with (
        LocalServices(tmp_path / "services") as services,
        opened(choices_of([], [], "guess-v1"), services, SETTINGS, sessions=1) as found,
    ):
        plan = await plan_of(options, "expert", found, SETTINGS)
        capacity = (await found[0].client.transport.request("GET", "/v1/capacity")).body
    assert plan.environments[0].indices == standard.indices
    assert plan.environments[0].set == "guess-v1"
    assert msgspec.json.decode(capacity, type=Capacity).max_sessions > CONCURRENCY


def options_of(folder: Path, **changes: Any) -> EvaluateOptions:
    values: dict[str, Any] = {"tasks": TaskChoice(count=5), "attempts": 3}
    return EvaluateOptions("openai/gpt-5-mini", folder, **(values | changes))


async def planned(guess: str, options: EvaluateOptions) -> tuple[EvaluationPlan, str]:
    """The plan, and what a dry run prints."""
    async with opened(
        [EnvironmentChoice(guess, guess, {})], LocalServices(options.directory), SETTINGS, sessions=1
    ) as found:
        plan = await plan_of(options, options.model, found, SETTINGS)
        return plan, await describe_requests(options, plan, found, read_prices().price(options.model))


def figures(text: str) -> tuple[int, int, int, float]:
    """Requests, tokens in, tokens out, and dollars."""
    found = re.search(
        r"at most ([\d,]+) requests, about ([\d,]+) tokens in, ([\d,]+) out\ncost of at most \$([\d.]+)", text
    )
    assert found is not None, text
    requests, read, written = (int(number.replace(",", "")) for number in found.groups()[:3])
    return requests, read, written, float(found[4])


async def test_the_estimate_of_a_dry_run_is_a_bound_for_what_is_played(guess: str, tmp_path: Path) -> None:
    options = options_of(tmp_path, sampling=SamplingRequest(max_tokens=40))
    _, text = await planned(guess, options)
    requests, read, written, cost = figures(text)
    horizon = int(re.search(r"at most (\d+) steps", text)[1])  # type: ignore[index]
    assert requests == 5 * 3 * horizon
    assert written == 40 * requests
    price = read_prices().price("openai/gpt-5-mini")
    assert price is not None
    assert cost == pytest.approx((read * price.input + written * price.output) / 1e6, abs=1e-4)
    # Played: the characters of the messages and replies are four times the tokens.
    model = ScriptedModel(middle)
    outcome = await Evaluation(tmp_path / "played", model).run({"guess": guess}, 5, attempts=3)
    assert 0 < len(model.seeds) <= requests
    asked = sum(len(message.text) for messages in model.asked for message in messages)
    assert read / 20 < asked / 4 < read
    assert sum(record.usage.output or 0 for record in outcome.results.values()) / 4 < written


async def test_a_dry_run_shows_the_first_prompt_and_an_unknown_price(guess: str, tmp_path: Path) -> None:
    _, text = await planned(guess, options_of(tmp_path))
    assert "5 tasks of split test, 3 attempts each" in text
    assert "The number is from 1 to 100" in text
    async with opened([EnvironmentChoice(guess, guess, {})], LocalServices(tmp_path), SETTINGS, sessions=1) as found:
        plan = await plan_of(options_of(tmp_path), "x", found, SETTINGS)
        assert "cost unknown: no price for this model" in await describe_requests(
            options_of(tmp_path), plan, found, None
        )


async def info_of(guess: str, folder: Path) -> OpenedEnvironment:
    async with opened([EnvironmentChoice(guess, guess, {})], LocalServices(folder), SETTINGS, sessions=1) as found:
        return found[0]


async def test_a_debate_asks_each_agent_in_each_round_and_shows_the_answers(guess: str, tmp_path: Path) -> None:
    values = {"agents": 3, "rounds": 4, "judge": True}
    plan, _ = await planned(guess, options_of(tmp_path, strategy="debate", strategy_options=values))
    info = msgspec.structs.replace((await info_of(guess, tmp_path)).info, horizon=7)
    usage, requests = bound(
        plan, plan.environments[0], info, [MeasuredPrompt("", 100, 10), MeasuredPrompt("", 101, 10)], 50
    )
    turns = 5 * 3 * 7
    assert requests == turns * (3 * 4 + 1)
    assert usage.output == requests * 50
    # Each of three agents sees three answers in three rounds, and the judge sees three. Each prompt shows the last two
    # turns, so the seven prompts of an attempt show 0 + 1 + 5 * 2 turns.
    history = 5 * 3 * 13 * 11 * (10 + 50)
    assert usage.input == requests * 101 + history + turns * (3 * 3 * 3 + 3) * 50


async def test_a_conversation_repeats_the_turns_before(guess: str, tmp_path: Path) -> None:
    plan, _ = await planned(guess, options_of(tmp_path, strategy="react"))
    info = msgspec.structs.replace((await info_of(guess, tmp_path)).info, horizon=4)
    usage, requests = bound(plan, plan.environments[0], info, [MeasuredPrompt("", 100, 10)], 50)
    assert requests == 5 * 3 * 4
    per_attempt = sum(100 + turn * (10 + 50) for turn in range(4))
    assert usage.input == 5 * 3 * per_attempt
