"""A small environment with conversations, and a real server for environments."""

import contextlib
import threading
from collections.abc import Iterator
from copy import copy
from typing import Self

import uvicorn

from arlarena.env_server.__main__ import bind
from arlarena.env_server.api.app import create_app
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environment.hashing import digest
from arlarena.environment.indexed_tasks import indexed_task
from arlarena.environment.protocols import EnvironmentFactory
from arlarena.proto.env_api import Info, Metadata, Observation, Parser, ResetSpec, Split, StepResult, Template
from arlarena.proto.telemetry import get_logger
from arlarena.proto.trajectory import Task

TURNS = 4
# Longer than the shortest prefix that the engine caches (MIN_SHARED). So each turn reuses the cached previous turn.
PROBLEM = "Count the letters of what you say, problem {index}. You have 4 turns in all."


class Tally:
    """An episode. Each observation contains the number of characters of the previous reply.

    The reward depends on the length of the reply, so the episodes of a group have different rewards. A reply without a
    letter is no action.
    """

    def __init__(self, task: Task) -> None:
        self.task, self.steps, self.total, self.said, self.no_action = task, 0, 0.0, "", False

    @property
    def done(self) -> bool:
        return self.steps == TURNS

    def observe(self) -> StepResult:
        problem = PROBLEM.format(index=self.task.index)
        message = f"result {len(self.said)}" if self.steps else problem
        observation = Observation(
            text=message,
            prompt=f"{problem}\n{message}" if self.steps else problem,
            step=self.steps,
            remaining_steps=TURNS - self.steps,
            terminated=self.done,
            message=message,
        )
        key = digest(f"{self.task.id} {self.said}")
        score = self.total / TURNS
        metadata = Metadata(self.task.id, key, key, score, self.done and score > 0.5, no_action=self.no_action)
        return StepResult(observation, None, self.done, metadata)

    def step(self, text: str) -> StepResult:
        self.steps, self.said = self.steps + 1, text
        self.no_action = not any(letter.isalpha() for letter in text)
        reward = len(text) % 7 / 6
        self.total += reward
        result = self.observe()
        result.reward = reward
        return result

    def expert(self) -> list[str]:
        return [f"I say {turn} words{'!' * turn}" for turn in range(self.steps, TURNS)]

    def fork(self) -> Self:
        return copy(self)


class TallyEnvironment:
    """The environment with `Tally` episodes."""

    blocking = False
    splits = (Split("train", "train", None, False), Split("test", "test", 8, True))

    @property
    def info(self) -> Info:
        template, parser = Template("plain", "1", PROBLEM), Parser("1", "counts")
        return Info("tally", "1", "Counts.", template, parser, {}, TURNS, None, list(self.splits), {}, ["expert"])

    def task(self, spec: ResetSpec) -> Task:
        return indexed_task("tally", self.splits, spec)

    def start(self, task: Task) -> Tally:
        return Tally(task)


@contextlib.contextmanager
def serving(factory: EnvironmentFactory) -> Iterator[str]:
    """Serve an environment over HTTP in a thread of this process. Yields the URL."""
    service = EnvironmentService(factory, EnvironmentSettings(name="guess"), get_logger("test"))
    socket = bind("127.0.0.1", 0)
    server = uvicorn.Server(uvicorn.Config(create_app(service), log_config=None, timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [socket]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
