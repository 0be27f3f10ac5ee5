"""Environment servers for checks: starts one as a separate process, and resets tasks or plays recorded replies on it.

    async with configured_process("sokoban", {}) as url, connected_runner(url, settings, None, log) as runner:
        (first,) = await reset_tasks(runner, [Task("sokoban", "test", 0)])

No model is used, so all of this is done before the first request to a model.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import tomli_w
from pydantic import SecretStr

from arlarena.client.environments import Session, StepOutcome
from arlarena.client.errors import PromptTooLong
from arlarena.proto.atomic_files import write_text
from arlarena.proto.telemetry import Logger
from arlarena.proto.text.redaction import is_secret
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Task
from arlarena.rollout.episode import Assignment, EpisodeRecord, Response
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.play_all import play_all
from arlarena.rollout.runner import Runner, environment_client
from arlarena.rollout.settings import RolloutSettings

# Time limit for the start of a server. Official data sets take up to a minute to index.
START_TIMEOUT_S = 300.0
# Time limit for the end of a server after SIGTERM. Then the process is killed.
STOP_TIMEOUT_S = 10.0
# Most sessions at a time. The server runs on the same machine, and more sessions do not make it faster.
CONCURRENCY = 64
# A server may run programs that a model has written, so it inherits no secret except its own token.
ENVIRONMENT_TOKEN = "ARLARENA_ENVIRONMENT_TOKEN"


class Listening(msgspec.Struct):
    """The line that a server prints when it accepts connections."""

    host: str
    port: int


def server_environment(variables: Mapping[str, str]) -> dict[str, str]:
    """Returns the variables that the server's process inherits: all but secrets; its own token stays."""
    return {name: value for name, value in variables.items() if name == ENVIRONMENT_TOKEN or not is_secret(name, value)}


@asynccontextmanager
async def environment_process(config: Path, name: str, *, workers: int | None = None) -> AsyncIterator[str]:
    """Start `python -m arlarena.env_server NAME --config CONFIG` on a free port. Yield its URL, and stop it afterwards.

    Args:
        config: file with the table [environment].
        name: the environment.
        workers: number of server processes; None: as in the file.

    Raises:
        EvaluationError: the server does not start. The message contains the last line of its output.
    """
    flags = ["--config", str(config), "--host", "127.0.0.1", "--port", "0"]
    flags += [] if workers is None else ["--workers", str(workers)]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "arlarena.env_server", name, *flags),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=server_environment(os.environ),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    errors = asyncio.ensure_future(_last_lines(process.stderr))
    try:
        try:
            line = await asyncio.wait_for(process.stdout.readline(), START_TIMEOUT_S)
        except TimeoutError as error:
            raise EvaluationError(f"the environment server of {name} did not start in {START_TIMEOUT_S:g} s") from error
        if not line:
            await process.wait()
            last = "; ".join(await errors) or f"exit status {process.returncode}"
            raise EvaluationError(f"the environment server of {name} does not start: {last}")
        address = msgspec.json.decode(line, type=Listening)
        yield f"http://{address.host}:{address.port}"
    finally:
        await _stop(process)
        errors.cancel()


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


async def _last_lines(stream: asyncio.StreamReader, count: int = 2) -> list[str]:
    """Read the stream to its end, so that the process never blocks. Returns the last `count` lines."""
    lines: list[str] = []
    async for line in stream:
        lines = [*lines, line.decode("utf-8", "replace").strip().removeprefix("error: ")][-count:]
    return lines


async def _stop(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_TIMEOUT_S)
    except TimeoutError:
        process.kill()
        await process.wait()


@asynccontextmanager
async def connected_runner(
    url: str, settings: RolloutSettings, token: SecretStr | None, log: Logger
) -> AsyncIterator[Runner]:
    """Yield a runner for the environment server at `url`, which is ready.

    Raises:
        ServicesDown, Refused: as in `Runner.wait_ready`.
    """
    async with environment_client(url, settings, token) as environments:
        runner = Runner(environments, None, settings, log)
        await runner.wait_ready()
        yield runner


class FirstStateOnly:
    """A policy that never replies, so that an episode ends after its reset."""

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        """Raises PromptTooLong, which ends the episode without a turn."""
        raise PromptTooLong("only the reset is played", 400)


async def reset_tasks(runner: Runner, tasks: Sequence[Task]) -> list[EpisodeRecord]:
    """Reset each task once, and return the records in the same order. Each has a first state and no turns.

    Raises:
        Refused: a task does not exist.
        InfraFailure: the server failed too often.
    """
    if not tasks:
        return []
    assignments = [Assignment(f"reset-{number}", task, f"reset/{number}") for number, task in enumerate(tasks)]
    played = await play_all(runner, assignments, FirstStateOnly(), concurrency=CONCURRENCY)
    if len(played.episodes) < len(tasks):
        why = next(iter(played.errors.values()), "the server is down")
        raise EvaluationError(f"{counted(len(tasks) - len(played.episodes), 'task')} could not be reset: {why}")
    return [played.episodes[number] for number in range(len(tasks))]
