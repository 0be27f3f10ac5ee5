"""The expert computes a plan and writes it as replies `<think>…</think><action>…</action>`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from arlarena.environment.replies import reply
from arlarena.environments.sokoban.game import RoomState, advance
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.solver import SearchLimit, Solution, least_moves, least_pushes

ThinkStyle = Literal["push", "none"]


class NoSolution(RuntimeError):
    """The state has no solution, or no search found a solution within its limit."""


def plan_for(room: Room, state: RoomState) -> Solution:
    """Return the plan with the fewest moves. If this search reaches its limit, return the plan with the fewest pushes.

    Raises:
        NoSolution: the state has no solution, or both searches reached their limits.
    """
    try:
        plan = least_moves(room, state)
    except SearchLimit:
        try:
            plan = least_pushes(room, state)
        except SearchLimit as error:
            raise NoSolution(f"no plan found: {error}") from error
    if plan is None:
        raise NoSolution("no plan exists: the boxes can no longer be pushed onto the targets")
    return plan


def next_push(room: Room, state: RoomState, moves: Iterable[str]) -> str:
    """Play `moves` from `state`, and return the direction of the first push.

    Raises:
        NoSolution: no move pushes a box.
    """
    for move in moves:
        after = advance(room, state, move)
        if after.boxes != state.boxes:
            return move
        state = after
    raise NoSolution("no move of the plan pushes a box: all boxes are on targets")


def replies(room: Room, state: RoomState, moves: Sequence[str], think: ThinkStyle) -> list[str]:
    """Return the expert's replies, one per move. If `think` is "push", the thought is the direction of the next push.
    Otherwise the thought is empty.
    """
    out = []
    for position, move in enumerate(moves):
        thought = f"push {next_push(room, state, moves[position:])}" if think == "push" else ""
        out.append(reply(thought, move))
        state = advance(room, state, move)
    return out
