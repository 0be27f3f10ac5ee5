"""Attempts on servers that always refuse, or break the API: how they end, and how many sessions they use."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from support.evaluation.evaluation_support import Evaluation, ScriptedModel
from support.evaluation.scripted_openenv import QUICK, failed, observed, scripted_openenv

from arlarena.client.environments import Session
from arlarena.client.errors import ProtocolError
from arlarena.proto.telemetry import Logger
from arlarena.rollout.evaluation.interrupts import StopSignal
from arlarena.rollout.evaluation.play.openenv import SEEDS, OpenEnvClient
from arlarena.rollout.evaluation.play.scheduler import EvaluationOutcome
from arlarena.rollout.evaluation.play.slots import MAX_PROTOCOL_ERRORS, MAX_REFUSALS, PlayLimits, SlotGroup
from arlarena.rollout.evaluation.records import AttemptKey, EnvironmentPlan, EvaluationPlan

LIMITS = PlayLimits(sessions=1, first_pause_s=0.01, longest_pause_s=0.02)


async def played(directory: Path, model: ScriptedModel, tasks: int, **answers: Any) -> tuple[EvaluationOutcome, int]:
    """Play attempts in one slot. Return the outcome and the number of opened sessions."""
    environment = EnvironmentPlan("scripted", "", "1", "t", "p", {}, SEEDS, tuple(range(tasks)))
    plan = EvaluationPlan(1, "scripted", "", "plain", {}, {}, (environment,), 1, 0, False)
    async with (
        scripted_openenv(**answers) as server,
        OpenEnvClient(server.url, timeouts=QUICK) as client,
    ):
        outcome = await Evaluation(directory, model, play=LIMITS).with_clients({"scripted": client}, plan)
        return outcome, len(server.headers)


def answer(messages: object, seed: int) -> str:
    return "left"


async def test_a_step_that_is_always_refused_is_a_fault_of_the_policy_after_few_sessions(tmp_path: Path) -> None:
    model = ScriptedModel(answer)
    outcome, sessions = await played(tmp_path, model, 2, step=failed("EXECUTION_ERROR"))
    assert [record.status for record in outcome.results.values()] == ["policy_error"] * 2
    # No session is used after a refusal, so each attempt starts in a session of its own.
    assert [record.restarts for record in outcome.results.values()] == [MAX_REFUSALS - 1] * 2
    assert sessions == 2 * MAX_REFUSALS
    assert len(model.seeds) == 2, "no reply is requested twice"


@pytest.mark.parametrize(
    ("step", "problem"),
    [("<html>", "is not JSON"), ('{"type":"observation","data":{"observation":5}}', "reward is missing")],
)
async def test_invalid_responses_to_each_step_end_an_attempt_at_once(tmp_path: Path, step: str, problem: str) -> None:
    model = ScriptedModel(answer)
    outcome, sessions = await played(tmp_path, model, 2, step=step)
    for record in outcome.results.values():
        assert (record.status, record.restarts) == ("infra_error", MAX_PROTOCOL_ERRORS - 1)
        assert record.error.startswith("5 invalid responses in a row from the environment server; last: ")
        assert problem in record.error
        assert record.seconds < 5
    assert (outcome.remaining, sessions, len(model.seeds)) == (2, 2 * MAX_PROTOCOL_ERRORS, 2)


async def test_single_invalid_responses_are_retried(tmp_path: Path) -> None:
    spoilt = iter([True, False] * 3)

    async def step(socket: Any, frame: Any) -> None:
        steps.append(frame["data"]["text"])
        await socket.send_str("<html>" if next(spoilt, False) else observed(reward=1.0, done=len(steps) > 8))

    steps: list[str] = []
    outcome, _ = await played(tmp_path, ScriptedModel(answer), 1, step=step)
    (record,) = outcome.results.values()
    assert (record.status, record.success, record.restarts) == ("ok", True, 3)


class InvalidSource:
    """A server whose responses to the opening of sessions are invalid."""

    opened = 0

    async def open(self, count: int, *, ttl_s: float | None = None) -> Sequence[Session]:
        self.opened += 1
        raise ProtocolError("POST http://x/v1/sessions returned an invalid response: <html>")


async def test_a_server_that_opens_no_valid_session_ends_the_evaluation() -> None:
    def make_attempt(key: AttemptKey, on_progress: object) -> Any:
        raise AssertionError("no attempt can be played")

    async def end(record: object) -> None:
        raise AssertionError("no attempt ends")

    source, stop = InvalidSource(), StopSignal()
    key = AttemptKey("x", "test", 0, 0)
    await SlotGroup(source, [key], make_attempt, end, stop, LIMITS, Logger("test", "error")).slot()
    assert "opens no session: POST http://x/v1/sessions returned an invalid response" in str(stop.reason)
    assert source.opened == MAX_PROTOCOL_ERRORS
