"""Services that an evaluation starts for itself: an environment by its name, and the policy server of a checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec

from arlarena.client.errors import Unavailable
from arlarena.client.transport import HttpTransport, Timeouts
from arlarena.rollout.evaluation.errors import EvaluationError

START_S = 300.0  # time until a service must listen
READY_S = 1800.0  # time until it must be ready; a large checkpoint takes minutes to load
READY_INTERVAL_S = 0.2
REQUEST = Timeouts(connect_s=5.0, request_s=5.0)  # of a request to /ready, which a service answers at once
STOP_S = 10.0
LOG_TAIL = 2_000  # characters of the log in an error message


class _Listening(msgspec.Struct, tag_field="event", tag="listening"):
    """The line that a service prints when it listens (`arlarena.proto.telemetry.announce`)."""

    host: str
    port: int


@asynccontextmanager
async def local_service(module: str, arguments: Sequence[str], log: Path, title: str) -> AsyncIterator[str]:
    """Run `python -m MODULE ARGUMENTS` on this machine. Yields its address when it is ready; stops it at the end.

    Args:
        module: the service, for example "arlarena.env_server".
        arguments: must contain no secret, because every user of the machine can read them.
        log: file for its output, which is appended.
        title: for messages, for example "the environment server of sokoban".

    Raises:
        EvaluationError: the service did not start.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            module,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=output,
            start_new_session=True,
        )
    try:
        url = await _address(process, log, title)
        await _ready(url, process, log, title)
        yield url
    finally:
        await _stop(process)


async def _address(process: asyncio.subprocess.Process, log: Path, title: str) -> str:
    assert process.stdout is not None
    try:
        async with asyncio.timeout(START_S):
            while line := await process.stdout.readline():
                with contextlib.suppress(msgspec.DecodeError):
                    found = msgspec.json.decode(line, type=_Listening)
                    return f"http://{found.host}:{found.port}"
    except TimeoutError:
        raise EvaluationError(f"{title} did not listen within {START_S:g} s; its log is {log}") from None
    raise _ended(await process.wait(), log, f"{title} ended before it listened")


async def _ready(url: str, process: asyncio.subprocess.Process, log: Path, title: str) -> None:
    """Wait until `GET /ready` responds with 200."""
    try:
        async with asyncio.timeout(READY_S), HttpTransport(url, REQUEST) as transport:
            while not await _is_ready(transport):
                if process.returncode is not None:
                    raise _ended(process.returncode, log, f"{title} ended before it was ready")
                await asyncio.sleep(READY_INTERVAL_S)
    except TimeoutError:
        raise EvaluationError(f"{title} was not ready within {READY_S:g} s; its log is {log}") from None


async def _is_ready(transport: HttpTransport) -> bool:
    try:
        return (await transport.request("GET", "/ready")).status == 200
    except Unavailable:
        return False


def _ended(code: int, log: Path, what: str) -> EvaluationError:
    """Return the error of a service that ended, with the end of its log."""
    tail = log.read_text(errors="replace")[-LOG_TAIL:].strip()
    return EvaluationError(f"{what}, with exit status {code}; the end of {log}:\n{tail}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Send SIGTERM. After `STOP_S`, send SIGKILL to the process group."""
    if process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        await asyncio.wait_for(process.wait(), STOP_S)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
