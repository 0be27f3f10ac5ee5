"""The environment API for code that is not asynchronous.

    with SyncEnvironments("http://127.0.0.1:8000") as environments:
        (session,) = environments.open(1)
        state = session.reset(split="train", index=7)
        while not state.done:
            state = session.step("<think>…</think><action>up</action>")

One event loop in a background thread serves all sessions of a client, so calls from many threads share requests, and
`step_all` plays many sessions with one.
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
    """An event loop in a thread of its own."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="arlarena-client", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether it has not been stopped."""
        return not self._loop.is_closed()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        """Wait for `work`; what it raises is raised here.

        Raises:
            RuntimeError: it has been stopped.
        """
        if not self.alive:
            work.close()
            raise RuntimeError("this client is closed: make another one")
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def stop(self) -> None:
        """End the loop and its thread. A second call does nothing."""
        if self.alive:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()


def _check_count(name: str, given: Sequence[Any], sessions: Sequence[SyncSession]) -> None:
    if isinstance(given, str):
        raise TypeError(f"{name} must be one for each session, not a single text")
    for what, values in (("sessions", sessions), (name, given)):
        if not hasattr(values, "__len__") or not hasattr(values, "__getitem__") or isinstance(values, Mapping):
            raise TypeError(f"{what} must be a list with one for each session, not {shown(values)}")
    if wrong := [one for one in sessions if not isinstance(one, SyncSession)]:
        raise TypeError(f"sessions must be those that open() returned, not {shown(wrong[0])}")
    if len(given) != len(sessions):
        raise ValueError(f"{len(given)} {name} for {len(sessions)} sessions: give one for each")


def _check_task(task: Any) -> None:
    if not isinstance(task, Mapping):
        raise TypeError(f"a task must be a dictionary such as {{'split': 'train', 'index': 7}}, not {shown(task)}")
    if unknown := set(task) - set(TASK_KEYS):
        raise ValueError(f"a task has no {min(unknown, key=str)!r}; known: {', '.join(TASK_KEYS)}")


class SyncSession:
    """One environment of a server; see `arlarena.client.environments.Session` for what is raised."""

    def __init__(self, loop: BackgroundLoop, session: Session) -> None:
        """Made by `SyncEnvironments.open`."""
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
        """Begin a task: `task_id`, or `index` of `split`, or the one that `seed` means."""
        work = self.asynchronous.reset(split=split, index=index, seed=seed, task_id=task_id, episode_id=episode_id)
        return self._loop.run(work)

    def step(self, text: str) -> StepOutcome:
        """Take one step with a reply or a bare action."""
        return self._loop.run(self.asynchronous.step(text))

    def expert(self) -> ExpertReply:
        """What the environment's expert would say now."""
        return self._loop.run(self.asynchronous.expert())

    def fork(self, count: int = 1, *, ttl_s: float | None = None) -> list[SyncSession]:
        """`count` sessions in the state of this one, all or none."""
        return [SyncSession(self._loop, one) for one in self._loop.run(self.asynchronous.fork(count, ttl_s=ttl_s))]

    def snapshot(self) -> Snapshot:
        """Keep this state."""
        return self._loop.run(self.asynchronous.snapshot())

    def restore(self, snapshot: Snapshot) -> StepOutcome:
        """Go back to a kept state."""
        return self._loop.run(self.asynchronous.restore(snapshot))

    def close(self) -> None:
        """Give the session back."""
        self._loop.run(self.asynchronous.close())


class SyncEnvironments:
    """An environment server. Safe to use from several threads."""

    def __init__(
        self, url: str, timeouts: Timeouts | None = None, *, retries: int = 2, token: str | None = None
    ) -> None:
        """As `EnvironmentClient`."""
        self._client = EnvironmentClient(url, timeouts, retries=retries, token=token)
        self._loop = BackgroundLoop()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def info(self) -> Info:
        """What is being played."""
        return self._loop.run(self._client.info())

    def open(self, count: int, *, ttl_s: float | None = None) -> list[SyncSession]:
        """`count` sessions, all or none."""
        return [SyncSession(self._loop, one) for one in self._loop.run(self._client.open(count, ttl_s=ttl_s))]

    def reset_all(self, sessions: Sequence[SyncSession], tasks: Sequence[dict[str, Any]]) -> list[StepOutcome]:
        """Reset many sessions together, each with the arguments of its task; the first error is raised."""
        _check_count("tasks", tasks, sessions)
        for task in tasks:
            _check_task(task)

        async def all_of_them() -> list[StepOutcome]:
            resets = (one.asynchronous.reset(**task) for one, task in zip(sessions, tasks, strict=True))
            return await asyncio.gather(*resets)

        return self._loop.run(all_of_them())

    def step_all(self, sessions: Sequence[SyncSession], texts: Sequence[str]) -> list[StepOutcome]:
        """One step of many sessions together; the first error is raised."""
        _check_count("texts", texts, sessions)

        async def all_of_them() -> list[StepOutcome]:
            steps = (one.asynchronous.step(text) for one, text in zip(sessions, texts, strict=True))
            return await asyncio.gather(*steps)

        return self._loop.run(all_of_them())

    def close(self) -> None:
        """Close all connections. A second call does nothing."""
        if self._loop.alive:
            self._loop.run(self._client.close())
            self._loop.stop()
