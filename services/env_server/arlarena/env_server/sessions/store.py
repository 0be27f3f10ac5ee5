"""Stores sessions with their episodes and expiry times. This module does not depend on HTTP or on an environment."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from typing import Self

import msgspec

from arlarena.env_server.errors import ApiError, at_capacity, client_at_limit, draining, invalid, unknown_session
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environment.protocols import Episode
from arlarena.proto.env_api import OpenedSession, StepResult

Clock = Callable[[], float]


class LastStep(msgspec.Struct, frozen=True):
    """The most recent step of a session, and its reply. A request that repeats this step gets the reply again. `index`:
    the number of the step in the episode, from 0.
    """

    index: int
    text: str
    result: StepResult


@dataclass(frozen=True, slots=True)
class Caller:
    """The client that sent a request. `address`: the client's IP address. `tenant`: the tenant of the token in the
    request (see `api.access`), None if the server has no tokens. `authorization`: the header with the token. Requests
    that are forwarded to another pod contain this header.
    """

    address: str
    tenant: str | None = None
    authorization: str | None = field(default=None, repr=False)

    @property
    def client(self) -> str:
        """The client's name for the limit `max_sessions_per_client`: the tenant or, without tokens, the address."""
        return self.address if self.tenant is None else f"token {self.tenant}"


UNKNOWN_CALLER = Caller("unknown")


def _set_event() -> asyncio.Event:
    event = asyncio.Event()
    event.set()
    return event


@dataclass(slots=True, eq=False)
class ServerSession:
    """One session of a client.

    `ttl_s`: the idle time in seconds after which the session expires. `expires_at`: seconds on the store's clock.
    `lock`: held while an operation runs. `detached`: set while no socket uses the session. `hang_up`: sends an error
    message to the session's socket and closes the socket. `failure`: set if an error has made the episode unusable; the
    client must then reset the session. `group_id`, `episode_id`: labels that the client chose.
    """

    id: str
    ttl_s: float
    expires_at: float
    group_id: str | None = None
    caller: Caller = UNKNOWN_CALLER  # the client that opened the session
    tenant: str | None = None  # only this tenant can access the session
    episode: Episode | None = None
    episode_id: str | None = None
    last: LastStep | None = None
    failure: ApiError | None = None
    detached: asyncio.Event = field(default_factory=_set_event)
    hang_up: Callable[[str], Awaitable[None]] | None = None
    closing: bool = False  # True: the session ends as soon as its socket is closed
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def attached(self) -> bool:
        """True while a socket uses the session."""
        return not self.detached.is_set()

    @property
    def steps(self) -> int:
        """The number of steps taken in the current episode."""
        return self.episode.steps if self.episode else 0


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """The settings of a store. Times are in seconds.

    `capacity`: the maximum number of sessions. `max_per_client`: the maximum number of sessions of one client (see
    `Caller.client`), None for no limit. `default_ttl_s`, `max_ttl_s`: default and maximum of a session's `ttl_s`.
    `retry_after_s`: the time after which a refused client should try again. `id_prefix`: the beginning of session ids.
    """

    capacity: int
    default_ttl_s: float
    max_ttl_s: float
    retry_after_s: float
    id_prefix: str = "0"
    max_per_client: int | None = None

    @classmethod
    def of(cls, settings: EnvironmentSettings) -> Self:
        """Returns the store's part of the server's settings."""
        s = settings
        return cls(
            s.capacity, s.session_ttl_s, s.max_session_ttl_s, s.retry_after_s, s.shard, s.max_sessions_per_client
        )


class SessionStore:
    """All sessions of one server, in memory.

    `clock`: returns monotonic time in seconds. `wall_clock`: returns Unix time in seconds. `on_expired`: is called with
    the sessions that have expired.
    """

    def __init__(
        self,
        settings: StoreSettings,
        clock: Clock = time.monotonic,
        wall_clock: Clock = time.time,
        on_expired: Callable[[list[ServerSession]], None] = lambda _: None,
    ) -> None:
        self.settings = settings
        self._clock = clock
        self._wall_clock = wall_clock
        self._on_expired = on_expired
        self._sessions: dict[str, ServerSession] = {}
        self.draining = False  # True: the server is shutting down and opens no sessions

    def __len__(self) -> int:
        return len(self._sessions)

    def __iter__(self) -> Iterator[ServerSession]:
        return iter(list(self._sessions.values()))

    def open(
        self,
        count: int,
        *,
        ttl_s: float | None = None,
        group_id: str | None = None,
        caller: Caller = UNKNOWN_CALLER,
    ) -> list[ServerSession]:
        """Open `count` sessions. If an error occurs, no session is opened. If there is no room for all of them, the
        expired sessions are ended first.

        Raises:
            ApiError: 503 if the store is full or the server is shutting down. 429 if the client would exceed its limit
                of sessions. 422 if `ttl_s` or `count` is above its limit.
        """
        if self.draining:
            raise draining()
        ttl = self.settings.default_ttl_s if ttl_s is None else ttl_s
        if ttl > self.settings.max_ttl_s:
            raise invalid(f"ttl_s = {ttl:g} is above this server's maximum of {self.settings.max_ttl_s:g} s")
        if count > self.settings.capacity:
            raise invalid(f"{count} sessions are more than this server's capacity of {self.settings.capacity}")
        if count > self.free():
            self.reap()
        if count > self.free():
            raise at_capacity(count, self.free(), self.settings.capacity, self.settings.retry_after_s)
        self._check_client(caller.client, count)
        opened = [self._new(ttl, group_id, caller) for _ in range(count)]
        self._sessions.update({session.id: session for session in opened})
        return opened

    def free(self) -> int:
        """Returns the number of sessions that can be opened now."""
        return self.settings.capacity - len(self._sessions)

    def _check_client(self, client: str, count: int) -> None:
        limit = self.settings.max_per_client
        if limit is None:
            return
        held = sum(session.caller.client == client for session in self._sessions.values())
        if held + count > limit:
            raise client_at_limit(client, count, held, limit, self.settings.retry_after_s)

    def _new(self, ttl_s: float, group_id: str | None, caller: Caller) -> ServerSession:
        session_id = f"{self.settings.id_prefix}-{uuid.uuid4().hex}"
        return ServerSession(session_id, ttl_s, self._clock() + ttl_s, group_id, caller, caller.tenant)

    def of(self, tenant: str | None) -> list[ServerSession]:
        """Returns the sessions of a tenant."""
        return [session for session in self._sessions.values() if session.tenant == tenant]

    def get(self, session_id: str, tenant: str | None = None) -> ServerSession:
        """Returns a session of the tenant. The session then expires `ttl_s` seconds from now.

        Raises:
            ApiError: 404 if the tenant has no such session.
        """
        session = self._sessions.get(session_id)
        if session is None or session.tenant != tenant or self._is_expired(session):
            raise unknown_session(session_id)
        self.touch(session)
        return session

    def touch(self, session: ServerSession) -> None:
        """Let the session expire `ttl_s` seconds from now."""
        session.expires_at = self._clock() + session.ttl_s

    def shorten(self, session: ServerSession, seconds: float) -> None:
        """Let the session expire in at most `seconds`. Each later use of the session restarts its `ttl_s`."""
        session.expires_at = min(session.expires_at, self._clock() + seconds)

    def close(self, session_id: str, tenant: str | None = None) -> None:
        """End a session of the tenant.

        Raises:
            ApiError: 404 if the tenant has no such session.
        """
        session = self._sessions.get(session_id)
        if session is None or session.tenant != tenant:
            raise unknown_session(session_id)
        del self._sessions[session_id]

    def discard(self, sessions: list[ServerSession]) -> None:
        """End these sessions. Sessions that have already ended are ignored."""
        for session in sessions:
            self._sessions.pop(session.id, None)

    def _is_expired(self, session: ServerSession) -> bool:
        # A session does not expire while an operation runs.
        return session.expires_at <= self._clock() and not session.lock.locked()

    def reap(self) -> None:
        """End all expired sessions."""
        idle = [session for session in self._sessions.values() if self._is_expired(session)]
        if idle:
            self.discard(idle)
            self._on_expired(idle)

    def lease_expires_at(self, session: ServerSession) -> float:
        """Returns the Unix time in seconds at which the session expires if nobody uses it."""
        return self._wall_clock() + session.expires_at - self._clock()

    def describe(self, session: ServerSession, result: StepResult | None = None) -> OpenedSession:
        """Returns the description of an open session for a reply. `result`: the first observation of a new episode."""
        return OpenedSession(
            session_id=session.id,
            lease_expires_at=self.lease_expires_at(session),
            group_id=session.group_id,
            task_id=session.episode.task.id if session.episode else None,
            step_count=session.steps,
            result=result,
        )
