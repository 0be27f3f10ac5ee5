"""The expert: an optimal plan, written as a model would reply."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from arlarena.environment.replies import reply
from arlarena.environments.sokoban.game import State, advance
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.solver import Plan, SearchLimit, least_moves, least_pushes

ThinkStyle = Literal["push", "none"]


class NoPlan(RuntimeError):
    """The state has no solution, or none was found within the search's bound."""


def plan_for(room: Room, state: State) -> Plan:
    """The plan with the fewest moves; in rooms too large for that search, the one with the fewest pushes.

    Raises:
        NoPlan: see there.
    """
    try:
        plan = least_moves(room, state)
    except SearchLimit:
        try:
            plan = least_pushes(room, state)
        except SearchLimit as error:
            raise NoPlan(f"no plan found: {error}") from error
    if plan is None:
        raise NoPlan("no plan exists: a box can no longer reach a target")
    return plan


def next_push(room: Room, state: State, moves: Iterable[str]) -> str:
    """The direction of the first push among `moves`, played from `state`.

    Raises:
        NoPlan: nothing is pushed.
    """
    for move in moves:
        after = advance(room, state, move)
        if after.boxes != state.boxes:
            return move
        state = after
    raise NoPlan("the plan pushes nothing: every box is on a target")


def replies(room: Room, state: State, moves: Sequence[str], think: ThinkStyle) -> list[str]:
    """The expert's replies, one a move, in the strict format: the next push as thought, then the move."""
    out = []
    for position, move in enumerate(moves):
        thought = f"push {next_push(room, state, moves[position:])}" if think == "push" else ""
        out.append(reply(thought, move))
        state = advance(room, state, move)
    return out
