"""The simulator: what a move does, what it pays, and when an episode ends.

Rewards are the paper's: -0.1 a step, +1 when one box more stands on a target, -1 when one fewer does, +10 when all do.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from arlarena.env_server.sokoban.room import Room, render

STEP_REWARD = -0.1
ON_TARGET_REWARD = 1.0
OFF_TARGET_REWARD = -1.0
SOLVED_REWARD = 10.0

MOVES = ("up", "down", "left", "right")
ACTIONS = (*MOVES, "still")


@dataclass(frozen=True, slots=True)
class State:
    """All that changes in a room: the player's cell and the mask of boxes. No counter, so that states can repeat."""

    player: int
    boxes: int


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one step did. `reward` is the sum of the parts above."""

    reward: float
    moved: bool
    pushed: bool
    terminated: bool
    truncated: bool


def offsets(width: int) -> dict[str, int]:
    """What each move adds to a cell number."""
    return {"up": -width, "down": width, "left": -1, "right": 1}


def start_of(room: Room) -> State:
    """The state at the start of an episode."""
    return State(room.player, room.boxes)


def advance(room: Room, state: State, action: str) -> State:
    """The state after `action`: a walk, a push, or `state` itself when the way is blocked or the action is `still`.

    Raises:
        ValueError: `action` is not one of `ACTIONS`.
    """
    if action == "still":
        return state
    step = offsets(room.width).get(action)
    if step is None:
        raise ValueError(f"unknown action {action!r}; known: {', '.join(ACTIONS)}")
    ahead = state.player + step
    if not room.floor >> ahead & 1:
        return state
    if not state.boxes >> ahead & 1:
        return State(ahead, state.boxes)
    beyond = ahead + step
    if not room.floor >> beyond & 1 or state.boxes >> beyond & 1:
        return state
    return State(ahead, state.boxes ^ (1 << ahead) ^ (1 << beyond))


def reward_of(room: Room, before: State, after: State) -> float:
    """The reward of one step from `before` to `after`."""
    gained = (after.boxes & room.targets).bit_count() - (before.boxes & room.targets).bit_count()
    reward = STEP_REWARD
    if gained > 0:
        reward += ON_TARGET_REWARD
    elif gained < 0:
        reward += OFF_TARGET_REWARD
    if after.boxes == room.targets:
        reward += SOLVED_REWARD
    return reward


def state_key(task_id: str, room: Room, state: State) -> str:
    """GiGPO's anchor: 32 hex digits of blake2b over the task and the simulator's whole state, without any counter."""
    grid = "\n".join(render(room, state.player, state.boxes))
    return hashlib.blake2b(f"{task_id}\0{grid}".encode(), digest_size=16).hexdigest()


class Game:
    """One episode: a room, its state, and the number of steps taken."""

    __slots__ = ("max_steps", "room", "state", "steps")

    def __init__(self, room: Room, max_steps: int = 15) -> None:
        self.room = room
        self.max_steps = max_steps
        self.state = start_of(room)
        self.steps = 0

    @property
    def solved(self) -> bool:
        """Whether every box stands on a target."""
        return self.state.boxes == self.room.targets

    @property
    def done(self) -> bool:
        """Whether the episode is over, solved or out of steps."""
        return self.solved or self.steps >= self.max_steps

    @property
    def score(self) -> float:
        """The share of boxes on targets, 0 to 1."""
        return (self.state.boxes & self.room.targets).bit_count() / self.room.targets.bit_count()

    def step(self, action: str | None) -> Outcome:
        """Play `action`; None is a reply that could not be read, which costs a step and moves nothing.

        Raises:
            RuntimeError: the episode is over.
        """
        if self.done:
            raise RuntimeError("the episode is over")
        before = self.state
        self.state = advance(self.room, before, action or "still")
        self.steps += 1
        return Outcome(
            reward=reward_of(self.room, before, self.state),
            moved=self.state.player != before.player,
            pushed=self.state.boxes != before.boxes,
            terminated=self.solved,
            truncated=self.steps >= self.max_steps and not self.solved,
        )

    def copy(self) -> Game:
        """An independent game in the same state; rooms are immutable and shared."""
        twin = Game(self.room, self.max_steps)
        twin.state, twin.steps = self.state, self.steps
        return twin
