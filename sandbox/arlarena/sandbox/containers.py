"""The container sandbox: the Docker engine runs each program in its own container.

This sandbox is about a hundred times slower than the fork sandbox (`forks.py`). Use it in two cases: if containers are
required, or if the machine's kernel has no Landlock. The fork sandbox needs Landlock to restrict access to files.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import signal
import socket
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from arlarena.sandbox import run_program as program
from arlarena.sandbox.execution import (
    Ending,
    Execution,
    ResourceUsage,
    SandboxError,
    SandboxHealth,
    SandboxUnavailable,
    signal_name,
)
from arlarena.sandbox.identity import NOBODY
from arlarena.sandbox.limits import ExecutionLimits
from arlarena.sandbox.slots import SlotLimiter

LAYERS = ("container", "user", "capabilities", "no_new_privs", "network", "read_only", "memory", "pids")
# The Python code that runs in the container: the module `run_program`, and a call of `run` with the payload from
# standard input.
COMMAND = inspect.getsource(program) + "\nsys.exit(run(sys.stdin.buffer.read()))\n"
MAX_PIDS = 32
OUT, ERR = 1, 2  # numbers of standard output and standard error in the engine's frames
CHUNK = 1 << 16
KILLED = 128  # if a signal ended the program, the exit code is 128 plus the signal's number


@dataclass(frozen=True, slots=True)
class ContainerSettings:
    """Settings of a `ContainerSandbox`.

    Attributes:
        image: a local image with Python, numpy, scipy and sympy.
        limits: the default limits of an execution.
        max_running: maximum number of executions at the same time. Further executions wait.
        max_waiting: maximum number of waiting executions. Further calls of `run` raise `SandboxBusy`.
        runtime: the engine's runtime, such as runsc for gVisor. None selects the engine's default runtime.
        start_s: timeout in seconds of each request to the engine, such as the start of a container.
    """

    image: str
    limits: ExecutionLimits = field(default_factory=ExecutionLimits)
    max_running: int = 4
    max_waiting: int = 1024
    runtime: str | None = None
    start_s: float = 60.0


class ContainerSandbox:
    """A sandbox that runs each program in its own container. Thread-safe."""

    def __init__(self, settings: ContainerSettings) -> None:
        """Connect to the Docker engine, and check that it has the image.

        Raises:
            SandboxUnavailable: the Docker engine does not answer, or the image or the Python package `docker` is
                missing.
        """
        try:
            import docker
        except ImportError as error:
            raise SandboxUnavailable("backend 'docker' needs the Python package docker: pip install docker") from error
        self._settings, self._errors = settings, docker.errors.DockerException
        try:
            self._client = docker.from_env(timeout=settings.start_s)
            self._client.images.get(settings.image)
        except docker.errors.ImageNotFound as error:
            raise SandboxUnavailable(
                f"the Docker engine has no image {settings.image!r}: either pull it with docker pull, or build it"
            ) from error
        except self._errors as error:
            raise SandboxUnavailable(f"the Docker engine does not answer (check DOCKER_HOST): {error}") from error
        retry_after_s = max(1.0, settings.limits.wall_s / 2)
        self._slots = SlotLimiter(settings.max_running, settings.max_waiting, retry_after_s)
        self._containers: set[str] = set()  # ids of existing containers
        self._closed = False

    def run(self, program: str, before: Sequence[str] = (), limits: ExecutionLimits | None = None) -> Execution:
        """See `Sandbox.run`."""
        payload = json.dumps([*before, program]).encode("utf-8", "surrogatepass")
        with self._slots.slot():
            self._check_open()
            try:
                execution = self._run(payload, limits or self._settings.limits)
            except (self._errors, OSError) as error:
                raise SandboxError(f"the Docker engine failed: {error}") from error
            self._check_open()  # `close` may have killed the container
            return execution

    def health(self) -> SandboxHealth:
        """See `Sandbox.health`."""
        try:
            alive = bool(self._client.ping())
        except (self._errors, OSError):
            alive = False
        return SandboxHealth("docker", alive, LAYERS, self._slots.running, self._slots.waiting, 0, NOBODY)

    def close(self) -> None:
        """See `Sandbox.close`."""
        self._closed = True
        for container in list(self._containers):
            self._remove(container)
        self._client.close()

    def _run(self, payload: bytes, limits: ExecutionLimits) -> Execution:
        api, begun = self._client.api, time.monotonic()
        container = api.create_container(
            self._settings.image,
            ["python3", "-c", COMMAND],
            user=f"{NOBODY}:{NOBODY}",
            working_dir="/",
            environment={"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            network_disabled=True,
            stdin_open=True,
            host_config=api.create_host_config(
                network_mode="none",
                read_only=True,
                cap_drop=["ALL"],
                security_opt=["no-new-privileges"],
                mem_limit=limits.memory_mb << 20,
                memswap_limit=limits.memory_mb << 20,
                pids_limit=MAX_PIDS,
                ulimits=[{"Name": "cpu", "Soft": -int(-limits.cpu_s // 1), "Hard": -int(-limits.cpu_s // 1)}],
                log_config={"Type": "none"},
                runtime=self._settings.runtime,
            ),
        )["Id"]
        self._containers.add(container)
        try:
            return self._communicate(api, container, payload, limits, begun)
        finally:
            self._remove(container)

    def _check_open(self) -> None:
        if self._closed:
            raise SandboxError("the sandbox is closed")

    def _remove(self, container: str) -> None:
        with contextlib.suppress(self._errors):  # the container may have been removed already
            self._client.api.remove_container(container, force=True)
        self._containers.discard(container)

    def _communicate(
        self, api: Any, container: str, payload: bytes, limits: ExecutionLimits, begun: float
    ) -> Execution:
        stream = api.attach_socket(container, params={"stdin": 1, "stdout": 1, "stderr": 1, "stream": 1})
        raw: socket.socket = getattr(stream, "_sock", stream)
        texts = {OUT: bytearray(), ERR: bytearray()}
        try:
            api.start(container)
            raw.settimeout(self._settings.start_s)
            raw.sendall(payload)
            raw.shutdown(socket.SHUT_WR)  # marks the end of the payload
            stopped = _read(raw, texts, time.monotonic() + limits.wall_s, limits.output_bytes)
        finally:
            with contextlib.suppress(OSError):
                raw.shutdown(socket.SHUT_RDWR)  # unblocks the engine if it is writing output
            stream.close()
        if stopped is not None:
            with contextlib.suppress(self._errors):
                api.kill(container)
        status = int(api.wait(container)["StatusCode"])
        state = api.inspect_container(container)["State"]
        ending, why = _ending(status, stopped)
        if state.get("OOMKilled"):
            ending, why = "killed", f"{why}, because it used more than {limits.memory_mb} MiB"
        return Execution.of(
            ending, (bytes(texts[OUT]), bytes(texts[ERR])), limits, why, ResourceUsage(time.monotonic() - begun)
        )


def _ending(status: int, stopped: Ending | None) -> tuple[Ending, str]:
    """Return (how a container ended, name of the signal that ended it).

    `status`: the container's exit code. `stopped`: if this process killed the container, the limit that the program
    exceeded; else None.
    """
    number = status - KILLED
    if stopped is not None:
        return stopped, signal_name(number)
    # This process did not kill the container. The kernel sends SIGKILL at the CPU limit, or if memory runs out. The
    # caller checks whether memory ran out.
    if number == signal.SIGKILL:
        return "timeout", "SIGKILL"
    return "ok" if status == 0 else "killed" if number > 0 else "error", signal_name(number)


def _read(raw: socket.socket, texts: dict[int, bytearray], deadline: float, max_bytes: int) -> Ending | None:
    """Add the container's output to `texts` until the container ends or exceeds a limit. Return `timeout` or `output`
    if it exceeds this limit, else None.

    `raw`: a socket to the engine. The engine sends frames. A frame consists of the stream's number (1 byte), three zero
    bytes, the content's length (4 bytes, big-endian), and the content.
    """
    buffer = bytearray()
    while (left_s := deadline - time.monotonic()) > 0:
        raw.settimeout(left_s)
        try:
            chunk = raw.recv(CHUNK)
        except TimeoutError:
            break
        if not chunk:
            return None
        buffer += chunk
        while len(buffer) >= 8 and len(buffer) >= 8 + (size := int.from_bytes(buffer[4:8], "big")):
            texts[buffer[0]] += buffer[8 : 8 + size]
            del buffer[: 8 + size]
        if sum(map(len, texts.values())) > max_bytes:
            return "output"
    return "timeout"
