"""Opens sessions and plays episodes; restarts an episode after a failure of a service.

A failure of the environment or inference server is never a result. The episode restarts on a new session when both
services answer again. After a bounded number of restarts, `InfraFailure` tells the caller to return the work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from arlarena.client.environments import EnvironmentClient, Session
from arlarena.client.errors import AtCapacity, Refused, ServiceError, Unavailable
from arlarena.client.policy import PolicyClient
from arlarena.client.transport import HttpTransport
from arlarena.proto.backoff import pauses
from arlarena.proto.telemetry import Logger
from arlarena.rollout.episode import Assignment, EpisodeRecord, Policy, play
from arlarena.rollout.settings import RolloutSettings

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0


class InfraFailure(RuntimeError):
    """A service stayed unavailable for too long, or failed an episode too often. The episode is discarded."""


class ServicesDown(InfraFailure):
    """A service stayed unavailable or full for `service_retry_timeout_s`; other episodes would fail too."""


@dataclass(slots=True)
class SessionSlot:
    """A session that plays one episode at a time, reopened when it is lost. `restarts` counts restarted episodes."""

    session: Session | None = None
    restarts: int = 0


class Runner:
    """Plays episodes against an environment server and an inference server (None if no inference server is used)."""

    def __init__(
        self, environments: EnvironmentClient, inference: PolicyClient | None, settings: RolloutSettings, log: Logger
    ) -> None:
        self.environments, self.inference, self.settings, self.log = environments, inference, settings, log
        self._abandoned: set[asyncio.Task[None]] = set()

    async def wait_ready(self) -> None:
        """Wait until the services answer.

        Raises:
            ServicesDown: a service is not ready within `service_retry_timeout_s`.
            Refused: a service answers 4xx, for example because another kind of service listens there.
        """
        services = [("environment server", self.environments.transport, "/ready")]
        if self.inference is not None:
            services.append(("inference", self.inference.transport, "/health"))
        deadline = time.monotonic() + self.settings.service_retry_timeout_s
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        for name, transport, path in services:
            while (problem := await _problem(transport, path)) is not None:
                if time.monotonic() >= deadline:
                    what = "is not ready after" if problem.answered else "did not answer within"
                    hint = "" if problem.answered else "; is it running?"
                    raise ServicesDown(
                        f"{name} at {transport.url} {what} {self.settings.service_retry_timeout_s:g} s: {problem}{hint}"
                    )
                await asyncio.sleep(next(waits))

    async def open(self, count: int) -> list[SessionSlot]:
        """Open `count` slots, all or none. Waits while the server is full or unavailable.

        Raises:
            ServicesDown: no capacity within `service_retry_timeout_s`.
            Refused: `count` is above the server's limits.
        """
        deadline = time.monotonic() + self.settings.service_retry_timeout_s
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        while True:
            try:
                sessions = await self.environments.open(count, ttl_s=self.settings.session_ttl_s)
                return [SessionSlot(session) for session in sessions]
            except Unavailable as error:
                wait = max(next(waits), error.retry_after_s if isinstance(error, AtCapacity) else 0.0)
                if time.monotonic() + wait > deadline:
                    raise ServicesDown(
                        f"no {count} sessions within {self.settings.service_retry_timeout_s:g} s: {error}"
                    ) from error
            await asyncio.sleep(wait)

    async def open_up_to(self, count: int) -> list[SessionSlot]:
        """Open as many slots as the server has room for, at least 1, at most `count`. Errors as in `open`."""
        while count > 1:
            try:
                sessions = await self.environments.open(count, ttl_s=self.settings.session_ttl_s)
                return [SessionSlot(session) for session in sessions]
            except Unavailable:
                count //= 2
        return await self.open(1)

    async def close(self, slots: Sequence[SessionSlot]) -> None:
        """Close the sessions of `slots` in one request; `connect_timeout_s` limits it for a server that is down."""
        sessions = [slot.session for slot in slots if slot.session is not None]
        for slot in slots:
            slot.session = None
        if sessions:
            closing = [asyncio.ensure_future(session.close()) for session in sessions]
            await asyncio.wait(closing, timeout=self.settings.connect_timeout_s)
            for task in closing:
                task.cancel()

    async def episode(self, slot: SessionSlot, assignment: Assignment, policy: Policy) -> EpisodeRecord:
        """Play one episode on `slot`, from the start again after each failure of a service.

        Raises:
            InfraFailure: it failed `episode_retries` + 1 times, or a service stayed unavailable.
            Refused: a service rejects the request; a repetition would fail too.
        """
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        for attempt in range(self.settings.episode_retries + 1):
            if slot.session is None:
                slot.session = (await self.open(1))[0].session
            assert slot.session is not None
            try:
                return await play(slot.session, assignment, policy)
            except Refused:
                raise
            except ServiceError as error:
                failure = error
            slot.restarts += 1
            self.log.warning("episode_restarts", episode=assignment.id, attempt=attempt + 1, reason=str(failure))
            self._abandon(slot)
            await asyncio.sleep(next(waits))
            await self.wait_ready()
        raise InfraFailure(
            f"episode {assignment.id} failed {self.settings.episode_retries + 1} times; last: {failure}"
        ) from failure

    def _abandon(self, slot: SessionSlot) -> None:
        """Close a session of unknown state in the background: a hanging server must not delay the next attempt."""
        task = asyncio.get_running_loop().create_task(self.close([SessionSlot(slot.session)]))
        slot.session = None
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)


async def _problem(transport: HttpTransport, path: str) -> Unavailable | None:
    """Send one readiness request. Returns the error, or None if the service is ready.

    Raises:
        Refused: it answers 4xx, which is permanent.
    """
    try:
        answer = await transport.request("GET", path, timeout_s=transport.timeouts.connect_s)
    except Unavailable as error:
        return error
    if answer.status != 200:
        raise answer.refusal()
    return None
