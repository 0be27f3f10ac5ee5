"""The Sokoban environment. Its tasks have ids `sokoban/<split>/<index>`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, Self, cast

from arlarena.environment.frames import Frame
from arlarena.environment.protocols import ExpertUnavailable, TaskError
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.environments.sokoban import expert
from arlarena.environments.sokoban.frames import draw
from arlarena.environments.sokoban.game import (
    ACTIONS,
    OFF_TARGET_REWARD,
    ON_TARGET_REWARD,
    SOLVED_REWARD,
    STEP_REWARD,
    RoomState,
    advance,
    reward_of,
    score_of,
    start_of,
)
from arlarena.environments.sokoban.horizon import horizon_hint
from arlarena.environments.sokoban.levels import list_left_out, load_levels
from arlarena.environments.sokoban.options import SokobanOptions, read_options
from arlarena.environments.sokoban.room import Room, render
from arlarena.environments.sokoban.rooms import GENERATOR_VERSION, RoomsExhausted
from arlarena.environments.sokoban.solver import SearchLimit, least_moves
from arlarena.environments.sokoban.splits import EVALUATION_SPLITS, SPLITS, room_for
from arlarena.environments.sokoban.symmetry import room_hash
from arlarena.environments.sokoban.text import ObservationStyle, observe, template_for, vocabulary
from arlarena.proto.env_api import Split
from arlarena.proto.trajectory import Task

# Maximum number of states that a reset visits to find the shortest solution (about 0.1 s). A 6x6 room needs far fewer
# states.
OPTIMUM_STATES = 10_000
CACHED_STATES = 16_384  # a cached state needs about 1 KB; the episodes of a group often visit the same states


@lru_cache(maxsize=4096)
def optimal_moves(room: Room) -> int | None:
    """Return the number of moves in the shortest solution. Return None if there is no solution, or if the search
    reaches its limit.
    """
    try:
        plan = least_moves(room, max_states=OPTIMUM_STATES)
    except SearchLimit:
        return None
    return len(plan.moves) if plan else None


@lru_cache(CACHED_STATES)
def _show(room: Room, state: RoomState, style: ObservationStyle) -> tuple[tuple[str, ...], str]:
    """Return the rows of the grid and the observation of a state."""
    rows = tuple(render(room, state.player, state.boxes))
    return rows, observe(room, state, style, rows)


class SokobanGame(TextGame):
    """One episode: a room, its current state, and the expert's plan. The score is the share of boxes on targets.

    After a move of the plan, the expert reuses the rest of the plan. After another move, the expert plans again.
    """

    def __init__(self, room: Room, options: SokobanOptions) -> None:
        self.room, self.now = room, start_of(room)
        self._options = options
        self._plan: tuple[str, ...] | None = None
        self._shown = _show(room, self.now, options.observation)
        self.content_key, self.least_steps = room_hash(room), optimal_moves(room)
        self.score = score_of(room, self.now)

    def text(self) -> str:
        """Return the observation in the style of the option `observation`."""
        return self._shown[1]

    def state(self) -> str:
        """Return the grid, which determines the state."""
        return "\n".join(self._shown[0])

    def frame(self) -> Frame | None:
        """Return an image of the room. Return None if the options select no images."""
        if not (self._options.frames or self._options.observation == "image"):
            return None
        return draw(self._shown[0])

    def actions(self) -> Sequence[str]:
        """Return the five actions. They are the same in every state."""
        return ACTIONS

    def play(self, action: str | None) -> float:
        """Walk, push or stand still, and return the reward. If `action` is None, the player stands still."""
        before: RoomState = self.now
        self.now = advance(self.room, before, action or "still")
        if self.now == before:
            return reward_of(self.room, before, self.now)
        self.score = score_of(self.room, self.now)
        self._shown = _show(self.room, self.now, self._options.observation)
        if self._plan is not None:
            # After the plan's next move, the rest of the plan is optimal. After another move, the plan is discarded.
            self._plan = self._plan[1:] if self._plan[:1] == (action,) else None
        return reward_of(self.room, before, self.now)

    def plan(self) -> list[str]:
        """Return the expert's replies from the current state to the solution.

        Raises:
            ExpertUnavailable: the room can no longer be solved, or the search reached its limit.
        """
        if self._plan is None:
            try:
                self._plan = expert.plan_for(self.room, self.now).moves
            except expert.NoSolution as error:
                raise ExpertUnavailable(str(error)) from error
        return expert.replies(self.room, self.now, self._plan, self._options.expert_think)

    def copy(self) -> Self:
        """Return a shallow copy. It is independent, because all attributes are immutable."""
        twin = type(self).__new__(type(self))
        twin.__dict__.update(self.__dict__)  # four times as fast as `copy.copy`
        return twin


class SokobanEnvironment(TextEnvironment):
    """Sokoban with its options."""

    name = "sokoban"
    version = f"rooms-{GENERATOR_VERSION}"
    description = "Push every box onto a target, in rooms made by reverse play."
    actions = ACTIONS
    paths = ("levels",)
    rewards: Mapping[str, float] = {
        "step": STEP_REWARD,
        "box_on_target": ON_TARGET_REWARD,
        "box_off_target": OFF_TARGET_REWARD,
        "solved": SOLVED_REWARD,
    }

    def __init__(self, options: SokobanOptions) -> None:
        self.options = options.model_dump(mode="json") | {"history": options.window}
        self.template = template_for(options.template, options.observation)
        self.horizon, self.history = options.max_steps, options.window
        self._settings = options
        self._levels = load_levels(options.levels) if options.levels is not None else None
        self.splits = [self._split(name) for name in SPLITS]
        self.vocabulary = vocabulary(self._width())

    def game(self, task: Task) -> SokobanGame:
        """Return a game at its start.

        A small room takes about 0.1 ms. A large evaluation room can take seconds, because the rooms with lower indices
        are generated first.

        Raises:
            TaskError: the generator found no room that fulfils the options.
        """
        if self._levels is not None:
            return SokobanGame(self._levels.splits[task.split][task.index], self._settings)
        try:
            room = room_for(task.split, task.index, self._settings.rooms_at(task.split, task.index))
        except RoomsExhausted as error:
            raise TaskError(str(error)) from error
        return SokobanGame(room, self._settings)

    @property
    def warnings(self) -> list[str]:
        """Return warnings for the server's operator, about levels that are left out, and about a horizon that is too
        short for most levels.
        """
        if self._levels is None:
            return []
        hint, left_out = horizon_hint(self._levels, self.horizon), self._levels.left_out
        skipped = [f"levels: {len(left_out)} are left out: {list_left_out(left_out)}"] if left_out else []
        return skipped + ([f"levels: {hint}"] if hint else [])

    def _width(self) -> int:
        """Return the width of the rooms in cells. With level files, it is the width of the first training room."""
        if self._levels is None:
            return self._settings.rooms().width
        return self._levels.splits["train"][0].width

    def _split(self, name: str) -> Split:
        held_out = name in EVALUATION_SPLITS
        kind = cast(Literal["train", "validation", "test"], name)
        if self._levels is not None:
            return Split(name, kind, len(self._levels.splits[name]), held_out)
        return Split(name, kind, self._settings.panel_size if held_out else None, held_out)


def load(where: str, options: Mapping[str, Any]) -> SokobanEnvironment:
    """Return the environment for a table of options.

    Raises:
        ConfigError: an option is unknown, or a value is out of range.
    """
    return SokobanEnvironment(read_options(where, options))
