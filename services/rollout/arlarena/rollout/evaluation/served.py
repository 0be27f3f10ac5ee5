"""Starts environment servers as separate processes, connects runners to environment servers, and resets tasks.

    async with configured_process("sokoban", {}) as url, connected_runner(url, settings, None, log) as runner:
        (first,) = await reset_tasks(runner, [Task("sokoban", "test", 0)])

The functions use no model.
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

# Maximum number of sessions. More sessions are not faster, because the server runs on the same machine.
CONCURRENCY = 64
# Seconds until a server must be ready. A server at a given URL should already run when the command starts.
READY_S = 15.0


@asynccontextmanager
async def environment_process(config: Path, name: str, *, workers: int | None = None) -> AsyncIterator[str]:
    """Start `python -m arlarena.env_server NAME --config CONFIG` on a free port, and yield the server's URL.

    The server stops when the context ends.

    Args:
        config: file with the table [environment].
        name: name of the environment.
        workers: number of server processes; None: the number in the file.

    Raises:
        ConfigError, EvaluationError: the server does not start. The message contains the last error of the server's
            output.
    """
    arguments = [name, "--config", str(config), *([] if workers is None else ["--workers", str(workers)])]
    with tempfile.TemporaryDirectory(prefix="arlarena-environment-") as folder:
        async with LocalServices(Path(folder)) as services:
            title = f"the environment server of {name}"
            yield await services.start("arlarena.env_server", arguments, name, title, with_token=True)


@asynccontextmanager
async def configured_process(name: str, options: Mapping[str, Any], *, workers: int = 1) -> AsyncIterator[str]:
    """Start a server for the environment `name`, and yield the server's URL. The server stops when the context ends.

    `options`: the environment's options. Options with the value None keep their defaults.

    Raises:
        ConfigError, EvaluationError: see `environment_process`.
    """
    with tempfile.TemporaryDirectory(prefix="arlarena-environment-") as folder:
        config = Path(folder) / "environment.toml"
        environment = {"name": name, "options": without_none(options)}
        write_text(config, tomli_w.dumps({"environment": environment}), private=True)
        async with environment_process(config, name, workers=workers) as url:
            yield url


def without_none(table: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a copy of a table without None values, also in nested tables. TOML cannot represent None."""
    kept = {key: value for key, value in table.items() if value is not None}
    return {key: without_none(value) if isinstance(value, Mapping) else value for key, value in kept.items()}


@asynccontextmanager
async def connected_runner(
    url: str, settings: RolloutSettings, token: SecretStr | None, log: Logger
) -> AsyncIterator[Runner]:
    """Yield a runner for the environment server at `url`. The server must be ready within `READY_S` seconds.

    Raises:
        ServicesDown, Refused: see `Runner.wait_ready`.
    """
    async with environment_client(url, settings, token) as environments:
        runner = Runner(environments, None, settings, log)
        await runner.wait_ready(READY_S)
        yield runner


class FirstStateOnly:
    """A policy that never replies. Each episode therefore ends after its reset."""

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        """Raise PromptTooLong. This error ends the episode without a turn."""
        raise PromptTooLong("only the reset is played", 400)


async def reset_tasks(runner: Runner, tasks: Sequence[Task]) -> list[EpisodeRecord]:
    """Reset each task once, and return the records in the order of `tasks`. A record has a first state and no turns.

    Raises:
        Refused: a task does not exist.
        ServicesDown: the server opened no session.
        EvaluationError: some tasks could not be reset, because the server failed too often.
    """
    if not tasks:
        return []
    assignments = [Assignment(f"reset-{number}", task, f"reset/{number}") for number, task in enumerate(tasks)]
    played = await play_all(runner, assignments, FirstStateOnly(), concurrency=CONCURRENCY)
    if len(played.episodes) < len(tasks):
        reason = next(iter(played.errors.values()), "the server is down")
        raise EvaluationError(f"{counted(len(tasks) - len(played.episodes), 'task')} could not be reset: {reason}")
    return [played.episodes[number] for number in range(len(tasks))]
