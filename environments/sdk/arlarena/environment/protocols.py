"""The protocols of an environment: a factory for each environment, which starts episodes.

    factory = load("[environment]", "sokoban", options)
    episode = factory.start(factory.task(ResetSpec(split="train", index=7)))
    while not episode.done:
        result = episode.step(reply)

An environment owns its prompt template, its parser and its expert, so nothing else in the system knows its rules.
`registry` finds environments.
"""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

from arlarena.proto.env_api import Info, ResetSpec, StepResult
from arlarena.proto.trajectory import Task


class TaskError(ValueError):
    """A reset asks for a task that does not exist; the message says which do."""


class ExpertUnavailable(RuntimeError):
    """The expert has no answer in this state; the message says why."""


class EnvironmentFailure(RuntimeError):
    """Something that an environment stands on failed, such as its sandbox: no step was taken, and the policy is not to
    blame. `busy`: it only has too much to do. `retry_after_s`: when to come back.
    """

    def __init__(self, message: str, *, busy: bool = False, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.busy, self.retry_after_s = busy, retry_after_s


class Episode(Protocol):
    """One episode, from its first observation to its end. Not thread-safe; the server locks."""

    @property
    def task(self) -> Task:
        """What is being played."""
        ...

    @property
    def steps(self) -> int:
        """Steps taken."""
        ...

    @property
    def done(self) -> bool:
        """Whether it is over."""
        ...

    def observe(self) -> StepResult:
        """The state as it is now, as after a reset: no reward, all marks True."""
        ...

    def step(self, text: str) -> StepResult:
        """Play a reply. Called only while not `done`; a reply that cannot be read is a marked no-op, never an error.
        The reward is a finite number, the score in [0, 1]: anything else is reported as a failure of the environment.

        Raises:
            EnvironmentFailure: what the environment stands on failed.
        """
        ...

    def expert(self) -> list[str]:
        """All replies of the expert from here to the end.

        Raises:
            ExpertUnavailable: there is no solution, or none was found.
        """
        ...

    def fork(self) -> Self:
        """An independent copy in the same state."""
        ...


@runtime_checkable
class Resources(Protocol):
    """What an environment has besides, where it needs processes of its own. Without them it works nonetheless: they are
    started by whoever needs them first.
    """

    def open(self) -> None:
        """Start what is needed; the server calls it before it takes sessions.

        Raises:
            ConfigError: this machine cannot offer it.
        """
        ...

    def health(self) -> dict[str, Any]:
        """How they are, for `/health`: `healthy`, and what else is worth knowing."""
        ...

    def close(self) -> None:
        """End them."""
        ...


class EnvironmentFactory(Protocol):
    """An environment with its options. Its methods may be called from several threads at once.

    Attributes:
        blocking: whether a step may take longer than about a millisecond. The server then takes steps in threads, each
            on a fork of the episode, so that nobody else waits and a step that takes too long can be given up. Where
            steps wait for other processes, an attribute `threads` says how many may.

    An attribute `warnings`, a list of texts, holds messages for the operator of the server, such as files that were
    left out; see `warnings_of`.
    """

    blocking: bool

    @property
    def info(self) -> Info:
        """Name, versions, template, splits: the body of `/v1/info`."""
        ...

    def task(self, spec: ResetSpec) -> Task:
        """The task that a reset means; cheap.

        Raises:
            TaskError: there is no such task.
        """
        ...

    def start(self, task: Task) -> Episode:
        """Begin an episode. May take long: the server calls it outside its event loop.

        Raises:
            TaskError: there is no such task.
        """
        ...


def warnings_of(factory: EnvironmentFactory) -> list[str]:
    """Messages for the operator of the server. Making them may take some seconds."""
    return list(getattr(factory, "warnings", ()))
