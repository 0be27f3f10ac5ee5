"""Starts services for an evaluation: environment servers, and the policy server of a checkpoint."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import TracebackType

import msgspec

from arlarena.client.errors import Unavailable
from arlarena.client.transport import HttpTransport, Timeouts
from arlarena.proto.config import FILE_SUFFIX, ConfigError
from arlarena.proto.text.redaction import is_secret
from arlarena.rollout.evaluation.errors import EvaluationError

ENVIRONMENT_TOKEN = "ARLARENA_ENVIRONMENT_TOKEN"
START_S = 300.0  # seconds until a service must listen; indexing an official data set takes up to a minute
READY_S = 1800.0  # seconds until a service must be ready; loading a large checkpoint takes minutes
READY_INTERVAL_S = 0.2  # seconds between requests to /ready
REQUEST = Timeouts(connect_s=5.0, request_s=5.0)  # timeouts of a request to /ready
STOP_S = 10.0  # seconds between SIGTERM and SIGKILL
LOG_TAIL = 20_000  # bytes at the end of a log. `LocalService.cause` searches these bytes for an error line.
INVALID_CONFIGURATION = 2  # exit status of our services
PR_SET_PDEATHSIG = 1  # linux/prctl.h


class _Listening(msgspec.Struct, tag_field="event", tag="listening"):
    """The line that a service prints when it listens (`arlarena.proto.telemetry.announce`)."""

    host: str
    port: int


@dataclass(slots=True)
class LocalService:
    """A service that this process started.

    Attributes:
        title: name in messages, for example "the environment server of sokoban".
        log: file with the service's output.
        offset: position in bytes in `log` at which the output of this process begins.
        process: the process of the service.
        url: address of the service; "" before the service listens.
    """

    title: str
    log: Path
    offset: int
    process: asyncio.subprocess.Process
    url: str = ""

    def cause(self) -> str:
        """Return the last error line of the service's output. Without an error line, return the last line."""
        with self.log.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self.offset, size - LOG_TAIL))
            lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("error: ")]
        return (errors or lines or ["no output"])[-1].removeprefix("error: ")


class LocalServices:
    """Starts services. The services stop when the context ends. On Linux, they also stop if this process is killed.

    async with LocalServices(directory) as services:
        url = await services.start("arlarena.env_server", ["--config", …], "0-sokoban", "the environment server of …")
    """

    def __init__(self, directory: Path) -> None:
        """`directory`: folder for the logs. The folder is created when the first service starts."""
        self.directory = directory
        self._services: list[LocalService] = []

    async def __aenter__(self) -> LocalServices:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.gather(*(_stop(service.process) for service in self._services))

    async def start(
        self, module: str, arguments: Sequence[str], name: str, title: str, *, with_token: bool = False
    ) -> str:
        """Run `python -m MODULE ARGUMENTS --host 127.0.0.1 --port 0`. Wait until the service is ready. Return its URL.

        Args:
            module: module of the service, for example "arlarena.env_server".
            arguments: arguments of the service. They must contain no secret, because all users of the machine can read
                them.
            name: name of the log file without `.log`. Output is appended to an existing log.
            title: name in messages, for example "the environment server of sokoban".
            with_token: whether the service inherits ARLARENA_ENVIRONMENT_TOKEN.

        Raises:
            ConfigError: the service ended because its configuration is invalid.
            EvaluationError: the service ended for another reason, or was not ready in time.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            offset = output.tell()
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", module, *arguments, "--host", "127.0.0.1", "--port", "0"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=output,
                start_new_session=True,
                env=service_variables(os.environ, with_token=with_token),
                preexec_fn=_end_with_parent(),
            )
            service = LocalService(title, log, offset, process)
        self._services.append(service)
        service.url = await _address(service)
        await _ready(service)
        return service.url

    async def failed(self) -> EvaluationError:
        """Wait until a service ends, although the context has not ended. Return an error with the cause."""
        if not self._services:
            await asyncio.Event().wait()  # wait forever, because no service can end
        ends = [asyncio.ensure_future(service.process.wait()) for service in self._services]
        try:
            await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for end in ends:
                end.cancel()
        ended = next(service for service in self._services if service.process.returncode is not None)
        return EvaluationError(
            f"{ended.title} ended with exit status {ended.process.returncode} ({ended.cause()}); its log is "
            f"{ended.log}; to continue, run the same command with the same --out"
        )


def service_variables(variables: Mapping[str, str], *, with_token: bool = False) -> dict[str, str]:
    """Return the environment variables for a service, without secrets.

    An environment may run programs that a model wrote, and these programs must not read secrets. `with_token`: whether
    the variables include ARLARENA_ENVIRONMENT_TOKEN.
    """
    kept = {}
    for name, value in variables.items():
        secret = name.removesuffix(FILE_SUFFIX)  # a variable with the path of a secret's file counts as a secret
        if with_token if secret == ENVIRONMENT_TOKEN else not is_secret(secret, value):
            kept[name] = value
    return kept


def _end_with_parent() -> partial[int] | None:
    """Return a function that the started process must call, or None if the system is not Linux.

    After the call, the kernel sends SIGTERM to the started process when this process ends.
    """
    if not sys.platform.startswith("linux"):
        return None
    return partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0)


async def _address(service: LocalService) -> str:
    stdout, process = service.process.stdout, service.process
    assert stdout is not None
    try:
        async with asyncio.timeout(START_S):
            while line := await stdout.readline():
                with contextlib.suppress(msgspec.DecodeError):
                    found = msgspec.json.decode(line, type=_Listening)
                    return f"http://{found.host}:{found.port}"
    except TimeoutError:
        raise EvaluationError(
            f"{service.title} did not listen within {START_S:g} s; its log is {service.log}"
        ) from None
    if await process.wait() == INVALID_CONFIGURATION:
        raise ConfigError(f"{service.title} does not start: {service.cause()}")
    raise EvaluationError(
        f"{service.title} ended with exit status {process.returncode} before it listened ({service.cause()}); "
        f"its log is {service.log}"
    )


async def _ready(service: LocalService) -> None:
    """Wait until `GET /ready` returns status 200. A policy server listens before it has loaded its weights."""
    try:
        async with asyncio.timeout(READY_S), HttpTransport(service.url, REQUEST) as transport:
            while not await _is_ready(transport):
                if service.process.returncode is not None:
                    raise EvaluationError(
                        f"{service.title} ended with exit status {service.process.returncode} before it was ready "
                        f"({service.cause()}); its log is {service.log}"
                    )
                await asyncio.sleep(READY_INTERVAL_S)
    except TimeoutError:
        raise EvaluationError(f"{service.title} was not ready within {READY_S:g} s; its log is {service.log}") from None


async def _is_ready(transport: HttpTransport) -> bool:
    try:
        return (await transport.request("GET", "/ready")).status == 200
    except Unavailable:
        return False


async def _stop(process: asyncio.subprocess.Process) -> None:
    """Send SIGTERM. If the process still runs after `STOP_S` seconds, send SIGKILL to its process group."""
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
