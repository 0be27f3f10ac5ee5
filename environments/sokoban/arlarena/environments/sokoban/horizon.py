"""Checks whether levels from files can be solved within the horizon. Boxoban's levels need about 20 to 150 moves."""

from __future__ import annotations

import math
from statistics import median

from arlarena.environments.sokoban.levels import Levels
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.solver import SearchLimit, least_moves, least_pushes

SAMPLE = 48  # maximum number of levels that `horizon_hint` tries to solve; they are evenly spread over all levels
SAMPLE_STATES = 1_000  # maximum number of states in a search, about 0.05 s


def horizon_hint(levels: Levels, max_steps: int) -> str | None:
    """Return a warning if most levels of a sample cannot be solved in `max_steps` moves. Otherwise,
    return None.

    The call takes at most about 3 s. If the searches for a level find no solution, the level counts as not solvable.
    The warning contains the median number of moves in the solutions. Most of these solutions have the fewest pushes, so
    they are a few moves longer than the shortest solutions.
    """
    rooms = [room for members in levels.splits.values() for room in members]
    sample = rooms[:: math.ceil(len(rooms) / SAMPLE)]
    lengths = [_solution_length(room, max_steps) for room in sample]
    in_time = sum(length <= max_steps for length in lengths)
    if 2 * in_time >= len(sample):
        return None
    middle = median(lengths)
    needed = (
        f"the median solution has {middle:.0f} moves"
        if math.isfinite(middle)
        else "the search found no solution for most of the levels"
    )
    which = "levels" if len(sample) == len(rooms) else f"sampled levels (of {len(rooms)})"
    return (
        f"{in_time} of {len(sample)} {which} can be solved in max_steps = {max_steps} moves; {needed}: set "
        "[environment.options] max_steps higher"
    )


def _solution_length(room: Room, max_steps: int) -> float:
    """Return the number of moves in a solution. Return inf if no solution is found.

    The first search finds the solution with the fewest pushes. If this solution has more than `max_steps` moves, a
    second search looks for the shortest solution.
    """
    length = math.inf
    try:
        plan = least_pushes(room, max_states=SAMPLE_STATES)
        length = len(plan.moves) if plan else math.inf
        if length > max_steps:
            shortest = least_moves(room, limit=max_steps, max_states=SAMPLE_STATES)
            length = len(shortest.moves) if shortest else length
    except SearchLimit:
        pass  # keep the result of the first search; it is inf if the first search reached its limit
    return length
