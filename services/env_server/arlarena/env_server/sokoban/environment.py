"""Sokoban behind the server's protocols: tasks `sokoban/<split>/<index>`, episodes, expert."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, Literal, cast

from arlarena.env_server.environment import ExpertUnavailable, TaskError
from arlarena.env_server.sokoban import expert
from arlarena.env_server.sokoban.game import (
    ACTIONS,
    OFF_TARGET_REWARD,
    ON_TARGET_REWARD,
    SOLVED_REWARD,
    STEP_REWARD,
    Game,
    state_key,
)
from arlarena.env_server.sokoban.options import SokobanOptions, read_options
from arlarena.env_server.sokoban.parser import PARSER_VERSION, parse
from arlarena.env_server.sokoban.room import Room
from arlarena.env_server.sokoban.rooms import GENERATOR_VERSION, RoomsExhausted
from arlarena.env_server.sokoban.solver import SearchLimit, least_moves
from arlarena.env_server.sokoban.splits import EVALUATION_SPLITS, SPLITS, check_split, room_for
from arlarena.env_server.sokoban.symmetry import digest, room_hash
from arlarena.env_server.sokoban.text import TEMPLATE_VERSION, TEMPLATES, Past, observe, prompt
from arlarena.proto.env import Info, Metadata, Observation, Parser, ResetSpec, Split, StepResult, Template
from arlarena.proto.trajectory import Task

NAME = "sokoban"
# What a reset may spend on knowing the optimal length: about 0.1 s. All rooms of 6x6 are far below it.
OPTIMUM_STATES = 10_000


@lru_cache(maxsize=4096)
def optimal_moves(room: Room) -> int | None:
    """The length of the shortest solution, or None where a small search does not find it."""
    try:
        plan = least_moves(room, max_states=OPTIMUM_STATES)
    except SearchLimit:
        return None
    return len(plan.moves) if plan else None


class SokobanEpisode:
    """One episode: the game, the turns that the history window shows, and the expert's plan while it is followed."""

    __slots__ = ("_game", "_optimum", "_options", "_past", "_plan", "_room_key", "_task")

    def __init__(self, task: Task, room: Room, options: SokobanOptions) -> None:
        self._task = task
        self._options = options
        self._game = Game(room, options.max_steps)
        self._past: deque[Past] = deque(maxlen=options.window)
        self._plan: tuple[str, ...] | None = None
        self._room_key = room_hash(room)
        self._optimum = optimal_moves(room)

    @property
    def task(self) -> Task:
        """What is being played."""
        return self._task

    @property
    def steps(self) -> int:
        """Steps taken."""
        return self._game.steps

    @property
    def done(self) -> bool:
        """Whether all boxes are on targets, or the horizon is reached."""
        return self._game.done

    def observe(self) -> StepResult:
        """The state as it is now, as after a reset."""
        return self._result(None, "", action_valid=True, format_valid=True)

    def step(self, text: str) -> StepResult:
        """Play a reply; one that cannot be read costs a step, moves nothing, and is marked."""
        reply = parse(text)
        if self._options.window:
            self._past.append(Past(self._game.steps + 1, self._text(), reply.action or "none (unreadable)"))
        before = self._game.state
        outcome = self._game.step(reply.action)
        if self._plan is not None and before != self._game.state:
            # The rest of a plan that is being followed stays optimal; any other move makes it worthless.
            self._plan = self._plan[1:] if self._plan[:1] == (reply.action,) else None
        return self._result(
            outcome.reward, reply.action or "", action_valid=reply.action_valid, format_valid=reply.format_valid
        )

    def expert(self) -> list[str]:
        """The replies of an optimal plan from here.

        Raises:
            ExpertUnavailable: the room cannot be solved any more, or no plan was found.
        """
        room, state = self._game.room, self._game.state
        if self._plan is None:
            try:
                self._plan = expert.plan_for(room, state).moves
            except expert.NoPlan as error:
                raise ExpertUnavailable(str(error)) from error
        return expert.replies(room, state, self._plan, self._options.expert_think)

    def fork(self) -> SokobanEpisode:
        """An independent copy in the same state; the room and the past turns are immutable and shared."""
        twin = object.__new__(SokobanEpisode)
        twin._task, twin._options = self._task, self._options
        twin._room_key, twin._optimum = self._room_key, self._optimum
        twin._game, twin._past, twin._plan = self._game.copy(), self._past.copy(), self._plan
        return twin

    def _text(self) -> str:
        return observe(self._game.room, self._game.state, self._options.observation)

    def _result(self, reward: float | None, action: str, *, action_valid: bool, format_valid: bool) -> StepResult:
        game, text = self._game, self._text()
        remaining = game.max_steps - game.steps
        observation = Observation(
            text=text,
            prompt=prompt(self._options.template, text, self._past, remaining, game.max_steps),
            step=game.steps,
            remaining_steps=remaining,
            admissible_actions=list(ACTIONS),
            terminated=game.solved,
            truncated=game.done and not game.solved,
            action_valid=action_valid,
            format_valid=format_valid,
        )
        metadata = Metadata(
            task_id=self._task.id,
            state_key=state_key(self._task.id, game.room, game.state),
            observation_key=digest(f"{self._task.id}\0{text}"),
            score=game.score,
            success=game.solved,
            action=action,
            room_key=self._room_key,
            optimal_moves=self._optimum,
        )
        return StepResult(observation, reward, game.done, metadata)


class SokobanFactory:
    """Sokoban with its options."""

    def __init__(self, options: SokobanOptions) -> None:
        self.options = options
        self._rooms = options.rooms()

    @property
    def info(self) -> Info:
        """The body of `/v1/info`."""
        options = self.options
        return Info(
            name=NAME,
            version=f"rooms-{GENERATOR_VERSION}",
            description="Push every box onto a target, in rooms made by reverse play.",
            template=Template(options.template, TEMPLATE_VERSION, TEMPLATES[options.template]),
            parser=Parser(
                PARSER_VERSION,
                "The content of the only <action>…</action>, or a reply without tags as it is; one of the actions, in "
                "any case. Strict format: <think>…</think><action>…</action>.",
            ),
            rewards={
                "step": STEP_REWARD,
                "box_on_target": ON_TARGET_REWARD,
                "box_off_target": OFF_TARGET_REWARD,
                "solved": SOLVED_REWARD,
            },
            horizon=options.max_steps,
            actions=list(ACTIONS),
            splits=[self._split(name) for name in SPLITS],
            options=options.model_dump(mode="json") | {"history": options.window},
            capabilities=["expert"],
        )

    def task(self, spec: ResetSpec) -> Task:
        """The task of `task_id`, of `split` + `index`, or of `split` + `seed`; train/0 where nothing is given.

        Raises:
            TaskError: an unknown split, an index outside it, or contradictory fields.
        """
        if spec.task_id is not None:
            split, index = _parse_id(spec.task_id)
            if spec.split not in (None, split) or spec.index not in (None, index):
                raise TaskError(f"task_id {spec.task_id!r} is another task than split {spec.split} index {spec.index}")
        else:
            split = spec.split or "train"
            index = spec.index if spec.index is not None else spec.seed or 0
        try:
            check_split(split)
        except ValueError as error:
            raise TaskError(str(error)) from error
        if split in EVALUATION_SPLITS and index >= self.options.panel_size:
            raise TaskError(
                f"split {split!r} has {self.options.panel_size} tasks, so the index is at most "
                f"{self.options.panel_size - 1}, not {index}; the option panel_size sets how many"
            )
        return Task(NAME, split, index, spec.seed or 0)

    def start(self, task: Task) -> SokobanEpisode:
        """Begin an episode: 0.1 ms for a small room, seconds for the first of a panel of large ones.

        Raises:
            TaskError: the options leave no such room.
        """
        try:
            room = room_for(task.split, task.index, self._rooms)
        except RoomsExhausted as error:
            raise TaskError(str(error)) from error
        return SokobanEpisode(task, room, self.options)

    def _split(self, name: str) -> Split:
        held_out = name in EVALUATION_SPLITS
        size = self.options.panel_size if held_out else None
        return Split(name, cast(Literal["train", "validation", "test"], name), size, held_out)


def _parse_id(task_id: str) -> tuple[str, int]:
    parts = task_id.split("/")
    if len(parts) != 3 or parts[0] != NAME or not (parts[2].isascii() and parts[2].isdigit()):
        raise TaskError(f"task_id {task_id!r} is not of the form {NAME}/<split>/<index>, like {NAME}/train/17")
    return parts[1], int(parts[2])


def load(where: str, options: Mapping[str, Any]) -> SokobanFactory:
    """The factory for a table of options.

    Raises:
        ConfigError: see `read_options`.
    """
    return SokobanFactory(read_options(where, options))
