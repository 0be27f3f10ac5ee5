"""Text games: an author writes the rules, and everything that all text games have in common is here.

    class Guess(TextGame):              the rules of one episode
    class GuessEnvironment(TextEnvironment):
        name, version, … = …            what `/v1/info` says
        def game(self, task): …         a new episode's rules

`TextEpisode` counts steps, reads replies, renders prompts with history, marks and hashes; `TextEnvironment` names
tasks and describes itself. `arlarena.environments.guess` is a whole environment in this form.
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
    """The rules of one episode, which know nothing of prompts, replies or steps taken.

    How an episode can end, and what it then counts:

    | end | `over` | `solved` | `score` | marks of the last observation |
    |---|---|---|---|---|
    | won | true | true | 1 | terminated |
    | lost | true | false | 0, or the share that was done | terminated |
    | drawn | true | false | between, such as 0.5 | terminated |
    | horizon reached | false | false | as it stands | truncated |

    A game that can be lost or drawn overrides `over`; the others end when they are solved, or at the horizon. Training
    learns from the sum of the rewards that `play` returned, whatever the score: a loss that shall cost something has a
    negative reward, and a draw one between loss and win. Evaluation reports the share of episodes that are `solved`.
    Reaching the horizon has no reward of its own.

    Attributes:
        score: how well the task is done, from 0 to 1.
        content_key: names what is played, however it is indexed: equal for tasks that are the same; "" if unknown.
        least_steps: length of the shortest solution from the start, where it is known.
        kind: the kind of task, where there are several: success is reported for each.
        task: what is to be done, in a sentence, where the observation does not say it each time.
    """

    score: float
    content_key: str = ""
    least_steps: int | None = None
    kind: str = ""
    task: str = ""

    @abstractmethod
    def text(self) -> str:
        """What the player sees now, without history."""

    @abstractmethod
    def state(self) -> str:
        """The whole state, written canonically and without any counter: equal states must be equal texts."""

    def state_key(self, task: str) -> str:
        """32 hex digits that name the state of a game of this task."""
        return digest(f"{task}\0{self.state()}")

    @abstractmethod
    def play(self, action: str | None) -> float:
        """Play an action and return its reward, a finite number; None is a reply that could not be read."""

    def copy(self) -> Self:
        """An independent game in the same state. Override it where much of the game never changes."""
        return deepcopy(self)

    @property
    def solved(self) -> bool:
        """Whether the task is done; by default, whether the score is 1."""
        return self.score >= 1.0

    @property
    def over(self) -> bool:
        """Whether the game has come to its own end, won, lost or drawn; by default, whether it is solved."""
        return self.solved

    def frame(self) -> Frame | None:
        """The picture of what the player sees now, where there is one."""
        return None

    def actions(self) -> Sequence[str] | None:
        """What may be said now; None for any text."""
        return None

    def offered(self) -> str:
        """What the prompt says of them; by default all, with commas between."""
        return ", ".join(self.actions() or ())

    def plan(self) -> list[str]:
        """The expert's replies from here to the end.

        Raises:
            ExpertUnavailable: there is no expert, or it sees no way.
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
        """What is being played."""
        return self._task

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._steps

    @property
    def done(self) -> bool:
        """Whether the game has ended, or the horizon is reached."""
        return self._game.over or self._steps >= self._environment.horizon

    def observe(self) -> StepResult:
        """The state as it is now, as after a reset."""
        return self._result(None, "", action_valid=True, format_valid=True)

    def step(self, text: str) -> StepResult:
        """Play a reply; one that cannot be read costs a step, and is marked.

        Raises:
            RuntimeError: the episode is over.
        """
        if self.done:
            raise RuntimeError("the episode is over")
        reply = parse(text, self._game.actions())
        if self._environment.history:
            turn = past_turn(self._steps + 1, self._game.text(), reply.action or "none (unreadable)")
            self._past.append(turn)
        reward = self._game.play(reply.action)
        self._steps += 1
        return self._result(
            reward, reply.action or "", action_valid=reply.action_valid, format_valid=reply.format_valid
        )

    def expert(self) -> list[str]:
        """The expert's replies from here.

        Raises:
            ExpertUnavailable: see `TextGame.plan`.
        """
        return self._game.plan()

    def fork(self) -> Self:
        """An independent copy in the same state."""
        twin = type(self)(self._environment, self._task, self._game.copy())
        twin._past, twin._steps = self._past.copy(), self._steps
        return twin

    def _result(self, reward: float | None, action: str, *, action_valid: bool, format_valid: bool) -> StepResult:
        game, environment, steps = self._game, self._environment, self._steps
        text, actions, solved, over = game.text(), game.actions(), game.solved, game.over
        done = over or steps >= environment.horizon
        remaining = environment.horizon - steps
        scene = Scene(text, self._past, remaining, environment.horizon, game.offered(), game.task)
        observation = Observation(
            text=text,
            prompt=environment.template.render(scene),
            step=steps,
            remaining_steps=remaining,
            admissible_actions=None if actions is None else list(actions),
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
    """A text game with its options: the factory that the server hosts.

    Attributes:
        name, version, description: what it is. The version changes whenever a task or a transcript does.
        template: the prompt; its version too is part of what is played.
        horizon: steps after which an episode is cut off.
        history: earlier turns that the prompt shows.
        splits: the sets of tasks; the first is the default.
        rewards: what is paid for what.
        actions: all that may ever be said, where that is a short list.
        options: the settings that made it so.
        paths: names of the options that are paths of files or folders.
        vocabulary: frequent parts of observations and replies, which are one token each in a tiny policy, with the
            spaces and line ends that belong to them. None: `actions`.
        expert: whether games have a `plan`. An environment without one says False: all but demonstrations works.
        blocking: whether an action may take longer than about a millisecond: see `EnvironmentFactory`.
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
        """A new game of a task; may take long, and be called from several threads at once.

        Raises:
            TaskError: there is no such task.
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
        """The task that a reset means. Errors as in `indexed_task`."""
        return indexed_task(self.name, self.splits, spec)

    def start(self, task: Task) -> TextEpisode:
        """Begin an episode. Errors as in `game`."""
        return TextEpisode(self, task, self.game(task))
