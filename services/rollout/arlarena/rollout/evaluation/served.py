"""Environment servers for checks: starts one as a separate process, and resets tasks or plays recorded replies on it.

    async with configured_process("sokoban", {}) as url, connected_runner(url, settings, None, log) as runner:
        (first,) = await reset_tasks(runner, [Task("sokoban", "test", 0)])

These checks use no model. They are done before the first request to a model.
"""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import tomli_w
from pydantic import SecretStr

from arlarena.client.environments import Session, StepOutcome
from arlarena.client.errors import PromptTooLong
from arlarena.proto.atomic_files import write_text
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Task
from arlarena.rollout.episode import Assignment, EpisodeRecord, Response
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.start.local_service import LocalServices
from arlarena.rollout.play_all import play_all
from arlarena.rollout.runner import Runner, environment_client
from arlarena.rollout.settings import RolloutSettings

# Maximum number of sessions. The server runs on the same machine, and more sessions would not make it faster.
CONCURRENCY = 64
READY_S = 15.0  # a server that is started here is ready earlier, and the server of a given URL should run


@asynccontextmanager
async def environment_process(config: Path, name: str, *, workers: int | None = None) -> AsyncIterator[str]:
    """Start `python -m arlarena.env_server NAME --config CONFIG` on a free port. Yield its URL, and stop it afterwards.

    Args:
        config: file with the table [environment].
        name: the environment.
        workers: number of server processes; None: as in the file.

    Raises:
        ConfigError, EvaluationError: the server does not start. The message contains the last error of its output.
    """
    arguments = [name, "--config", str(config), *([] if workers is None else ["--workers", str(workers)])]
    with tempfile.TemporaryDirectory(prefix="arlarena-environment-") as folder:
        async with LocalServices(Path(folder)) as services:
            title = f"the environment server of {name}"
            yield await services.start("arlarena.env_server", arguments, name, title, with_token=True)


@asynccontextmanager
async def configured_process(name: str, options: Mapping[str, Any], *, workers: int = 1) -> AsyncIterator[str]:
    """Start a server of `name` with these options. Options with the value None keep their defaults. Yield its URL.

    Raises:
        EvaluationError: as in `environment_process`.
    """
    with tempfile.TemporaryDirectory(prefix="arlarena-environment-") as folder:
        config = Path(folder) / "environment.toml"
        environment = {"name": name, "options": without_none(options)}
        write_text(config, tomli_w.dumps({"environment": environment}), private=True)
        async with environment_process(config, name, workers=workers) as url:
            yield url


def without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a table without the keys whose value is None, also in nested tables. TOML has no null."""
    kept = {key: value for key, value in table.items() if value is not None}
    return {key: without_none(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


@asynccontextmanager
async def connected_runner(
    url: str, settings: RolloutSettings, token: SecretStr | None, log: Logger
) -> AsyncIterator[Runner]:
    """Yield a runner for the environment server at `url`, which must be ready within `READY_S`.

    Raises:
        ServicesDown, Refused: as in `Runner.wait_ready`.
    """
    async with environment_client(url, settings, token) as environments:
        runner = Runner(environments, None, settings, log)
        await runner.wait_ready(READY_S)
        yield runner


class FirstStateOnly:
    """A policy that never replies, so that an episode ends after its reset."""

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        """Raises PromptTooLong, which ends the episode without a turn."""
        raise PromptTooLong("only the reset is played", 400)


async def reset_tasks(runner: Runner, tasks: Sequence[Task]) -> list[EpisodeRecord]:
    """Reset each task once, and return the records in the same order. Each record has a first state and no turns.

    Raises:
        Refused: a task does not exist.
        InfraFailure: the server failed too often.
    """
    if not tasks:
        return []
    assignments = [Assignment(f"reset-{number}", task, f"reset/{number}") for number, task in enumerate(tasks)]
    played = await play_all(runner, assignments, FirstStateOnly(), concurrency=CONCURRENCY)
    if len(played.episodes) < len(tasks):
        reason = next(iter(played.errors.values()), "the server is down")
        raise EvaluationError(f"{counted(len(tasks) - len(played.episodes), 'task')} could not be reset: {reason}")
    return [played.episodes[number] for number in range(len(tasks))]
