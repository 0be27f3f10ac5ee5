"""The operations of the server, such as open, reset and step. HTTP, WebSocket, MCP and batches use this module.

A non-blocking step runs on the event loop, because a step takes some 10 us and a thread would add ten times as much.
Other work may take seconds and runs in a small pool of threads: the start of an episode, the expert, and the steps of
an environment with the attribute `blocking`. This work changes only copies of episodes, and only the event loop changes
a session. So work that exceeds its time limit leaves the session unchanged.
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
from arlarena.env_server.sessions.blocking_calls import carry_out, refusal
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
    StoreLimits,
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
from arlarena.proto.telemetry import Logger

T = TypeVar("T")

THREADS = 2  # enough for resets and steps that compute; an environment whose steps wait sets its own number


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
        self.store = SessionStore(StoreLimits.of(settings), clock, on_expired=self._expired)
        self.snapshots = SnapshotStore(settings.max_snapshots, settings.snapshot_ttl_s, settings.shard, clock)
        evaluation = {split.name for split in self.info.splits if split.evaluation}
        self._held_out = evaluation - set(settings.expert_splits)
        self.frames = FrameStore(settings.frame_cache_bytes)
        self._closing: set[asyncio.Future[None]] = set()
        self.pool = WorkPool(settings.pool_threads or int(getattr(factory, "threads", THREADS)), "episode")
        self.metrics.threads.set(self.pool.size)
        self._starts = EpisodeStarts(factory, settings, self.metrics, self.pool)
        self.health = ServerHealth(factory, self.pool, settings.lost_threads_timeout_s, clock)
        self.access = TenantTokens(settings, log)

    def close(self) -> None:
        """Refuse new sessions, stop the threads, and stop the environment's external processes."""
        self.store.draining = True
        self.pool.close()
        if isinstance(self.factory, Resources):
            self.factory.close()

    def hang_up(self, sessions: Iterable[ServerSession], reason: str) -> None:
        """Begin to close the sockets of these sessions, with `reason` as the error. Does not wait for the sockets."""
        for session in sessions:
            if session.hang_up is not None:
                task = asyncio.ensure_future(session.hang_up(reason))
                self._closing.add(task)
                task.add_done_callback(self._closing.discard)

    async def disconnect_all(self) -> None:
        """Close every socket and wait until the closing frames have been sent."""
        self.hang_up(self.store, "this server is shutting down: use another one")
        if self._closing:
            await asyncio.wait(set(self._closing))

    def _expired(self, gone: list[ServerSession]) -> None:
        self.hang_up(gone, "this session was idle for longer than its ttl_s")
        self.metrics.expired.inc(len(gone))
        self.metrics.sessions.set(len(self.store))
        self.log.info("sessions_expired", count=len(gone), open=len(self.store))

    def capacity(self) -> Capacity:
        """Returns how many sessions are open and how many more can be opened."""
        limit, active = self.settings.capacity, len(self.store)
        return Capacity(limit, active, limit - active, self.store.draining)

    async def _in_thread(self, what: str, limit_s: float, work: Callable[[], T]) -> T:
        """Run `work` in the pool and return its result. Errors as in `carry_out`."""
        return await carry_out(self.pool, self.settings, what, limit_s, work)

    async def first_observation(self, spec: ResetSpec, caller: Caller) -> StepResult:
        """Start an episode outside any session and return its first observation. Errors as in `EpisodeStarts.start`."""
        return self._presented((await self._starts.start(spec))[1], caller.tenant)

    async def reset(self, session: ServerSession, spec: ResetSpec) -> StepResult:
        """Start a new episode in a session. If the start fails, the session keeps its old episode. Errors as in
        `EpisodeStarts.start`.
        """
        async with session.lock:
            return self._begin(session, spec, await self._starts.start(spec))

    def reset_now(self, session: ServerSession, spec: ResetSpec) -> StepResult | None:
        """Reset an idle session from the reset cache. Returns None if the cache does not have the task."""
        start = self._starts.cached(self._starts.task(spec))
        return None if start is None else self._begin(session, spec, start)

    def _begin(self, session: ServerSession, spec: ResetSpec, start: Start) -> StepResult:
        session.episode, result = start
        session.episode_id, session.last, session.failure = spec.episode_id, None, None
        self.store.touch(session)
        return self._presented(result, session.tenant)

    async def step(self, session: ServerSession, text: str, index: int | None = None) -> StepResult:
        """Take one step. If the request repeats the last step, return the last reply again. `index`: the number of the
        step in the episode, from 0.

        Raises:
            ApiError: 409 before a reset, after the end of the episode, and for an `index` that is neither the next
                step nor a repetition of the last step.
        """
        async with session.lock:
            if not self.factory.blocking:
                return self.step_now(session, text, index)
            if (repeated := self._repeated(session, text, index)) is not None:
                return repeated
            count = session.steps
            session.episode, result = await self._stepped_copy(self._episode(session), text, session.tenant)
            session.last = LastStep(count, text, result)
            self.store.touch(session)
            return result

    def step_now(self, session: ServerSession, text: str, index: int | None = None) -> StepResult:
        """Take one step as `step` does, without waiting. The session must be idle and the environment non-blocking."""
        if (repeated := self._repeated(session, text, index)) is not None:
            return repeated
        episode = self._episode(session)
        count, begun = episode.steps, time.perf_counter()
        try:
            result = self._counted(episode, episode.step(text), begun, session.tenant)
        except EnvironmentFailure as error:
            raise refusal("the step", error) from error
        except Exception as error:  # the state of the episode is unknown, so the session must be reset
            failure = error if isinstance(error, ApiError) else self.unexpected("the step", error)
            session.failure = failure.again()
            raise failure from error
        session.last = LastStep(count, text, result)
        return result

    def unexpected(self, what: str, error: Exception) -> ApiError:
        """Log an unexpected error with its stack trace and return the API error for the reply."""
        self.log.error("operation_failed", what=what, error=repr(error), stack="".join(format_exception(error)))
        return errors.internal(what, error)

    async def first_step(self, text: str, caller: Caller = UNKNOWN_CALLER) -> StepResult:
        """Start an episode of the default task outside any session and take its first step.

        Errors as in `first_observation` and `step`.
        """
        self._check_length(text)
        episode, _ = await self._starts.start(ResetSpec())
        if self.factory.blocking:
            return (await self._stepped_copy(episode, text, caller.tenant))[1]
        begun = time.perf_counter()
        return self._counted(episode, episode.step(text), begun, caller.tenant)

    def _repeated(self, session: ServerSession, text: str, index: int | None) -> StepResult | None:
        """Returns the last reply if the request repeats the last step. Returns None if the request is the next step.

        Raises:
            ApiError: the request is neither the last nor the next step, the episode is over, or the action is too long.
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
            raise invalid(f"the action is longer than {self.settings.max_action_chars} characters")

    async def _stepped_copy(self, episode: Episode, text: str, tenant: str | None) -> tuple[Episode, StepResult]:
        """Take a step in a thread, on a copy of the episode. Returns the copy and the result. The episode itself stays
        unchanged.
        """
        begun = time.perf_counter()

        def work() -> tuple[Episode, StepResult]:
            twin = episode.fork()
            return twin, twin.step(text)

        twin, result = await self._in_thread("the step", self.settings.step_timeout_s, work)
        return twin, self._counted(twin, result, begun, tenant)

    def _counted(self, episode: Episode, result: StepResult, begun: float, tenant: str | None) -> StepResult:
        """Check a step's result, record its time and the end of the episode in the metrics, and return the result for
        the reply. `begun`: the time of `time.perf_counter` when the step began.
        """
        check_result(episode.task.id, result, stepped=True)
        self.metrics.step_seconds.observe(time.perf_counter() - begun)
        if result.done:
            solved = result.metadata is not None and result.metadata.success
            self.metrics.episodes.labels("success" if solved else "failure").inc()
        return self._presented(result, tenant)

    def _presented(self, result: StepResult, tenant: str | None) -> StepResult:
        """Returns the result for the reply. Frames (images) are replaced with URLs, unless `frames` is "data"."""
        if self.settings.frames == "data" or not result.observation.images:
            return result
        return msgspec.structs.replace(result, observation=self.frames.by_url(result.observation, tenant))

    def state(self, session: ServerSession) -> State:
        """Returns the task, the number of steps and the end of a session's episode."""
        episode = session.episode
        if episode is None:
            return State(session_id=session.id)
        return State(session.episode_id, episode.steps, session.id, episode.task.id, episode.done)

    async def open(self, wish: CreateSessions, caller: Caller = UNKNOWN_CALLER) -> list[OpenedSession]:
        """Open `wish.count` sessions and reset each session if `wish.reset` is given. If an error occurs, no session
        stays open.

        Raises:
            ApiError: 503 while the server is full, 429 for a client at its limit, 422 for an invalid request, or the
                error of a failed reset.
        """
        if len(wish.reset) not in (0, 1, wish.count):
            raise invalid(f"reset has {len(wish.reset)} entries for {wish.count} sessions: give none, one, or one each")
        sessions = self.store.open(wish.count, ttl_s=wish.ttl_s, group_id=wish.group_id, caller=caller)
        specs = wish.reset * wish.count if len(wish.reset) == 1 else wish.reset
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
        padded: list[StepResult | None] = [*results, *[None] * (wish.count - len(results))]
        return [self.store.describe(s, result) for s, result in zip(sessions, padded, strict=True)]

    async def fork(self, session: ServerSession, wish: ForkRequest) -> list[OpenedSession]:
        """Open `wish.count` sessions with copies of this session's episode. On an error no session is opened.

        Raises:
            ApiError: 409 before a reset, 503 while the server is full.
        """
        async with session.lock:
            episode = self._episode(session)
            group = wish.group_id or session.group_id
            sessions = self.store.open(wish.count, ttl_s=wish.ttl_s, group_id=group, caller=session.caller)
            for twin in sessions:
                twin.episode, twin.episode_id, twin.last = episode.fork(), session.episode_id, session.last
        self.metrics.sessions.set(len(self.store))
        return [self.store.describe(twin, self._presented(episode.observe(), twin.tenant)) for twin in sessions]

    async def snapshot(self, session: ServerSession) -> Snapshot:
        """Store a copy of a session's state and return its description.

        Raises:
            ApiError: 409 before a reset, 503 while the store of snapshots is full.
        """
        async with session.lock:
            episode = self._episode(session)
            kept = self.snapshots.save(session, episode)
        expires_at = time.time() + self.snapshots.remaining_s(kept)
        return Snapshot(kept.id, expires_at, episode.task.id, episode.steps)

    async def restore(self, snapshot_id: str, wish: RestoreRequest, caller: Caller = UNKNOWN_CALLER) -> OpenedSession:
        """Put the state of a snapshot into the session `wish.session_id`, or into a new session without this id.

        Raises:
            ApiError: 404 for an unknown snapshot or session, 503 while the server is full.
        """
        kept = self.snapshots.get(snapshot_id, caller.tenant)
        if wish.session_id is not None:
            session = self.store.get(wish.session_id, caller.tenant)
        else:
            (session,) = self.store.open(1, ttl_s=wish.ttl_s, group_id=wish.group_id, caller=caller)
            self.metrics.sessions.set(len(self.store))
        async with session.lock:
            kept.put_into(session)
        return self.store.describe(session, self._presented(kept.episode.observe(), session.tenant))

    def _episode(self, session: ServerSession) -> Episode:
        if session.failure is not None:
            raise session.failure.again()
        if session.episode is None:
            raise errors.not_reset(session.id)
        return session.episode

    def end(self, session_id: str, tenant: str | None = None) -> None:
        """Close a session of the tenant.

        Raises:
            ApiError: 404, the tenant has no such session.
        """
        self.store.close(session_id, tenant)
        self.metrics.sessions.set(len(self.store))

    async def expert(self, session: ServerSession) -> ExpertReply:
        """Returns the replies with which the environment's expert would finish the episode from its current state.

        Raises:
            ApiError: 403 for a task of an evaluation split, 409 if the episode is over or the expert has no reply,
                504 if the expert takes too long.
        """
        async with session.lock:
            episode = self._episode(session)
            if episode.task.split in self._held_out:
                raise ApiError(
                    403,
                    "expert_forbidden",
                    f"{episode.task.id} is an evaluation task: [environment] expert_splits does not name its split",
                )
            if episode.done:
                raise errors.episode_over(session.id, episode.steps)
            # The thread gets a copy. So after a timeout this thread and a later step use different episodes.
            twin = episode.fork()
            try:
                plan = await self._in_thread("the expert", self.settings.expert_timeout_s, twin.expert)
            except ExpertUnavailable as error:
                raise ApiError(409, "expert_unavailable", str(error)) from error
            self.store.touch(session)
            return ExpertReply(plan[0], plan)
