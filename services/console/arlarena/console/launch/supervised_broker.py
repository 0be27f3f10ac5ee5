"""Supervises the run's broker: restarts a local server with its data, and only checks an external server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable

from arlarena.console.launch.broker import Broker, BrokerError, ExternalBroker, check_broker
from arlarena.console.launch.child import ProcessReaper
from arlarena.console.launch.failures import LaunchError
from arlarena.console.launch.supervisor import State
from arlarena.console.settings import ConsoleSettings


class BrokerService:
    """Supervises a broker. It has the interface `supervisor.Supervised`."""

    def __init__(
        self,
        broker: Broker | ExternalBroker,
        settings: ConsoleSettings,
        reaper: ProcessReaper,
        notice: Callable[[str], None],
    ) -> None:
        self.state: State = "starting"
        self.restarts = 0
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._broker, self._settings, self._reaper, self._notice = broker, settings, reaper, notice
        self._group: int | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def url(self) -> str:
        """The URL of the broker for the services."""
        return self._broker.url

    async def start(self) -> None:
        """Start the local server, or check the external server.

        Raises:
            LaunchError: there is no usable broker.
        """
        try:
            await self._start()
        except BrokerError as error:
            self.state = "failed"
            raise LaunchError(f"broker: {error}") from error
        self._watch = asyncio.create_task(self._keep_running())

    async def _start(self) -> None:
        await asyncio.to_thread(self._broker.start)
        if self._broker.process is not None:
            self._group = self._broker.process.pid  # the server is the leader of its own session
            self._reaper.add(self._group)
        self.state = "up"

    async def stop(self) -> None:
        """Stop the supervision, then stop a local server. The server writes its data to disk before it exits.

        An external server keeps running.
        """
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await asyncio.to_thread(self._broker.stop)
        self._forget()
        if self.state != "failed":
            self.state = "stopped"
        self.done.cancel()

    def _forget(self) -> None:
        if self._group is not None:
            self._reaper.remove(self._group)
            self._group = None

    def kill(self) -> None:
        """Kill the local server and do not restart it."""
        if self._watch is not None:
            self._watch.cancel()
        self._kill_server()

    def _kill_server(self) -> None:
        if isinstance(self._broker, Broker) and self._broker.running:
            assert self._broker.process is not None
            self._broker.process.kill()

    async def _keep_running(self) -> None:
        failed = 0
        while True:
            await asyncio.sleep(self._settings.health_interval_s)
            problem = await asyncio.to_thread(self._problem)
            dead = isinstance(self._broker, Broker) and not self._broker.running
            failed = failed + 1 if problem else 0
            if problem is None or not (dead or failed >= self._settings.health_failures):
                continue
            if isinstance(self._broker, ExternalBroker) or self.restarts >= self._settings.restarts:
                return self._fail(problem)
            failed = await self._restart(problem)

    async def _restart(self, problem: str) -> int:
        """Kill the server and start it again on the same port and data.

        Returns the number of failed checks for `_keep_running`. After a successful start, this number is 0. If the
        start fails, it is `health_failures`. The next failed check then causes another restart.
        """
        self.state = "restarting"
        self.restarts += 1
        self._notice(f"broker: {problem}; restart {self.restarts} of {self._settings.restarts}")
        self._kill_server()
        try:
            await asyncio.to_thread(self._broker.stop)
            self._forget()
            await self._start()
        except BrokerError:
            return self._settings.health_failures
        return 0

    def _problem(self) -> str | None:
        try:
            check_broker(self._broker.url, timeout_s=self._settings.health_timeout_s)
        except BrokerError as error:
            return str(error)
        return None

    def _fail(self, problem: str) -> None:
        self.state = "failed"
        if not self.done.done():
            self.done.set_exception(LaunchError(f"broker: {problem}"))
