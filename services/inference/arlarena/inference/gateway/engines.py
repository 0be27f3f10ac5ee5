"""Engines that a gateway starts: each behind a socket in a private folder, and started again if it ends."""

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

PARENT_DEATH = Path(__file__).with_name("parent_death.py")
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
FORGIVE_AFTER_S = 60.0  # an engine that lived this long is started again at once
HELPERS_S = 5.0  # for helper processes of an engine that has ended


class LocalEngine:
    """One engine process. `socket`: the Unix socket on which it serves HTTP."""

    def __init__(
        self,
        name: str,
        command: Callable[[], Sequence[str]],
        environment: Mapping[str, str],
        socket: Path,
        grace_s: float,
        log: Logger,
    ) -> None:
        """`command` is asked at each start: the newest weights may be others. `grace_s`: from SIGTERM to SIGKILL."""
        self.name, self.socket = name, socket
        self._command, self._environment, self._grace_s, self._log = command, environment, grace_s, log
        self._stopping = False
        self._process: asyncio.subprocess.Process | None = None

    async def run(self, ended: Callable[[], None]) -> None:
        """Keep it running until `stop`. `ended` is called whenever it has ended."""
        pause = FIRST_PAUSE_S
        while not self._stopping:
            began = time.monotonic()
            code = await self._once()
            ended()
            if self._stopping:
                return
            if time.monotonic() - began > FORGIVE_AFTER_S:
                pause = FIRST_PAUSE_S
            self._log.error("engine_ended", engine=self.name, code=code, restart_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)

    async def _once(self) -> int:
        self.socket.unlink(missing_ok=True)
        wrapper = (sys.executable, "-I", str(PARENT_DEATH), f"{self._grace_s:g}")
        self._process = await asyncio.create_subprocess_exec(
            *wrapper,
            *self._command(),
            env=dict(self._environment),
            stdin=asyncio.subprocess.PIPE,
            stdout=sys.stderr,  # our own output is for our parent
            start_new_session=True,
        )
        self._log.info("engine_started", engine=self.name, pid=self._process.pid)
        try:
            return await self._process.wait()
        finally:
            self._signal(signal.SIGKILL)  # whatever is left of its group, if the wrapper was killed

    def renew(self) -> None:
        """End it at once; it is started again."""
        self._log.error("engine_renewed", engine=self.name)
        self._signal(signal.SIGKILL)

    async def stop(self) -> None:
        """End it and the processes that it started."""
        self._stopping = True
        process = self._process
        if process is None or process.returncode is not None:
            return
        assert process.stdin is not None
        process.stdin.close()  # the wrapper ends everything
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), self._grace_s + HELPERS_S)
        self._signal(signal.SIGKILL)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, number)
