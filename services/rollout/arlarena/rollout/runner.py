"""Episodes in spite of failing services: open sessions, play, and play again from the start where a service failed.

A failure of the environment server or of inference is never a result. The episode starts afresh on a new session, a
bounded number of times, once both services answer again; after that `InfraFailure` tells the caller to give the work
back.
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
    """A service stayed away longer than the patience, or failed an episode too often. Nothing of the episode counts."""


class ServicesDown(InfraFailure):
    """A service stayed away, or full, longer than the patience: other episodes would fare no better."""


@dataclass(slots=True)
class SessionSlot:
    """A place for one episode after another: a session that is kept while it lives. `restarts` counts episodes begun
    again.
    """

    session: Session | None = None
    restarts: int = 0


class Runner:
    """Plays episodes against one environment server and one inference server (None where an expert plays)."""

    def __init__(
        self, environments: EnvironmentClient, inference: PolicyClient | None, settings: RolloutSettings, log: Logger
    ) -> None:
        self.environments, self.inference, self.settings, self.log = environments, inference, settings, log
        self._abandoned: set[asyncio.Task[None]] = set()

    async def wait_ready(self) -> None:
        """Return once the services answer.

        Raises:
            ServicesDown: one of them does not within `service_retry_timeout_s`.
            Refused: one of them says that the request is wrong (4xx), as where something else listens there.
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
        """`count` seats with open sessions, all or none; waits while the server is full or away.

        Raises:
            ServicesDown: no room within `service_retry_timeout_s`.
            Refused: the server never grants that many.
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
        """As many seats as the server has room for, at most `count`; waits for the first. Errors as in `open`."""
        while count > 1:
            try:
                sessions = await self.environments.open(count, ttl_s=self.settings.session_ttl_s)
                return [SessionSlot(session) for session in sessions]
            except Unavailable:
                count //= 2
        return await self.open(1)

    async def close(self, seats: Sequence[SessionSlot]) -> None:
        """Close the sessions of `seats`, all in one request; a server that is away gets `connect_timeout_s` and no
        more.
        """
        sessions = [seat.session for seat in seats if seat.session is not None]
        for seat in seats:
            seat.session = None
        if sessions:
            closing = [asyncio.ensure_future(session.close()) for session in sessions]
            await asyncio.wait(closing, timeout=self.settings.connect_timeout_s)
            for task in closing:
                task.cancel()

    async def episode(self, seat: SessionSlot, assignment: Assignment, policy: Policy) -> EpisodeRecord:
        """Play on `seat`, again from the start after each failure of a service.

        Raises:
            InfraFailure: it failed `episode_retries` + 1 times, or a service stayed away.
            Refused: a service says that the request is wrong, which no repetition mends.
        """
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        for attempt in range(self.settings.episode_retries + 1):
            if seat.session is None:
                seat.session = (await self.open(1))[0].session
            assert seat.session is not None
            try:
                return await play(seat.session, assignment, policy)
            except Refused:
                raise
            except ServiceError as error:
                failure = error
            seat.restarts += 1
            self.log.warning("episode_restarts", episode=assignment.id, attempt=attempt + 1, reason=str(failure))
            self._abandon(seat)
            await asyncio.sleep(next(waits))
            await self.wait_ready()
        raise InfraFailure(
            f"episode {assignment.id} failed {self.settings.episode_retries + 1} times; last: {failure}"
        ) from failure

    def _abandon(self, seat: SessionSlot) -> None:
        """Close a session of unknown state in the background, so that a hanging server does not hold up the next
        attempt.
        """
        task = asyncio.get_running_loop().create_task(self.close([SessionSlot(seat.session)]))
        seat.session = None
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)


async def _problem(transport: HttpTransport, path: str) -> Unavailable | None:
    """Why a service is not ready; None if it is. Asked once.

    Raises:
        Refused: it answers 4xx, which waiting does not change.
    """
    try:
        answer = await transport.request("GET", path, timeout_s=transport.timeouts.connect_s)
    except Unavailable as error:
        return error
    if answer.status != 200:
        raise answer.refusal()
    return None
