"""Base classes for text games. The author of a game writes only the rules.

    class Guess(TextGame):              the rules of one episode
    class GuessEnvironment(TextEnvironment):
        name, version, … = …            the content of `/v1/info`
        def game(self, task): …         the rules of a new episode

`TextEpisode` counts steps, parses replies, renders prompts, and sets the other fields of observations and metadata.
`TextEnvironment` finds the task of a reset request and provides `/v1/info`. The *expert* solves tasks: it is the method
`plan` of a game. A reply without a valid action is *unreadable* (see `replies`). `arlarena.environments.guess` is a
complete example.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any, Self

from arlarena.environment.frames import Frame
from arlarena.environment.hashing import digest
from arlarena.environment.indexed_tasks import indexed_task
from arlarena.environment.prompts import PromptTemplate, Scene, past_turn
from arlarena.environment.protocols import ExpertUnavailable
from arlarena.environment.replies import PARSER, parse
from arlarena.proto.env_api import Info, Metadata, Observation, ResetSpec, Split, StepResult
from arlarena.proto.trajectory import Task


class TextGame(ABC):
    """The rules of one episode, independent of prompts, replies and step counts.

    An episode can end in four ways:

    | end | `over` | `solved` | `score` | true in the last observation |
    |---|---|---|---|---|
    | won | true | true | 1 | terminated |
    | lost | true | false | 0, or the solved part of the task | terminated |
    | drawn | true | false | between 0 and 1, such as 0.5 | terminated |
    | horizon reached | false | false | the current score | truncated |

    A game that can be lost or drawn overrides `over`. Other games end when they are solved or when they reach the
    horizon. Training uses the sum of the rewards that `play` returns, not the score. To penalise a loss, return a
    negative reward. For a draw, return a reward between the rewards of a loss and of a win. Reaching the horizon adds
    no reward. Evaluation reports the share of episodes that are `solved`.

    If any text is an action (`actions` is None), override `accepts` to mark texts without effect as invalid. If the
    observation repeats the task, override `prompt_text` so that prompts state the task once.

    Attributes:
        score: progress on the task, from 0 to 1.
        content_key: identifies the content of the task. Tasks with equal content have equal keys, even if their indices
            differ. "" if unknown.
        least_steps: number of steps in the shortest solution from the start, None if unknown.
        kind: the task's kind if the environment has several kinds, else "". Evaluation reports the success of each
            kind.
        task: a sentence that states the task; "" if the observation states it.
    """

    score: float
    content_key: str = ""
    least_steps: int | None = None
    kind: str = ""
    task: str = ""

    @abstractmethod
    def text(self) -> str:
        """Return the current observation, without history."""

    def prompt_text(self) -> str:
        """Return the observation for prompts. It can omit the task if the template shows it. Default: `text()`."""
        return self.text()

    @abstractmethod
    def state(self) -> str:
        """Return the complete state as text, without a step counter. Equal states must have equal texts."""

    def state_key(self, task: str) -> str:
        """Return the key of the state: a hash of the task's id and the state, as 32 hex digits."""
        return digest(f"{task}\0{self.state()}")

    @abstractmethod
    def play(self, action: str | None) -> float:
        """Play an action. Return the reward, a finite number. `action` is None if the reply has no valid action. This
        method is also called with actions that `accepts` rejects.
        """

    def copy(self) -> Self:
        """Return an independent game in the same state. Default: a deep copy. Override this method if large parts of
        the game are immutable.
        """
        return deepcopy(self)

    @property
    def solved(self) -> bool:
        """Whether the task is solved. Default: whether the score is 1."""
        return self.score >= 1.0

    @property
    def over(self) -> bool:
        """Whether the game has ended: won, lost or drawn. Default: whether the game is solved."""
        return self.solved

    def frame(self) -> Frame | None:
        """Return an image of the current observation. Return None if there is no image. Default: None."""
        return None

    def actions(self) -> Sequence[str] | None:
        """Return the admissible actions. Return None if any text is an action."""
        return None

    def examples(self) -> Sequence[str] | None:
        """Return some valid actions of the current state, for `Observation.admissible_actions`. Random players, for
        example, use them. Return None if there are no examples. Default: the result of `actions`.

        If any text can be an action, `actions` returns None. Such a game can return some of its actions here.
        """
        return self.actions()

    def accepts(self, action: str) -> bool:
        """Return True if `action` is valid in the current state. Otherwise the step has `action_valid` False. Default:
        True.
        """
        return True

    def offered(self) -> str:
        """Return the admissible actions as text for the prompt. Default: separated by commas."""
        return ", ".join(self.actions() or ())

    def plan(self) -> list[str]:
        """Return the expert's replies from the current state to the end.

        Raises:
            ExpertUnavailable: there is no expert, or the expert finds no plan.
        """
        raise ExpertUnavailable("this environment has no expert")


class TextEpisode:
    """One episode of a text game."""

    __slots__ = ("_environment", "_game", "_past", "_steps", "_task")

    def __init__(self, environment: TextEnvironment, task: Task, game: TextGame) -> None:
        self._environment, self._task, self._game = environment, task, game
        self._past: deque[str] = deque(maxlen=environment.history)
        self._steps = 0

    @property
    def task(self) -> Task:
        """The task."""
        return self._task

    @property
    def steps(self) -> int:
        """Number of steps taken."""
        return self._steps

    @property
    def done(self) -> bool:
        """Whether the game has ended, or the horizon is reached."""
        return self._game.over or self._steps >= self._environment.horizon

    def observe(self) -> StepResult:
        """Return the current state as the result of a reset."""
        return self._result(None, "", action_valid=True, format_valid=True)

    def step(self, text: str) -> StepResult:
        """Play a reply. A reply without a valid action also counts as a step; this step has `action_valid` False.

        Raises:
            RuntimeError: the episode has ended.
        """
        if self.done:
            raise RuntimeError("the episode has ended")
        reply = parse(text, self._game.actions())
        valid = reply.action is not None and self._game.accepts(reply.action)
        if self._environment.history:
            turn = past_turn(self._steps + 1, self._game.prompt_text(), reply.action or "none (unreadable)")
            self._past.append(turn)
        reward = self._game.play(reply.action)
        self._steps += 1
        return self._result(reward, reply.action or "", action_valid=valid, format_valid=reply.format_valid)

    def expert(self) -> list[str]:
        """Return the expert's replies from the current state to the end.

        Raises:
            ExpertUnavailable: there is no expert, or the expert finds no plan.
        """
        return self._game.plan()

    def fork(self) -> Self:
        """Return an independent copy of this episode, in the same state."""
        twin = type(self)(self._environment, self._task, self._game.copy())
        twin._past, twin._steps = self._past.copy(), self._steps
        return twin

    def _result(self, reward: float | None, action: str, *, action_valid: bool, format_valid: bool) -> StepResult:
        game, environment, steps = self._game, self._environment, self._steps
        text, examples, solved, over = game.text(), game.examples(), game.solved, game.over
        done = over or steps >= environment.horizon
        remaining = environment.horizon - steps
        scene = Scene(game.prompt_text(), self._past, remaining, environment.horizon, game.offered(), game.task)
        observation = Observation(
            text=text,
            prompt=environment.template.render(scene),
            step=steps,
            remaining_steps=remaining,
            admissible_actions=None if examples is None else list(examples),
            terminated=over,
            truncated=done and not over,
            action_valid=action_valid,
            format_valid=format_valid,
            images=[frame.inline()] if (frame := game.frame()) else [],
        )
        name = self._task.id
        seen = "\0".join([name, text, *[image.sha256 for image in observation.images]])
        metadata = Metadata(
            task_id=name,
            state_key=game.state_key(name),
            observation_key=digest(seen),
            score=game.score,
            success=solved,
            action=action,
            content_key=game.content_key,
            optimal_moves=game.least_steps,
            kind=game.kind,
        )
        return StepResult(observation, reward, done, metadata)


class TextEnvironment(ABC):
    """The base class of environments with text games. An instance has the options and starts the episodes.

    Attributes:
        name, version, description: shown in `/v1/info`. If new code changes a task or a transcript, change the version.
        template: the prompt template. It has its own version.
        horizon: maximum number of steps. An episode that reaches it is truncated.
        history: number of earlier turns in the prompt.
        splits: the sets of tasks. The first split is the default.
        rewards: the reward of each event, for `/v1/info`.
        actions: all possible actions, if they are few and fixed; else None.
        options: the environment's options, for `/v1/info`.
        paths: names of the options that contain paths of files or folders.
        vocabulary: frequent parts of observations and replies, with their spaces and line ends. Each part becomes one
            token of the small built-in policy (`[policy.tiny]`). None: the parts are `actions`.
        expert: whether games implement `plan`. If False, there are no demonstrations.
        blocking: whether an action may take longer than about a millisecond; see `EnvironmentFactory`.
    """

    name: str
    version: str
    description: str
    template: PromptTemplate
    horizon: int
    splits: Sequence[Split]
    rewards: Mapping[str, float]
    history: int = 2
    actions: Sequence[str] | None = None
    options: Mapping[str, Any] = {}
    paths: Sequence[str] = ()
    vocabulary: Sequence[str] | None = None
    expert: bool = True
    blocking: bool = False

    @abstractmethod
    def game(self, task: Task) -> TextGame:
        """Return a new game of a task. This method may be slow. It must be thread-safe.

        Raises:
            TaskError: the task does not exist.
        """

    @property
    def info(self) -> Info:
        """The body of `/v1/info`."""
        return Info(
            name=self.name,
            version=self.version,
            description=self.description,
            template=self.template.describe(),
            parser=PARSER,
            rewards=dict(self.rewards),
            horizon=self.horizon,
            actions=None if self.actions is None else list(self.actions),
            splits=list(self.splits),
            options=dict(self.options),
            capabilities=["fork", *(["expert"] if self.expert else [])],
            vocabulary=list((self.actions or ()) if self.vocabulary is None else self.vocabulary),
            paths=list(self.paths),
        )

    def task(self, spec: ResetSpec) -> Task:
        """Return the task of a reset request.

        Raises:
            TaskError: the split is unknown, the index is out of range, or the fields contradict each other.
        """
        return indexed_task(self.name, self.splits, spec)

    def start(self, task: Task) -> TextEpisode:
        """Start an episode.

        Raises:
            TaskError: the task does not exist.
        """
        return TextEpisode(self, task, self.game(task))
