"""Opens sessions, plays episodes, and restarts an episode after a failure of a service.

If the environment server or the policy server fails, the episode is not counted as a result. The episode restarts in a
new session when both servers respond again. After the maximum number of restarts, `InfraFailure` is raised. A worker
then returns the group to the queue, and an evaluation counts an error.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import SecretStr

from arlarena.client.environments import EnvironmentClient, Session
from arlarena.client.errors import AtCapacity, Refused, ServiceError, Unavailable
from arlarena.client.policy import PolicyClient
from arlarena.client.transport import HttpTransport, Timeouts
from arlarena.proto.backoff import pauses
from arlarena.proto.telemetry import Logger
from arlarena.rollout.episode import Assignment, EpisodeRecord, Policy, play
from arlarena.rollout.settings import RolloutSettings

# The first and the longest pause between two attempts, in seconds. Pauses grow from the first to the longest.
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.25, 5.0


class InfraFailure(RuntimeError):
    """A service was unavailable for too long, or services failed too often in one episode. The episode is discarded."""


class ServicesDown(InfraFailure):
    """A service was unavailable or full for `service_retry_timeout_s`. Other episodes would also fail."""


def environment_client(
    url: str, settings: RolloutSettings, token: SecretStr | None, pods: str | None = None
) -> EnvironmentClient:
    """Returns a client of the environment server at `url`, with the timeouts, retries and batches of `settings`.

    `pods`: URL of the server's pods, with {pod} in place of the pod's number.

    Raises:
        ValueError: an argument is invalid.
    """
    return EnvironmentClient(
        url,
        Timeouts(settings.connect_timeout_s, settings.environment_timeout_s),
        retries=settings.request_retries,
        batch_window_s=settings.batch_window_s,
        batch_size=settings.batch_size,
        token=token.get_secret_value() if token else None,
        pods=pods,
    )


@dataclass(slots=True)
class SessionSlot:
    """A slot for one session. The session plays one episode at a time. If a service fails, the slot gets a new session.

    `restarts`: number of times that an episode on this slot was restarted.
    """

    session: Session | None = None
    restarts: int = 0


class Runner:
    """Plays episodes with an environment server and a policy server. `inference`: None if no policy server is used."""

    def __init__(
        self, environments: EnvironmentClient, inference: PolicyClient | None, settings: RolloutSettings, log: Logger
    ) -> None:
        self.environments, self.inference, self.settings, self.log = environments, inference, settings, log
        self._abandoned: set[asyncio.Task[None]] = set()

    async def wait_ready(self, timeout_s: float | None = None) -> None:
        """Wait until the services are ready, for `timeout_s` seconds (default: `service_retry_timeout_s`).

        Raises:
            ServicesDown: a service is not ready within this time.
            Refused: a service responds with 4xx, for example because the URL belongs to another kind of service.
        """
        services = [("environment server", self.environments.transport, "/ready")]
        if self.inference is not None:
            services.append(("inference", self.inference.transport, "/health"))
        timeout_s = self.settings.service_retry_timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + timeout_s
        waits = pauses(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        for name, transport, path in services:
            while (problem := await _readiness_error(transport, path)) is not None:
                if time.monotonic() >= deadline:
                    what = "is not ready after" if problem.answered else "did not answer within"
                    hint = "" if problem.answered else "; is it running?"
                    raise ServicesDown(f"{name} at {transport.url} {what} {timeout_s:g} s: {problem}{hint}")
                await asyncio.sleep(next(waits))

    async def open(self, count: int) -> list[SessionSlot]:
        """Open `count` sessions, and return one slot for each session. The server opens either all of them or none.

        Waits while the server is full or unavailable.

        Raises:
            ServicesDown: the server was full or unavailable for `service_retry_timeout_s`.
            Refused: the server refuses the request, for example because `count` is above a limit of the server.
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
                    limit = self.settings.service_retry_timeout_s
                    raise ServicesDown(f"{count} sessions could not be opened within {limit:g} s: {error}") from error
            await asyncio.sleep(wait)

    async def open_up_to(self, count: int) -> list[SessionSlot]:
        """Open `count` sessions. If the server is full or unavailable, try again with half the number, down to 1.

        Raises the errors of `open`.
        """
        while count > 1:
            try:
                sessions = await self.environments.open(count, ttl_s=self.settings.session_ttl_s)
                return [SessionSlot(session) for session in sessions]
            except Unavailable:
                count //= 2
        return await self.open(1)

    async def close(self, slots: Sequence[SessionSlot]) -> None:
        """Close the sessions of `slots` in one request. Returns after at most `connect_timeout_s`."""
        sessions = [slot.session for slot in slots if slot.session is not None]
        for slot in slots:
            slot.session = None
        if sessions:
            closing = [asyncio.ensure_future(session.close()) for session in sessions]
            await asyncio.wait(closing, timeout=self.settings.connect_timeout_s)
            for task in closing:
                task.cancel()

    async def episode(self, slot: SessionSlot, assignment: Assignment, policy: Policy) -> EpisodeRecord:
        """Play one episode on `slot`. Restarts the episode after each failure of a service.

        Raises:
            InfraFailure: the episode failed `episode_retries` + 1 times.
            ServicesDown: a service was unavailable for `service_retry_timeout_s`.
            Refused: a service rejects the request. A retry would also fail.
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
        """Remove the session from `slot` and close it in the background.

        If the server hangs, a close request in the foreground would delay the next attempt.
        """
        task = asyncio.get_running_loop().create_task(self.close([SessionSlot(slot.session)]))
        slot.session = None
        self._abandoned.add(task)
        task.add_done_callback(self._abandoned.discard)


async def _readiness_error(transport: HttpTransport, path: str) -> Unavailable | None:
    """Send one readiness request. Returns the error, or None if the service is ready.

    Raises:
        Refused: the service responds with 4xx. A retry would also fail.
    """
    try:
        answer = await transport.request("GET", path, timeout_s=transport.timeouts.connect_s)
    except Unavailable as error:
        return error
    if answer.status != 200:
        raise answer.refusal()
    return None
