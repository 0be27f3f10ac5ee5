"""The protocols that environments implement: a factory for each environment, and the episodes that it starts.

    factory = load("[environment]", "sokoban", options)
    episode = factory.start(factory.task(ResetSpec(split="train", index=7)))
    while not episode.done:
        result = episode.step(reply)

The prompt template, the parser and the *expert* (a program that solves tasks) are parts of the environment. Trainer,
rollouts and servers do not depend on the rules of an environment. `registry` finds environments.
"""

from __future__ import annotations

from typing import Any, Protocol, Self, runtime_checkable

from arlarena.proto.env_api import Info, ResetSpec, StepResult
from arlarena.proto.trajectory import Task


class TaskError(ValueError):
    """The requested task does not exist, or its content cannot be read or generated. The message gives the reason."""


class ExpertUnavailable(RuntimeError):
    """The expert has no reply in this state. The message gives the reason."""


class EnvironmentFailure(RuntimeError):
    """A resource of the environment failed, such as the sandbox. The policy did not cause the failure, so the step does
    not count. `busy`: whether the resource is overloaded. `retry_after_s`: time before the next attempt, in seconds.
    """

    def __init__(self, message: str, *, busy: bool = False, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.busy, self.retry_after_s = busy, retry_after_s


class Episode(Protocol):
    """One episode, from the first observation to the end. Not thread-safe: the server uses a lock."""

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
        """Return the current state as the result of a reset: the reward is None, and `format_valid` and `action_valid`
        are True.
        """
        ...

    def step(self, text: str) -> StepResult:
        """Play a reply. The server calls `step` only before the episode is `done`.

        A reply without a readable action counts as a step with `action_valid` False. It must not raise an error. The
        reward must be finite, and the score must be in [0, 1]. The server reports other values as a failure of the
        environment.

        Raises:
            EnvironmentFailure: a resource of the environment failed.
        """
        ...

    def expert(self) -> list[str]:
        """Return all replies of the expert from the current state to the end.

        Raises:
            ExpertUnavailable: there is no expert, or the expert finds no solution.
        """
        ...

    def fork(self) -> Self:
        """Return an independent copy of this episode, in the same state."""
        ...


@runtime_checkable
class Resources(Protocol):
    """The protocol of environments with external processes. The first use of the environment starts the processes,
    unless `open` was called before.
    """

    def open(self) -> None:
        """Start the processes. The server calls this method before it accepts sessions.

        Raises:
            ConfigError: this machine cannot run the processes.
        """
        ...

    def health(self) -> dict[str, Any]:
        """Return the state of the processes for `/health`: the key `healthy` (bool), and other details."""
        ...

    def close(self) -> None:
        """Stop the processes."""
        ...


class EnvironmentFactory(Protocol):
    """An environment with its options. All methods must be thread-safe.

    Attributes:
        blocking: whether a step may take longer than about a millisecond. If True, the server runs each step in a
            thread, on a fork of the episode. Other sessions then do not wait, and the server can abandon a slow step.

    Two attributes are optional:
        threads: the server's default number of threads for episodes. Set it if steps wait for other processes.
        warnings: a list of messages for the server's operator, for example about unused files (see `warnings_of`).
    """

    blocking: bool

    @property
    def info(self) -> Info:
        """Return the body of `/v1/info`: name, versions, template, splits and more."""
        ...

    def task(self, spec: ResetSpec) -> Task:
        """Return the task of a reset request. This method must be fast, because the server calls it in its event loop.

        Raises:
            TaskError: the task does not exist.
        """
        ...

    def start(self, task: Task) -> Episode:
        """Start an episode. This method may be slow, because the server calls it in a thread.

        Raises:
            TaskError: the task does not exist.
        """
        ...


def warnings_of(factory: EnvironmentFactory) -> list[str]:
    """Return the messages for the server's operator. This call may take a few seconds."""
    return list(getattr(factory, "warnings", ()))
