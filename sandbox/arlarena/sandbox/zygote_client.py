"""The client of the zygote. It runs in the server, which is the process with the sandbox object.

The zygote is a process that forks itself for each execution of a program (`zygote.py`). The client starts the zygote,
requests forks, receives their exit statuses, and detects the death of the zygote.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

from arlarena.sandbox.execution import SandboxError, SandboxUnavailable
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.zygote import MAX_MESSAGE

# Environment variables of the zygote. Numerical libraries use one thread, because forks cannot start threads.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/",
    "PYTHONHASHSEED": "0",  # makes the order of sets deterministic; sympy's output depends on this order
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class ForkExit:
    """How a fork ended.

    `status`: the exit code, or -n if signal number n ended the fork. `cpu_s`: CPU time in seconds. `memory_mb`: peak
    memory in MiB.
    """

    status: int
    cpu_s: float
    memory_mb: float


class ZygoteDied(SandboxError):
    """The zygote has died. All its forks have died too."""


class ZygoteProcess:
    """The server's connection to one zygote process. Thread-safe.

    `layers`: the active protection layers of the forks. `uid`: id of the user that runs the forks. `warning`: if this
    user is root, the reason and the fix; else "".
    """

    def __init__(self, work: str, required: Sequence[str], start_s: float) -> None:
        """Start a zygote and wait until it is ready.

        `work`: name of a module with a function `load` (see `zygote.py`). `required`: names of the required layers.

        Raises:
            SandboxUnavailable: this machine lacks a required layer or libseccomp.
            SandboxError: the zygote ended, or was not ready within `start_s` seconds.
        """
        self._socket, peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        # The zygote gets this process's module search path. It gets neither this process's environment variables nor
        # the user's site packages.
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__package__}.zygote import main; sys.exit(main())"
        settings = json.dumps({"work": work, "required": list(required)})
        with peer:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-c", code, str(peer.fileno()), settings],
                pass_fds=[peer.fileno()],
                env=ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
            )
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[ForkExit]] = {}
        self._dead = False
        ready = self._wait_ready(start_s)
        self.layers: tuple[str, ...] = tuple(ready["layers"])
        self.uid, self.warning = int(ready["uid"]), str(ready["warning"])
        threading.Thread(target=self._listen, name="zygote", daemon=True).start()

    @property
    def alive(self) -> bool:
        """True until the zygote has died or `close` was called."""
        return not self._dead

    @property
    def pid(self) -> int:
        """Process id of the zygote."""
        return self._process.pid

    def fork(self, descriptors: Sequence[int], limits: ExecutionLimits) -> tuple[int, Future[ForkExit]]:
        """Start an execution. Returns (the execution's number, a future of the fork's `ForkExit`).

        `descriptors`: file descriptors of the payload, standard output and standard error. `limits`: only `cpu_s` and
        `memory_mb` are used. If the zygote cannot fork, the future raises `SandboxError`. If the zygote dies, the
        future raises `ZygoteDied`.

        Raises:
            ZygoteDied: the zygote has died.
        """
        number, future = next(self._numbers), Future[ForkExit]()
        request = {"id": number, "cpu_s": limits.whole_cpu_s, "memory_mb": limits.memory_mb}
        with self._lock:
            if self._dead:
                raise ZygoteDied("the zygote has ended")
            self._waiting[number] = future
        try:
            socket.send_fds(self._socket, [json.dumps(request).encode()], list(descriptors))
        except OSError as error:
            if isinstance(error, ConnectionError):
                with self._lock:
                    self._dead = True  # now, because the next attempt must start a new zygote; `_listen` may be late
            raise ZygoteDied(f"the zygote cannot be reached: {error}") from error
        return number, future

    def kill(self, number: int) -> None:
        """Kill the execution with this number. Its future completes when its fork has ended."""
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps({"id": number, "kill": True}).encode())

    def close(self) -> None:
        """End the zygote and its forks. The futures of unfinished executions then raise `ZygoteDied`."""
        self._process.kill()
        self._process.wait()
        self._fail("the zygote was stopped")
        self._socket.close()
        self._errors.close()

    def _wait_ready(self, start_s: float) -> dict[str, Any]:
        self._socket.settimeout(start_s)
        try:
            ready: dict[str, Any] = json.loads(self._socket.recv(MAX_MESSAGE) or b"{}")
        except (OSError, ValueError) as error:
            self.close()
            raise SandboxError(f"the zygote did not start within {start_s:g} s: {error}") from error
        self._socket.settimeout(None)
        if "layers" in ready:
            return ready
        last_line = self._last_error_line()
        self.close()
        if "unavailable" in ready:
            raise SandboxUnavailable(str(ready["unavailable"]))
        raise SandboxError(f"the zygote ended during its start: {last_line}")

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while message := self._socket.recv(MAX_MESSAGE):
                answer = json.loads(message)
                with self._lock:
                    future = self._waiting.pop(answer["id"], None)
                if future is None:
                    continue
                if "failed" in answer:
                    future.set_exception(SandboxError(f"the zygote could not fork: {answer['failed']}"))
                else:
                    future.set_result(ForkExit(answer["status"], answer["cpu_s"], answer["memory_mb"]))
        self._process.kill()  # without a connection, the zygote cannot be used
        self._process.wait()
        self._fail(f"the zygote died: {self._last_error_line()}")

    def _fail(self, why: str) -> None:
        with self._lock:
            self._dead = True
            waiting, self._waiting = list(self._waiting.values()), {}
        for future in waiting:
            future.set_exception(ZygoteDied(why))

    def _last_error_line(self) -> str:
        """Return the last line that the zygote wrote to standard error. If there is none, return its exit code.

        If standard error cannot be read, return "no reason given".
        """
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else f"exit code {self._process.poll()}"
        return "no reason given"
