"""Commands of this repository as processes that need no import time: they are forked from a process with the imports.

A Python that begins with nothing takes a second or several to import a service. What is tested otherwise is the same:
the process runs `python -m MODULE ARGUMENTS`, its environment, folder, signals and exit status are its own.
"""

import atexit
import functools
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

FORKER = Path(__file__).with_name("forker.py")
ROOT = FORKER.parents[3]
START_S = 60.0


class Forked:
    """A forked process with an interface like `subprocess.Popen`."""

    def __init__(self, connection: socket.socket, stdout: IO[str] | None) -> None:
        self._connection = connection
        self.stdout = stdout
        self.returncode: int | None = None
        answer = connection.recv(8)
        if not answer:
            raise RuntimeError("the forking process has ended: a module that it imports is broken (see its stderr)")
        self.pid = int.from_bytes(answer, "big")

    def wait(self, timeout: float | None = None) -> int:
        """The exit status, negative for a signal."""
        if self.returncode is None:
            self._connection.settimeout(timeout)
            try:
                answer = self._connection.recv(8)
            except (TimeoutError, BlockingIOError):
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout or 0.0) from None
            if not answer:
                raise RuntimeError(f"the process that waits for process {self.pid} has ended")
            self.returncode = int.from_bytes(answer, "big", signed=True)
            self._connection.close()
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, None]:
        """Wait for its end; returns its output."""
        assert self.stdout is not None
        output: list[str] = []
        reading = threading.Thread(target=lambda: output.append(self.stdout.read() if self.stdout else ""), daemon=True)
        reading.start()
        reading.join(timeout)
        self.wait(0.0 if reading.is_alive() else timeout)
        reading.join()
        return output[0], None

    def poll(self) -> int | None:
        """The exit status, or None while it runs."""
        try:
            return self.wait(0.0)
        except subprocess.TimeoutExpired:
            return None

    def send_signal(self, number: int) -> None:
        """Send a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        """SIGTERM."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)


class Forker:
    """A process that has imported `modules` and forks; it ends with this process."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="forker-")
        address = str(Path(self._folder.name) / "socket")
        self._listening = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._listening.bind(address)
        self._listening.listen()
        self._address = address
        command = [sys.executable, str(FORKER), str(self._listening.fileno()), *modules]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, pass_fds=[self._listening.fileno()], cwd=ROOT
        )
        self._listening.close()

    def close(self) -> None:
        """End it; its forked processes continue."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        self._folder.cleanup()

    def popen(
        self,
        command: Sequence[str],
        *,
        stdout: int | IO[str],
        stderr: int | IO[str],
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        start_new_session: bool = False,
    ) -> Forked:
        """Start `python -m` with this command; `stdout` is a file or `subprocess.PIPE`, `stderr` a file or
        `subprocess.STDOUT`.
        """
        reading = None
        if stdout == subprocess.PIPE:
            reader, writer = os.pipe()
            reading = os.fdopen(reader)
        else:
            assert not isinstance(stdout, int)
            writer = os.dup(stdout.fileno())
        errors = writer if isinstance(stderr, int) else stderr.fileno()
        environment = dict(os.environ if env is None else env)
        folder = os.path.abspath(cwd or os.curdir)
        request = {"command": list(command), "env": environment, "cwd": folder, "session": start_new_session}
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        connection.settimeout(START_S)
        try:
            connection.connect(self._address)
            with open(os.devnull) as nothing:
                socket.send_fds(connection, [json.dumps(request).encode()], [nothing.fileno(), writer, errors])
        finally:
            os.close(writer)
        return Forked(connection, reading)

    def run(
        self,
        command: Sequence[str],
        *,
        timeout: float = 60.0,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """The result of `subprocess.run([sys.executable, "-m", *command], capture_output=True, text=True)`."""
        with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
            process = self.popen(command, stdout=out, stderr=err, env=env, cwd=cwd)
            try:
                code = process.wait(timeout)
            finally:
                process.kill()
            out.seek(0)
            err.seek(0)
            return subprocess.CompletedProcess(list(command), code, out.read(), err.read())


@functools.cache
def environments() -> Forker:
    """The environment server and all environments, imported once a session."""
    from arlarena.environment.registry import installed

    return _of_this_session(["arlarena.env_server.__main__", *(point.module for point in installed().values())])


@functools.cache
def consoles() -> Forker:
    """The `arlarena` command, imported once a session."""
    return _of_this_session(["arlarena.console.cli.app", "rich.live", "rich.markdown"])


@functools.cache
def policy_servers() -> Forker:
    """The policy server with its embedded engine, imported once a session."""
    loading = ("transformers.models.qwen3.modeling_qwen3", "transformers.models.auto.tokenization_auto")
    return _of_this_session(["arlarena.inference.__main__", "arlarena.inference.embedded.serving.routes", *loading])


@functools.cache
def trainers() -> Forker:
    """The trainer and torch, imported once a session."""
    return _of_this_session(["arlarena.trainer.__main__", "arlarena.trainer.assembly"])


def _of_this_session(modules: Sequence[str]) -> Forker:
    forker = Forker(modules)
    atexit.register(forker.close)
    return forker
