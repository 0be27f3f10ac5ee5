"""The protocols of environments: a factory for each environment, which starts episodes.

    factory = load("[environment]", "sokoban", options)
    episode = factory.start(factory.task(ResetSpec(split="train", index=7)))
    while not episode.done:
        result = episode.step(reply)

The prompt template, the parser and the expert belong to the environment. No other part depends on its rules.
`registry` finds environments.
"""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

from arlarena.proto.env_api import Info, ResetSpec, StepResult
from arlarena.proto.trajectory import Task


class TaskError(ValueError):
    """The requested task does not exist. The message names the valid tasks."""


class ExpertUnavailable(RuntimeError):
    """The expert has no reply in this state. The message gives the reason."""


class EnvironmentFailure(RuntimeError):
    """A resource of the environment failed, such as its sandbox. No step was taken, and the policy is not the cause.
    `busy`: the resource is overloaded. `retry_after_s`: when to retry.
    """

    def __init__(self, message: str, *, busy: bool = False, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.busy, self.retry_after_s = busy, retry_after_s


class Episode(Protocol):
    """One episode, from its first observation to its end. Not thread-safe: the server uses a lock."""

    @property
    def task(self) -> Task:
        """The task."""
        ...

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        ...

    @property
    def done(self) -> bool:
        """Whether the episode has ended."""
        ...

    def observe(self) -> StepResult:
        """Return the current state as after a reset: without reward, and with `format_valid` and `action_valid`
        True.
        """
        ...

    def step(self, text: str) -> StepResult:
        """Play a reply. The server calls `step` only while the episode is not `done`.

        An unreadable reply is marked as invalid and has no effect. It raises no error. The reward must be finite, and
        the score must be in [0, 1]. The server reports other values as a failure of the environment.

        Raises:
            EnvironmentFailure: a resource of the environment failed.
        """
        ...

    def expert(self) -> list[str]:
        """Return all replies of the expert from the current state to the end.

        Raises:
            ExpertUnavailable: there is no solution, or none was found.
        """
        ...

    def fork(self) -> Self:
        """Return an independent copy in the same state."""
        ...


@runtime_checkable
class Resources(Protocol):
    """Optional external processes of an environment; if `open` was not called, they are started on first use."""

    def open(self) -> None:
        """Start the processes. The server calls this before it accepts sessions.

        Raises:
            ConfigError: this machine cannot run them.
        """
        ...

    def health(self) -> dict[str, Any]:
        """Return the state of the processes for `/health`: `healthy`, and further details."""
        ...

    def close(self) -> None:
        """Stop the processes."""
        ...


class EnvironmentFactory(Protocol):
    """An environment with its options. Its methods must be thread-safe.

    Attributes:
        blocking: whether a step may take longer than about a millisecond. The server then runs steps in threads, each
            on a fork of the episode, so that other sessions do not wait and slow steps can be abandoned. If steps wait
            for other processes, an optional attribute `threads` gives the number of concurrent steps.

    An optional attribute `warnings`, a list of texts, has messages for the server's operator, such as files that were
    left out; see `warnings_of`.
    """

    blocking: bool

    @property
    def info(self) -> Info:
        """Return the body of `/v1/info`: name, versions, template, splits."""
        ...

    def task(self, spec: ResetSpec) -> Task:
        """Return the task of a reset. This must be fast.

        Raises:
            TaskError: the task does not exist.
        """
        ...

    def start(self, task: Task) -> Episode:
        """Start an episode. This may be slow: the server calls `start` outside its event loop.

        Raises:
            TaskError: the task does not exist.
        """
        ...


def warnings_of(factory: EnvironmentFactory) -> list[str]:
    """Return the messages for the server's operator. This may take some seconds."""
    return list(getattr(factory, "warnings", ()))
