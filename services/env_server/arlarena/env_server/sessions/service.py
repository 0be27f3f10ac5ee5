"""The operations of the server, such as open, reset and step. HTTP, WebSocket, MCP and batches use this module.

A non-blocking step runs on the event loop: it takes about 10 us, and a thread would add about 100 us. A small pool of
threads runs work that may take seconds: the start of an episode, the expert, and the steps of an environment with the
attribute `blocking`. Threads change only copies of episodes. Only the event loop changes a session, so the session is
unchanged if the work in a thread times out.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from traceback import format_exception
from typing import TypeVar

import msgspec

from arlarena.env_server import errors
from arlarena.env_server.api.access import TenantTokens
from arlarena.env_server.cluster.peers import Peers, Pods
from arlarena.env_server.errors import ApiError, invalid
from arlarena.env_server.sessions.blocking_calls import dependency_error, run_in_pool
from arlarena.env_server.sessions.episode_starts import EpisodeStarts
from arlarena.env_server.sessions.frames import FrameStore
from arlarena.env_server.sessions.health import ServerHealth
from arlarena.env_server.sessions.metrics import EnvServerMetrics
from arlarena.env_server.sessions.reset_cache import Start
from arlarena.env_server.sessions.result_check import check_result
from arlarena.env_server.sessions.snapshots import SnapshotStore
from arlarena.env_server.sessions.store import (
    UNKNOWN_CALLER,
    Caller,
    Clock,
    LastStep,
    ServerSession,
    SessionStore,
    StoreSettings,
)
from arlarena.env_server.sessions.thread_pool import WorkPool
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environment.protocols import (
    EnvironmentFactory,
    EnvironmentFailure,
    Episode,
    ExpertUnavailable,
    Resources,
)
from arlarena.environment.registry import info_of
from arlarena.proto.env_api import (
    Capacity,
    CreateSessions,
    ExpertReply,
    ForkRequest,
    OpenedSession,
    ResetSpec,
    RestoreRequest,
    Snapshot,
    State,
    StepResult,
)
from arlarena.proto.shared_settings import EVERY_SPLIT
from arlarena.proto.telemetry import Logger

T = TypeVar("T")

THREADS = 2  # enough for resets; an environment with blocking steps can set its attribute `threads`


class EnvironmentService:
    """One environment and its sessions."""

    def __init__(
        self,
        factory: EnvironmentFactory,
        settings: EnvironmentSettings,
        log: Logger,
        clock: Clock = time.monotonic,
        peers: Peers | None = None,
        pods: Pods | None = None,
    ) -> None:
        self.peers, self.pods = peers, pods
        self.factory = factory
        self.settings = settings
        self.info = info_of(factory, settings.name)
        self.log = log
        self.metrics = EnvServerMetrics(self.info.name)
        self.metrics.capacity.set(settings.capacity)
        self.store = SessionStore(StoreSettings.of(settings), clock, on_expired=self._on_expired)
        self.snapshots = SnapshotStore(settings.max_snapshots, settings.snapshot_ttl_s, settings.shard, clock)
        evaluation = {split.name for split in self.info.splits if split.evaluation}
        every = EVERY_SPLIT in settings.expert_splits
        self._splits_without_expert = set() if every else evaluation - set(settings.expert_splits)
        self.frames = FrameStore(settings.frame_cache_bytes)
        self._closing: set[asyncio.Future[None]] = set()
        self.pool = WorkPool(settings.pool_threads or int(getattr(factory, "threads", THREADS)), "episode")
        self.metrics.threads.set(self.pool.size)
        self._starts = EpisodeStarts(factory, settings, self.metrics, self.pool)
        self.health = ServerHealth(factory, self.pool, settings.lost_threads_timeout_s, clock)
        self.access = TenantTokens(settings, log)
        self.large_batches = asyncio.Lock()  # held during the first pass of a large batch

    def close(self) -> None:
        """Refuse new sessions, stop the threads, and stop the environment's external processes."""
        self.store.draining = True
        self.pool.close()
        if isinstance(self.factory, Resources):
            self.factory.close()

    def hang_up(self, sessions: Iterable[ServerSession], reason: str) -> None:
        """Begin to close the sockets of `sessions`. `reason`: the error message that the clients get."""
        for session in sessions:
            if session.hang_up is not None:
                task = asyncio.ensure_future(session.hang_up(reason))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def disconnect_all(self) -> None:
        """Close the socket of every session. Returns when all sockets are closed or did not close in time."""
        self.hang_up(self.store, "this server is shutting down: use another server")
        if self._closing:
            await asyncio.wait(set(self._closing))

    def _on_expired(self, gone: list[ServerSession]) -> None:
        self.hang_up(gone, "this session was idle for longer than its ttl_s")
        self.metrics.expired.inc(len(gone))
        self.metrics.sessions.set(len(self.store))
        self.log.info("sessions_expired", count=len(gone), open=len(self.store))

    def capacity(self) -> Capacity:
        """Returns how many sessions are open and how many more can be opened."""
        limit, active = self.settings.capacity, len(self.store)
        return Capacity(limit, active, limit - active, self.store.draining)

    async def _in_thread(self, operation: str, limit_s: float, work: Callable[[], T]) -> T:
        """Run `work` in the pool and return its result. Raises the errors of `run_in_pool`."""
        return await run_in_pool(self.pool, self.settings, operation, limit_s, work)

    async def first_observation(self, spec: ResetSpec, caller: Caller) -> StepResult:
        """Start an episode without a session and return its first observation.

        Raises the errors of `EpisodeStarts.start`.
        """
        return self._for_reply((await self._starts.start(spec))[1], caller.tenant)

    async def reset(self, session: ServerSession, spec: ResetSpec) -> StepResult:
        """Start a new episode in a session. If the start fails, the session keeps its old episode. Raises the errors of
        `EpisodeStarts.start`.
        """
        async with session.lock:
            return self._begin(session, spec, await self._starts.start(spec))

    def reset_now(self, session: ServerSession, spec: ResetSpec) -> StepResult | None:
        """Reset a session with a copy from the reset cache. Returns None if the task is not in the cache. No other
        operation may run in the session.
        """
        start = self._starts.from_cache(self._starts.task(spec))
        return None if start is None else self._begin(session, spec, start)

    def _begin(self, session: ServerSession, spec: ResetSpec, start: Start) -> StepResult:
        session.episode, result = start
        session.episode_id, session.last, session.failure = spec.episode_id, None, None
        self.store.touch(session)
        return self._for_reply(result, session.tenant)

    async def step(self, session: ServerSession, text: str, index: int | None = None) -> StepResult:
        """Take one step. If the request repeats the most recent step, return the reply of that step again. `index`: the
        number of the step in the episode, from 0.

        Raises:
            ApiError: 409 if the session has no episode, if the episode has ended, or if `index` is wrong (see
                `errors.step_index_conflict`). 422 if the action is too long. 500 if the environment's
                result is invalid. `run_in_pool` lists the other errors of blocking steps.
        """
        async with session.lock:
            if not self.factory.blocking:
                return self.step_now(session, text, index)
            if (repeated := self._repeated(session, text, index)) is not None:
                return repeated
            count = session.steps
            session.episode, result = await self._step_copy(self._episode(session), text, session.tenant)
            session.last = LastStep(count, text, result)
            self.store.touch(session)
            return result

    def step_now(self, session: ServerSession, text: str, index: int | None = None) -> StepResult:
        """Take one step as in `step`, but without waiting. The environment must be non-blocking. No other operation may
        run in the session.
        """
        if (repeated := self._repeated(session, text, index)) is not None:
            return repeated
        episode = self._episode(session)
        count, begun = episode.steps, time.perf_counter()
        try:
            result = self._check_and_record(episode, episode.step(text), begun, session.tenant)
        except EnvironmentFailure as error:
            raise dependency_error("the step", error) from error
        except Exception as error:  # the state of the episode is now unknown, so the client must reset the session
            failure = error if isinstance(error, ApiError) else self.unexpected("the step", error)
            session.failure = failure.copy()
            raise failure from error
        session.last = LastStep(count, text, result)
        return result

    def unexpected(self, operation: str, error: Exception) -> ApiError:
        """Log an unexpected error with its stack trace and return the API error for the reply."""
        self.log.error("operation_failed", what=operation, error=repr(error), stack="".join(format_exception(error)))
        return errors.internal(operation, error)

    async def first_step(self, text: str, caller: Caller = UNKNOWN_CALLER) -> StepResult:
        """Start an episode of the default task without a session and take its first step. Raises the errors of
        `first_observation` and `step`.
        """
        self._check_length(text)
        episode, _ = await self._starts.start(ResetSpec())
        if self.factory.blocking:
            return (await self._step_copy(episode, text, caller.tenant))[1]
        begun = time.perf_counter()
        return self._check_and_record(episode, episode.step(text), begun, caller.tenant)

    def _repeated(self, session: ServerSession, text: str, index: int | None) -> StepResult | None:
        """If the request repeats the most recent step, returns the reply of that step. If the request asks for the next
        step, returns None.

        Raises:
            ApiError: `index` is wrong (see `errors.step_index_conflict`), the episode has ended, or the action is too
                long.
        """
        episode, last = self._episode(session), session.last
        if index is not None and index != episode.steps:
            if last is not None and last.index == index and last.text == text:
                self.metrics.repeated.inc()
                return last.result
            raise errors.step_index_conflict(session.id, index, episode.steps)
        if episode.done:
            raise errors.episode_over(session.id, episode.steps)
        self._check_length(text)
        return None

    def _check_length(self, text: str) -> None:
        if len(text) > self.settings.max_action_chars:
            raise invalid(
                f"the action has {len(text)} characters, more than the limit of {self.settings.max_action_chars} "
                "([environment] max_action_chars)"
            )

    async def _step_copy(self, episode: Episode, text: str, tenant: str | None) -> tuple[Episode, StepResult]:
        """Take a step in a thread, on a copy of the episode. Returns the copy and the result."""
        begun = time.perf_counter()

        def work() -> tuple[Episode, StepResult]:
            copy = episode.fork()
            return copy, copy.step(text)

        copy, result = await self._in_thread("the step", self.settings.step_timeout_s, work)
        return copy, self._check_and_record(copy, result, begun, tenant)

    def _check_and_record(self, episode: Episode, result: StepResult, begun: float, tenant: str | None) -> StepResult:
        """Check the result of a step and update the metrics. Returns the result for the reply. `begun`: the value of
        `time.perf_counter` when the step began.
        """
        check_result(episode.task.id, result, stepped=True)
        self.metrics.step_seconds.observe(time.perf_counter() - begun)
        if result.done:
            solved = result.metadata is not None and result.metadata.success
            self.metrics.episodes.labels("success" if solved else "failure").inc()
        return self._for_reply(result, tenant)

    def _for_reply(self, result: StepResult, tenant: str | None) -> StepResult:
        """Returns the result for the reply. If the setting `frames` is "url", URLs replace the frames (images)."""
        if self.settings.frames == "data" or not result.observation.images:
            return result
        return msgspec.structs.replace(result, observation=self.frames.by_url(result.observation, tenant))

    def state(self, session: ServerSession) -> State:
        """Returns the state of a session: its task, its number of steps, and whether its episode has ended."""
        episode = session.episode
        if episode is None:
            return State(session_id=session.id)
        return State(session.episode_id, episode.steps, session.id, episode.task.id, episode.done)

    async def open(self, request: CreateSessions, caller: Caller = UNKNOWN_CALLER) -> list[OpenedSession]:
        """Open `request.count` sessions. If `request.reset` is given, reset each session. If an error occurs, all new
        sessions are closed.

        Raises:
            ApiError: 503 if the server is full, 429 if the client would exceed its limit of sessions, 422 if the
                request is invalid, or the error of a failed reset.
        """
        if len(request.reset) not in (0, 1, request.count):
            entries = len(request.reset)
            raise invalid(
                f"reset has {entries} entries for {request.count} sessions: give none, one, or one per session"
            )
        sessions = self.store.open(request.count, ttl_s=request.ttl_s, group_id=request.group_id, caller=caller)
        specs = request.reset * request.count if len(request.reset) == 1 else request.reset
        resets = [asyncio.ensure_future(self.reset(s, spec)) for s, spec in zip(sessions, specs, strict=False)]
        try:
            results = await asyncio.gather(*resets)
        except BaseException:
            for reset in resets:
                reset.cancel()
            self.store.discard(sessions)
            raise
        finally:
            self.metrics.sessions.set(len(self.store))
        padded: list[StepResult | None] = [*results, *[None] * (request.count - len(results))]
        return [self.store.describe(s, result) for s, result in zip(sessions, padded, strict=True)]

    async def fork(self, session: ServerSession, request: ForkRequest) -> list[OpenedSession]:
        """Open `request.count` sessions with copies of this session's episode. After an error, no session is open.

        Raises:
            ApiError: 409 if the session has no episode. The other errors are listed at `SessionStore.open`.
        """
        async with session.lock:
            episode = self._episode(session)
            group = request.group_id or session.group_id
            sessions = self.store.open(request.count, ttl_s=request.ttl_s, group_id=group, caller=session.caller)
            for copy in sessions:
                copy.episode, copy.episode_id, copy.last = episode.fork(), session.episode_id, session.last
        self.metrics.sessions.set(len(self.store))
        return [self.store.describe(copy, self._for_reply(episode.observe(), copy.tenant)) for copy in sessions]

    async def snapshot(self, session: ServerSession) -> Snapshot:
        """Store a copy of a session's state. Returns the description of the snapshot.

        Raises:
            ApiError: 409 if the session has no episode, 503 if the store of snapshots is full.
        """
        async with session.lock:
            episode = self._episode(session)
            stored = self.snapshots.save(session, episode)
        expires_at = time.time() + self.snapshots.remaining_s(stored)
        return Snapshot(stored.id, expires_at, episode.task.id, episode.steps)

    async def restore(
        self, snapshot_id: str, request: RestoreRequest, caller: Caller = UNKNOWN_CALLER
    ) -> OpenedSession:
        """Put the state of a snapshot into the session `request.session_id`. If this id is None, open a new session.

        Raises:
            ApiError: 404 if the snapshot or the session does not exist. The other errors are listed at
                `SessionStore.open`.
        """
        stored = self.snapshots.get(snapshot_id, caller.tenant)
        if request.session_id is not None:
            session = self.store.get(request.session_id, caller.tenant)
        else:
            (session,) = self.store.open(1, ttl_s=request.ttl_s, group_id=request.group_id, caller=caller)
            self.metrics.sessions.set(len(self.store))
        async with session.lock:
            stored.copy_into(session)
        return self.store.describe(session, self._for_reply(stored.episode.observe(), session.tenant))

    def _episode(self, session: ServerSession) -> Episode:
        if session.failure is not None:
            raise session.failure.copy()
        if session.episode is None:
            raise errors.not_reset(session.id)
        return session.episode

    def end(self, session_id: str, tenant: str | None = None) -> None:
        """Close a session of the tenant.

        Raises:
            ApiError: 404 if the tenant has no such session.
        """
        self.store.close(session_id, tenant)
        self.metrics.sessions.set(len(self.store))

    async def expert(self, session: ServerSession) -> ExpertReply:
        """Returns the replies of the environment's expert, from the current state to the end of the episode.

        Raises:
            ApiError: 403 if the task is in an evaluation split, and `expert_splits` does not name this split. 409 if
                the session has no episode, the episode has ended, or the expert has no reply. 504 if the expert takes
                longer than `expert_timeout_s`. `run_in_pool` lists the other errors.
        """
        async with session.lock:
            episode = self._episode(session)
            if episode.task.split in self._splits_without_expert:
                raise ApiError(
                    403,
                    "expert_forbidden",
                    f"{episode.task.id} is in the evaluation split {episode.task.split!r}, and "
                    "[environment] expert_splits does not name this split",
                )
            if episode.done:
                raise errors.episode_over(session.id, episode.steps)
            # The expert's thread may still run after a timeout. So the expert gets its own copy of the episode.
            copy = episode.fork()
            try:
                plan = await self._in_thread("the expert", self.settings.expert_timeout_s, copy.expert)
            except ExpertUnavailable as error:
                raise ApiError(409, "expert_unavailable", str(error)) from error
            self.store.touch(session)
            return ExpertReply(plan[0], plan)
