"""The zygote as the server sees it: start it, have it forked, hear how the forks ended, notice when it dies."""

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
from arlarena.sandbox.zygote import LONGEST

# One thread each: the forks of a machine share its cores, and a fork may start no thread.
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin:/usr/sbin:/sbin",
    "LC_ALL": "C.UTF-8",
    "HOME": "/",
    "PYTHONHASHSEED": "0",  # the order of a set decides what sympy prints: the same program prints the same
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
}


@dataclass(frozen=True, slots=True)
class Ended:
    """How a fork ended. `status`: its exit code, or the negative number of the signal that ended it."""

    status: int
    cpu_s: float
    memory_mb: float


class ZygoteDied(SandboxError):
    """The zygote is gone, and with it what it had running."""


class ZygoteProcess:
    """One zygote. `layers`: what is in force in its forks; `uid`: the user that they run as; `warning`: why they stay
    root, "" where they do not.
    """

    def __init__(self, work: str, required: Sequence[str], start_s: float) -> None:
        """Start one and wait until it is ready.

        Raises:
            SandboxUnavailable: a required layer cannot be had here.
            SandboxError: it did not start within `start_s` seconds, or not at all.
        """
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 (closed in `close`)
        # Without the user's variables and folders, with this process's own search path.
        code = f"import sys; sys.path[:] = {sys.path!r}; from {__package__}.zygote import main; sys.exit(main())"
        settings = json.dumps({"work": work, "required": list(required)})
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-s", "-P", "-c", code, str(theirs.fileno()), settings],
                pass_fds=[theirs.fileno()],
                env=ENVIRONMENT,
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=self._errors,
                start_new_session=True,
            )
        self._lock = threading.Lock()
        self._numbers = itertools.count()
        self._waiting: dict[int, Future[Ended]] = {}
        self._dead = False
        hello = self._greeted(start_s)
        self.layers: tuple[str, ...] = tuple(hello["layers"])
        self.uid, self.warning = int(hello["uid"]), str(hello["warning"])
        threading.Thread(target=self._listen, name="zygote", daemon=True).start()

    @property
    def alive(self) -> bool:
        """Whether it can be asked."""
        return not self._dead

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def fork(self, descriptors: Sequence[int], limits: ExecutionLimits) -> tuple[int, Future[Ended]]:
        """Begin an execution on descriptors of its payload, standard output and standard error. Returns its number,
        and how it ended once it has.

        Raises:
            ZygoteDied: there is no zygote any more.
        """
        number, future = next(self._numbers), Future[Ended]()
        order = {"id": number, "cpu_s": limits.whole_cpu_s, "memory_mb": limits.memory_mb}
        with self._lock:
            if self._dead:
                raise ZygoteDied("the zygote is gone")
            self._waiting[number] = future
        try:
            socket.send_fds(self._socket, [json.dumps(order).encode()], list(descriptors))
        except OSError as error:
            if isinstance(error, ConnectionError):
                with self._lock:
                    self._dead = True  # the next try takes another one, also before `_listen` has noticed
            raise ZygoteDied(f"the zygote cannot be reached: {error}") from error
        return number, future

    def end(self, number: int) -> None:
        """End an execution, if it still runs; its future says when."""
        with contextlib.suppress(OSError):
            self._socket.send(json.dumps({"id": number, "kill": True}).encode())

    def close(self) -> None:
        """End it, and all that it has running."""
        self._process.kill()
        self._process.wait()
        self._fail("the zygote was ended")
        self._socket.close()
        self._errors.close()

    def _greeted(self, start_s: float) -> dict[str, Any]:
        self._socket.settimeout(start_s)
        try:
            hello: dict[str, Any] = json.loads(self._socket.recv(LONGEST) or b"{}")
        except (OSError, ValueError) as error:
            self.close()
            raise SandboxError(f"the zygote did not start within {start_s:g} s: {error}") from error
        self._socket.settimeout(None)
        if "layers" in hello:
            return hello
        said = self._said()
        self.close()
        if "unavailable" in hello:
            raise SandboxUnavailable(str(hello["unavailable"]))
        raise SandboxError(f"the zygote ended as it started: {said}")

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            while message := self._socket.recv(LONGEST):
                answer = json.loads(message)
                with self._lock:
                    future = self._waiting.pop(answer["id"], None)
                if future is None:
                    continue
                if "failed" in answer:
                    future.set_exception(SandboxError(f"no process could be started: {answer['failed']}"))
                else:
                    future.set_result(Ended(answer["status"], answer["cpu_s"], answer["memory_mb"]))
        self._process.kill()  # one that no longer speaks is of no use
        self._process.wait()
        self._fail(f"the zygote died: {self._said()}")

    def _fail(self, why: str) -> None:
        with self._lock:
            self._dead = True
            waiting, self._waiting = list(self._waiting.values()), {}
        for future in waiting:
            future.set_exception(ZygoteDied(why))

    def _said(self) -> str:
        """The last line that it wrote to standard error."""
        with contextlib.suppress(OSError, ValueError):
            self._errors.seek(0)
            lines = self._errors.read().decode("utf-8", "replace").strip().splitlines()
            return lines[-1] if lines else f"exit code {self._process.poll()}"
        return "no reason given"
