"""The local engines of a gateway. Each engine is a process that listens on a socket in a private folder. The gateway
restarts an engine if its process ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from arlarena.proto.telemetry import Logger

# The script that runs an engine (the wrapper). It stops the engine when the gateway's process ends.
PARENT_DEATH = Path(__file__).with_name("parent_death.py")
# Seconds between the end of an engine and its restart. The pause doubles with each restart, up to MAX_PAUSE_S.
FIRST_PAUSE_S, MAX_PAUSE_S = 0.2, 10.0
PAUSE_RESET_AFTER_S = 60.0  # if an engine has run for more seconds than this, the next pause is FIRST_PAUSE_S
HELPERS_S = 5.0  # `stop` waits this many seconds longer than `grace_s`, for the engine's helper processes


class LocalEngine:
    """One engine process. `socket`: the Unix socket on which the engine serves HTTP."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        environment: Mapping[str, str],
        socket: Path,
        grace_s: float,
        log: Logger,
    ) -> None:
        """`command`: a function that returns the command line. It is called before each start of the engine, because
        vLLM's command line contains the path of the newest version of the weights. `environment`: the environment
        variables of the engine. `grace_s`: seconds between SIGTERM and SIGKILL.
        """
        self.name, self.socket = name, socket
        self._command, self._environment, self._grace_s, self._log = command, environment, grace_s, log
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, on_exit: Callable[[], None]) -> None:
        """Run the engine until `stop` is called. If the engine ends earlier, this method restarts it after a pause.
        `on_exit`: a function that this method calls each time the engine has ended.
        """
        pause = FIRST_PAUSE_S
        while not self._stopping:
            began = time.monotonic()
            code = await self._run_once()
            on_exit()
            if self._stopping:
                return
            if time.monotonic() - began > PAUSE_RESET_AFTER_S:
                pause = FIRST_PAUSE_S
            self._log.error("engine_ended", engine=self.name, code=code, restart_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, MAX_PAUSE_S)

    async def _run_once(self) -> int:
        self.socket.unlink(missing_ok=True)
        wrapper = (sys.executable, "-I", str(PARENT_DEATH), f"{self._grace_s:g}")
        self._process = await asyncio.create_subprocess_exec(
            *wrapper,
            *self._command(),
            env=dict(self._environment),
            stdin=asyncio.subprocess.PIPE,  # if this pipe closes, the wrapper stops the engine
            stdout=sys.stderr,  # the gateway's parent reads the gateway's stdout, so the engine must not write to it
            start_new_session=True,
        )
        self._log.info("engine_started", engine=self.name, pid=self._process.pid)
        try:
            return await self._process.wait()
        finally:
            self._signal(signal.SIGKILL)  # ends the engine if only the wrapper was killed

    def restart(self) -> None:
        """Kill the engine. `run` then starts the engine again."""
        self._log.error("engine_restarted", engine=self.name)
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """Stop the engine and the engine's child processes."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()  # the wrapper (parent_death.py) then stops the process group
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self._grace_s + HELPERS_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
