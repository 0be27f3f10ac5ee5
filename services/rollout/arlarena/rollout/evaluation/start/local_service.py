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

from arlarena.rollout.evaluation.errors import EvaluationError

START_S = 300.0  # time until a service must listen; a large checkpoint takes minutes to load
STOP_S = 10.0
LOG_TAIL = 2_000  # characters of the log in an error message


class _Listening(msgspec.Struct, tag_field="event", tag="listening"):
    """The line that a service prints when it listens (`arlarena.proto.telemetry.announce`)."""

    host: str
    port: int


@asynccontextmanager
async def local_service(module: str, arguments: Sequence[str], log: Path, title: str) -> AsyncIterator[str]:
    """Run `python -m MODULE ARGUMENTS` on this machine. Yields its address, and stops it at the end.

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
        yield await _address(process, log, title)
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
    code = await process.wait()
    tail = log.read_text(errors="replace")[-LOG_TAIL:].strip()
    raise EvaluationError(f"{title} ended with exit status {code} before it listened; the end of {log}:\n{tail}")


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
