"""The synchronous client of the environment server.

    with SyncEnvironments("http://127.0.0.1:8000") as environments:
        (session,) = environments.open(1)
        state = session.reset(split="train", index=7)
        while not state.done:
            state = session.step("<think>…</think><action>up</action>")

All sessions of a client use one event loop in a background thread. If several threads call methods at the same time,
their calls share HTTP requests. `step_all` takes a step in many sessions at the same time.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Mapping, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar

from arlarena.client.arguments import shown
from arlarena.client.environments import EnvironmentClient, Session, StepOutcome
from arlarena.client.transport import Timeouts
from arlarena.proto.env_api import ExpertReply, Info, Snapshot

T = TypeVar("T")

TASK_KEYS = ("split", "index", "seed", "task_id", "episode_id")


class BackgroundLoop:
    """An event loop in a background thread."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="arlarena-client", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """True until the loop is stopped."""
        return not self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Run the coroutine `work` in the loop, and wait until it ends. Returns its result, or raises its exception.

        Raises:
            RuntimeError: the loop is stopped.
        """
        if not self.alive:
            work.close()
            raise RuntimeError("this client is closed: create another client")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """Stop the loop and its thread. A second call does nothing."""
        if self.alive:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _check_count(name: str, given: Sequence[Any], sessions: Sequence[SyncSession]) -> None:
    if isinstance(given, str):
        raise TypeError(f"{name} must be a list with one entry for each session, not a single string")
    for argument, values in (("sessions", sessions), (name, given)):
        if not hasattr(values, "__len__") or not hasattr(values, "__getitem__") or isinstance(values, Mapping):
            raise TypeError(f"{argument} must be a list with one entry for each session, not {shown(values)}")
    if wrong := [session for session in sessions if not isinstance(session, SyncSession)]:
        raise TypeError(f"sessions must be results of open(), not {shown(wrong[0])}")
    if len(given) != len(sessions):
        raise ValueError(f"{len(given)} {name} for {len(sessions)} sessions: the numbers must be equal")


def _check_task(task: Any) -> None:
    if not isinstance(task, Mapping):
        raise TypeError(f"a task must be a dictionary such as {{'split': 'train', 'index': 7}}, not {shown(task)}")
    if unknown := set(task) - set(TASK_KEYS):
        raise ValueError(f"a task has the unknown key {min(unknown, key=str)!r}; known: {', '.join(TASK_KEYS)}")


class SyncSession:
    """A session of one player. Its methods raise the errors of `arlarena.client.environments.Session`."""

    def __init__(self, loop: BackgroundLoop, session: Session) -> None:
        """Call `SyncEnvironments.open` instead."""
        self._loop, self.asynchronous = loop, session

    @property
    def id(self) -> str:
        """The session's id."""
        return self.asynchronous.id

    def reset(
        self,
        *,
        split: str | None = None,
        index: int | None = None,
        seed: int | None = None,
        task_id: str | None = None,
        episode_id: str | None = None,
    ) -> StepOutcome:
        """Start an episode of a task. Returns the first state. Arguments and errors: see `Session.reset`."""
        work = self.asynchronous.reset(split=split, index=index, seed=seed, task_id=task_id, episode_id=episode_id)
        return self._loop.run(work)

    def step(self, text: str) -> StepOutcome:
        """Take one step. `text`: either a full reply of the policy, or only its action. Returns the new state."""
        return self._loop.run(self.asynchronous.step(text))

    def expert(self) -> ExpertReply:
        """Returns the next reply of the environment's expert."""
        return self._loop.run(self.asynchronous.expert())

    def fork(self, count: int = 1, *, ttl_s: float | None = None) -> list[SyncSession]:
        """Open `count` sessions, each with a copy of this session's state. See `Session.fork`."""
        return [SyncSession(self._loop, each) for each in self._loop.run(self.asynchronous.fork(count, ttl_s=ttl_s))]

    def snapshot(self) -> Snapshot:
        """Save the session's state on the server. Pass the returned snapshot to `restore`."""
        return self._loop.run(self.asynchronous.snapshot())

    def restore(self, snapshot: Snapshot) -> StepOutcome:
        """Replace this session's state with the state in `snapshot`. Returns that state."""
        return self._loop.run(self.asynchronous.restore(snapshot))

    def close(self) -> None:
        """Close the session."""
        self._loop.run(self.asynchronous.close())


class SyncEnvironments:
    """A client of one environment server. Safe to use from several threads."""

    def __init__(
        self, url: str, timeouts: Timeouts | None = None, *, retries: int = 2, token: str | None = None
    ) -> None:
        """For the arguments and the errors, see `EnvironmentClient`."""
        self._client = EnvironmentClient(url, timeouts, retries=retries, token=token)
        self._loop = BackgroundLoop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def info(self) -> Info:
        """Returns the description of the environment."""
        return self._loop.run(self._client.info())

    def open(self, count: int, *, ttl_s: float | None = None) -> list[SyncSession]:
        """Open `count` sessions. If the server cannot open all of them, it opens none. See `EnvironmentClient.open`."""
        return [SyncSession(self._loop, each) for each in self._loop.run(self._client.open(count, ttl_s=ttl_s))]

    def reset_all(self, sessions: Sequence[SyncSession], tasks: Sequence[dict[str, Any]]) -> list[StepOutcome]:
        """Reset several sessions at the same time. Returns one state for each session, in order.

        `tasks`: for each session, a dictionary with the arguments of `SyncSession.reset`. If a reset fails, raises its
        error. If several resets fail, raises the error that occurred first.
        """
        _check_count("tasks", tasks, sessions)
        for task in tasks:
            _check_task(task)

        async def gather() -> list[StepOutcome]:
            resets = (session.asynchronous.reset(**task) for session, task in zip(sessions, tasks, strict=True))
            return await asyncio.gather(*resets)

        return self._loop.run(gather())

    def step_all(self, sessions: Sequence[SyncSession], texts: Sequence[str]) -> list[StepOutcome]:
        """Take one step in several sessions at the same time. Returns one state for each session, in order.

        `texts`: the text of `SyncSession.step` for each session. If a step fails, raises its error. If several steps
        fail, raises the error that occurred first.
        """
        _check_count("texts", texts, sessions)

        async def gather() -> list[StepOutcome]:
            steps = (session.asynchronous.step(text) for session, text in zip(sessions, texts, strict=True))
            return await asyncio.gather(*steps)

        return self._loop.run(gather())

    def close(self) -> None:
        """Close all connections. A second call does nothing."""
        if self._loop.alive:
            self._loop.run(self._client.close())
            self._loop.stop()
