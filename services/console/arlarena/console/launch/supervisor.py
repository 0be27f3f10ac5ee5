"""Starts services, checks their health, restarts services that exited or hang, and stops services in order."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

from arlarena.console.launch.child import Address, Child, ProcessReaper, ProcessSpec
from arlarena.console.launch.failures import LaunchError, describe_exit, last_error
from arlarena.console.launch.health import HealthCheck
from arlarena.console.settings import ConsoleSettings
from arlarena.proto.text.wording import counted

State = Literal["starting", "up", "restarting", "done", "stopped", "failed"]
Result = TypeVar("Result")

# Exit statuses of services: wrong configuration; a port is in use; an error that would occur again after a restart.
EXIT_CONFIG, EXIT_PORT, EXIT_PERMANENT = 2, 3, 4


@dataclass(frozen=True, slots=True)
class Spec:
    """The specification of a supervised service.

    `command(address, restarts)` builds the command line. `address` is None at the first start. At a restart, `address`
    is the address of the first start, because the port must stay the same. `listens`: True if the service announces an
    address. Such a service is ready when it has announced the address and is healthy. `exits_normally`: exit status 0
    is the normal end of the service.

    `is_stage`: the service is a command of a stage and ends by itself. It is restarted if it hangs or if a signal kills
    it. It is not restarted after a nonzero exit status.
    """

    name: str
    command: Callable[[Address | None, int], ProcessSpec]
    health: HealthCheck | None = None
    listens: bool = True
    exits_normally: bool = False
    is_stage: bool = False


class Supervised(Protocol):
    """The interface of `Service` and `BrokerService`.

    `done`: a future. It gets the result None at the normal end, and a LaunchError at a permanent failure.
    """

    state: State
    restarts: int
    done: asyncio.Future[None]

    async def start(self) -> None:
        """Start the process and wait until it is ready."""

    async def stop(self) -> None:
        """Stop the process and wait for its end."""

    def kill(self) -> None:
        """Kill the process."""


class Service:
    """A supervised service.

    `restarts`: total number of restarts. `failures`: number of restarts since the service last ran for at least
    `restart_reset_after_s`.
    """

    def __init__(
        self, spec: Spec, settings: ConsoleSettings, reaper: ProcessReaper, notice: Callable[[str], None]
    ) -> None:
        self.spec, self.settings = spec, settings
        self.state: State = "starting"
        self.restarts = self.failures = 0
        self.address: Address | None = None
        self.child: Child | None = None
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._reaper, self._notice = reaper, notice
        self._watch: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start the service and wait until it is ready.

        Raises:
            LaunchError: the service does not become ready. The first start is not retried.
        """
        try:
            await self._launch()
        except LaunchError:
            self.state = "failed"
            raise
        self._watch = asyncio.create_task(self._keep_running())

    async def stop(self) -> None:
        """Stop the supervision, then stop the process."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self.child is not None:
            await self.child.stop(self.settings.stop_timeout_s)
        if self.state not in ("done", "failed"):
            self.state = "stopped"
        self.done.cancel()

    async def wait(self) -> None:
        """Wait for the normal end of the service.

        Raises:
            LaunchError: the service failed permanently.
        """
        await asyncio.shield(self.done)

    def kill(self) -> None:
        """Kill the process and do not restart it."""
        if self._watch is not None:
            self._watch.cancel()
        if self.child is not None and self.child.process.returncode is None:
            self.child.kill()

    async def _launch(self) -> None:
        command = self.spec.command(self.address, self.restarts)
        try:
            self.child = child = await Child.start(command, self._reaper)
        except OSError as error:
            raise LaunchError(f"{self.spec.name} cannot be started: {command.argv[0]}: {error.strerror}") from error
        if self.spec.listens:
            await self._wait_until_ready(child)
        self.state = "up"

    async def _wait_until_ready(self, child: Child) -> None:
        limit = self.settings.ready_timeout_s
        exited = asyncio.create_task(child.wait())
        ready = asyncio.create_task(self._become_ready(child))
        try:
            await asyncio.wait((exited, ready), timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            if ready.done() and not ready.cancelled():
                return
            if exited.done():
                raise self._death(child, exited.result())
            await child.stop(self.settings.stop_timeout_s)
            raise LaunchError(self._report(child, f"was not ready after {limit:g} s ([console] ready_timeout_s)"))
        finally:
            exited.cancel()
            ready.cancel()

    async def _become_ready(self, child: Child) -> None:
        self.address = await child.address
        while self.spec.health and await self.spec.health(self.address, child.started, self.settings.health_timeout_s):
            await asyncio.sleep(min(0.1, self.settings.health_interval_s))

    async def _keep_running(self) -> None:
        """Watch the process and restart it after a failure. Returns after a normal end or a permanent failure."""
        while True:
            assert self.child is not None
            began = time.monotonic()
            problem = await self._watch_child(self.child)
            if problem is None:
                return self._finish("done", None)
            if time.monotonic() - began >= self.settings.restart_reset_after_s:
                self.failures = 0
            while problem is not None:
                if problem.final or self.failures >= self.settings.restarts:
                    return self._finish("failed", self._give_up(problem))
                problem = await self._restart(problem)

    async def _restart(self, problem: LaunchError) -> LaunchError | None:
        """Restart the service once. Returns None if it is ready again, else the problem."""
        self.state = "restarting"
        pause = min(self.settings.backoff_max_s, self.settings.backoff_s * 2**self.failures)
        self.failures += 1
        self.restarts += 1
        self._notice(f"{problem}; restart {self.failures} of {self.settings.restarts} in {pause:g} s")
        await asyncio.sleep(pause)
        try:
            await self._launch()
        except LaunchError as error:
            return error
        return None

    def _give_up(self, problem: LaunchError) -> LaunchError:
        if problem.final or self.settings.restarts == 0:
            return problem
        return LaunchError(f"{problem}\n{self.spec.name} failed after {counted(self.settings.restarts, 'restart')}")

    def _finish(self, state: State, problem: LaunchError | None) -> None:
        self.state = state
        if self.done.done():
            return
        if problem is None:
            self.done.set_result(None)
        else:
            self.done.set_exception(problem)

    async def _watch_child(self, child: Child) -> LaunchError | None:
        """Wait until the child exits. Kill the child if it hangs. Returns None after a normal end, else the problem."""
        exited = asyncio.create_task(child.wait())
        hung = asyncio.create_task(self._wait_until_hung(child)) if self.spec.health else None
        try:
            await asyncio.wait([task for task in (exited, hung) if task], return_when=asyncio.FIRST_COMPLETED)
            if exited.done():
                code = exited.result()
                return None if code == 0 and self.spec.exits_normally else self._death(child, code)
            assert hung is not None
            child.kill()
            await exited
            return LaunchError(self._report(child, f"hung and was killed ({hung.result()})"))
        finally:
            exited.cancel()
            if hung:
                hung.cancel()

    async def _wait_until_hung(self, child: Child) -> str:
        """Check the health again and again. Returns the problem after `health_failures` failed checks in a row."""
        assert self.spec.health is not None
        failed = 0
        while True:
            await asyncio.sleep(self.settings.health_interval_s)
            problem = await self.spec.health(self.address, child.started, self.settings.health_timeout_s)
            failed = failed + 1 if problem else 0
            if problem and failed >= self.settings.health_failures:
                return problem

    def _death(self, child: Child, code: int) -> LaunchError:
        event = f"ended ({describe_exit(code)})"
        # A process that is killed by a signal logs no final error. The end of its log does not contain the cause.
        message = self._report(child, event) if code >= 0 else f"{self.spec.name} {event} [log: {child.command.log}]"
        final = code in (EXIT_CONFIG, EXIT_PERMANENT) or (self.spec.is_stage and code > 0)
        return LaunchError(message, code if code in (EXIT_CONFIG, EXIT_PORT) else 1, final=final)

    def _report(self, child: Child, event: str) -> str:
        log = child.command.log
        return f"{self.spec.name} {event}: {last_error(log, child.log_start)} [log: {log}]"


class Supervisor:
    """All services of a run, in the order of their start."""

    def __init__(self, settings: ConsoleSettings, notice: Callable[[str], None]) -> None:
        self.settings, self.services = settings, dict[str, Supervised]()
        self.reaper = ProcessReaper(settings.stop_timeout_s)
        self._notice = notice

    async def start(self, spec: Spec) -> Service:
        """Start a service and wait until it is ready. Returns the service. Raises LaunchError (see `add`)."""
        service = Service(spec, self.settings, self.reaper, self._notice)
        await self.add(spec.name, service)
        return service

    async def add(self, name: str, service: Supervised) -> None:
        """Start and supervise `service`. Waits until it is ready.

        Raises:
            LaunchError: the service does not become ready, or another service fails permanently before it is ready.
        """
        self.services[name] = service
        await self.race(service.start())

    async def stop(self, name: str) -> None:
        """Stop a service, then remove it from `services`. While the service stops, `kill` can still kill it."""
        if service := self.services.get(name):
            await service.stop()
            self.services.pop(name, None)

    async def run(self, name: str, command: ProcessSpec, health: HealthCheck | None, timeout_s: float) -> None:
        """Run a stage's command as the service `name`, and wait for its end.

        Raises:
            LaunchError: the command fails or takes longer than `timeout_s`, or a service fails permanently.
        """
        spec = Spec(name, lambda address, restarts: command, health, listens=False, exits_normally=True, is_stage=True)
        stage = Service(spec, self.settings, self.reaper, self._notice)
        try:
            await self.add(name, stage)
            await asyncio.wait_for(self.race(stage.wait()), timeout_s)
        except TimeoutError:
            limit = f"{timeout_s:g} s ([console] stage_timeout_s)"
            raise LaunchError(f"{name} took longer than {limit} [log: {command.log}]") from None
        finally:
            await self.stop(name)

    async def race(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Await `work` and return its result. If a service fails permanently before `work` ends, cancel `work`.

        Raises:
            LaunchError: a service has failed permanently.
        """
        task = asyncio.ensure_future(work)
        ends = [service.done for service in self.services.values() if not service.done.done()]
        try:
            waiting: set[asyncio.Future[Any]] = {task, *ends}
            while not task.done():
                finished, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
                for end in finished - {task}:
                    if not end.cancelled() and (problem := end.exception()):
                        raise problem
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def close(self) -> None:
        """Stop all services in reverse order of their start."""
        try:
            for name in reversed(list(self.services)):
                await self.stop(name)
        finally:
            self.kill()
            self.reaper.close()

    def kill(self) -> None:
        """Kill all services."""
        for service in self.services.values():
            service.kill()
