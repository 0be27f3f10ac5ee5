"""Starts the page of a run (`arlarena view`) as a separate process. A failure of the page does not affect the run."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from collections.abc import Callable

from arlarena.console.launch.child import Child, ProcessReaper, ProcessSpec
from arlarena.console.launch.failures import describe_exit, last_error
from arlarena.console.launch.supervisor import EXIT_PORT
from arlarena.console.rundir import RunDirectory
from arlarena.console.settings import ConsoleSettings, inherited

# While training uses all cores, a process with this niceness gets about a tenth of a core. A new step still appears on
# the page within seconds.
NICE = 10
STOP_S = 2.0


class RunPage:
    """Starts the page, prints its address, and stops it. A page that has ended is not restarted."""

    def __init__(
        self, run: RunDirectory, settings: ConsoleSettings, reaper: ProcessReaper, notice: Callable[[str], None]
    ) -> None:
        self._run, self._settings, self._reaper, self._notice = run, settings, reaper, notice
        self._child: Child | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Start the page in the background. The run does not wait for the page."""
        self._task = asyncio.create_task(self._serve())

    async def _serve(self) -> None:
        try:
            code = await self._serve_on(self._settings.page_port)
            if code == EXIT_PORT and self._settings.page_port:
                code = await self._serve_on(0)
        except Exception as error:  # an error of the page must not end the run
            self._notice(f"the run page cannot be started: {error}; the run continues without a page")
            return
        log, start = self._run.log("page"), self._child.log_start if self._child else 0
        reason = f": {last_error(log, start)}" if code > 0 else ""
        event = f"the run page has ended ({describe_exit(code)}){reason} [log: {log}]"
        self._notice(f"{event}; the run continues without a page")

    async def _serve_on(self, port: int) -> int:
        """Serve the page on `port` (0: a free port) until its process ends. Returns the exit status."""
        child = self._child = await Child.start(self._command(port), self._reaper)
        ended = asyncio.ensure_future(child.wait())
        waiting: set[asyncio.Future[object]] = {ended, child.address}  # type: ignore[arg-type]
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        if child.address.done() and not child.address.cancelled():
            self._notice(f"the run is shown at {child.address.result().url}")
        return await ended

    def _command(self, port: int) -> ProcessSpec:
        module = (sys.executable, "-m", "arlarena.console", "view", str(self._run.path))
        argv = (*module, "--port", str(port), "--nice", str(NICE))
        environment = inherited("page", self._settings.pass_environment)
        return ProcessSpec(argv, self._run.log("page"), environment | {"PYTHONUNBUFFERED": "1"})

    def kill(self) -> None:
        """Kill the page."""
        if self._child is not None:
            self._child.kill()

    async def close(self) -> None:
        """Stop the page."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        if self._child is not None:
            await self._child.stop(STOP_S)
