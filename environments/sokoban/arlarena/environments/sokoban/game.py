"""The rules: the effect and the reward of each action.

The rewards are from the ARLArena paper: -0.1 per step, +1 for a push onto a target, -1 for a push off a target, and +10
when all boxes are on targets.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import msgspec

from arlarena.environments.sokoban.room import Room

STEP_REWARD = -0.1
ON_TARGET_REWARD = 1.0
OFF_TARGET_REWARD = -1.0
SOLVED_REWARD = 10.0

MOVES = ("up", "down", "left", "right")
ACTIONS = (*MOVES, "still")


class RoomState(msgspec.Struct, frozen=True, gc=False):
    """The changing part of a room: the number of the player's cell, and the bit mask of the boxes. It has no step
    counter, so states with equal positions are equal.
    """

    player: int
    boxes: int


@cache
def offsets(width: int) -> Mapping[str, int]:
    """Return {move: change of the player's cell number}. `width`: number of cells per row."""
    return {"up": -width, "down": width, "left": -1, "right": 1}


def start_of(room: Room) -> RoomState:
    """Return the state at the start of an episode."""
    return RoomState(room.player, room.boxes)


def advance(room: Room, state: RoomState, action: str) -> RoomState:
    """Return the state after a walk or a push. If the way is blocked or the action is `still`, return `state` itself.

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
        return RoomState(ahead, state.boxes)
    beyond = ahead + step
    if not room.floor >> beyond & 1 or state.boxes >> beyond & 1:
        return state
    return RoomState(ahead, state.boxes ^ (1 << ahead) ^ (1 << beyond))


def reward_of(room: Room, before: RoomState, after: RoomState) -> float:
    """Return the reward of one step from `before` to `after`."""
    gained = (after.boxes & room.targets).bit_count() - (before.boxes & room.targets).bit_count()
    reward = STEP_REWARD
    if gained > 0:
        reward += ON_TARGET_REWARD
    elif gained < 0:
        reward += OFF_TARGET_REWARD
    if after.boxes == room.targets:
        reward += SOLVED_REWARD
    return reward


def score_of(room: Room, state: RoomState) -> float:
    """Return the share of boxes that are on targets, from 0 to 1."""
    return (state.boxes & room.targets).bit_count() / room.targets.bit_count()
