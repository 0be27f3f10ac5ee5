"""Computes optimal plans. The expert uses plans with the fewest moves of the player. The generator can also limit the
number of pushes, so it uses plans with the fewest pushes.

Both searches are A* with the same lower bound. The bound is a sum over all boxes. A box contributes the number of
pushes that it would need to reach a target if it were alone in the room. The bound is admissible and consistent, so the
first solution that leaves the queue is optimal.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise

from arlarena.environments.sokoban.game import MOVES, RoomState, advance, offsets, start_of
from arlarena.environments.sokoban.room import Room, cells

# Maximum number of states that a search visits, about 5 s on one core. 6x6 rooms need fewer than 300 states.
MAX_STATES = 500_000
_UNREACHABLE = 1 << 20


class SearchLimit(RuntimeError):
    """The search has visited the maximum number of states. The room may have a solution or no solution."""


@dataclass(frozen=True, slots=True)
class Solution:
    """A solution. `moves`: all moves of the player. `pushes`: number of moves that push a box."""

    moves: tuple[str, ...]
    pushes: int


@lru_cache(maxsize=4096)
def push_distances(height: int, width: int, floor: int, targets: int) -> tuple[int, ...]:
    """For each cell, return the minimum number of pushes that move a single box from this cell to a target.

    The value is `_UNREACHABLE` if the box cannot reach a target. Each value is a lower bound, because this function
    assumes that the player can reach every floor cell.
    """
    out = [_UNREACHABLE] * (height * width)
    queue = deque(cells(targets))
    for cell in queue:
        out[cell] = 0
    while queue:
        cell = queue.popleft()
        for step in offsets(width).values():
            box, player = cell - step, cell - 2 * step  # before the push
            if floor >> box & 1 and floor >> player & 1 and out[box] == _UNREACHABLE:
                out[box] = out[cell] + 1
                queue.append(box)
    return tuple(out)


def _lower_bound(room: Room) -> Callable[[int], int]:
    """Return a function that computes a lower bound of the number of pushes. Its argument is the mask of the boxes."""
    distances = push_distances(room.height, room.width, room.floor, room.targets)
    known: dict[int, int] = {}

    def bound(boxes: int) -> int:
        found = known.get(boxes)
        if found is None:
            found = known[boxes] = sum(distances[cell] for cell in cells(boxes))
        return found

    return bound


def _search(
    start: RoomState,
    goal_boxes: int,
    lower_bound: Callable[[int], int],
    successors: Callable[[RoomState], Iterator[RoomState]],
    limit: int | None,
    max_states: int,
) -> list[RoomState] | None:
    """Search for a state with the boxes `goal_boxes`. The search is A*, and each step costs 1. Return the states on a
    shortest path from `start`. Return None if there is no path of at most `limit` steps.

    Among states with equal estimates, deeper states come first. Among equally deep states, earlier discovered states
    come first. The result therefore does not depend on hashing.

    Raises:
        SearchLimit: more than `max_states` states were visited.
    """
    parents: dict[RoomState, tuple[RoomState | None, int]] = {start: (None, 0)}
    heap = [(lower_bound(start.boxes), 0, 0, start)]
    pushed = 0
    while heap:
        estimate, negative_depth, _, state = heapq.heappop(heap)
        if estimate >= _UNREACHABLE or (limit is not None and estimate > limit):
            return None
        depth = -negative_depth
        if state.boxes == goal_boxes:
            return _path(parents, state)
        if parents[state][1] < depth:
            continue
        for following in successors(state):
            seen = parents.get(following)
            if seen is not None and seen[1] <= depth + 1:
                continue
            parents[following] = (state, depth + 1)
            pushed += 1
            heapq.heappush(heap, (depth + 1 + lower_bound(following.boxes), -depth - 1, pushed, following))
        if len(parents) > max_states:
            raise SearchLimit(f"no solution in {max_states} visited states")
    return None


def _path(parents: dict[RoomState, tuple[RoomState | None, int]], last: RoomState) -> list[RoomState]:
    path, state = [last], parents[last][0]
    while state is not None:
        path.append(state)
        state = parents[state][0]
    return path[::-1]


def least_moves(
    room: Room, state: RoomState | None = None, limit: int | None = None, max_states: int = MAX_STATES
) -> Solution | None:
    """Return a plan with the fewest moves. Return None if there is no plan of at most `limit` moves.

    Raises:
        SearchLimit: more than `max_states` states were visited.
    """

    def successors(state: RoomState) -> Iterator[RoomState]:
        for move in MOVES:
            following = advance(room, state, move)
            if following is not state:
                yield following

    path = _search(state or start_of(room), room.targets, _lower_bound(room), successors, limit, max_states)
    if path is None:
        return None
    names = {step: move for move, step in offsets(room.width).items()}
    moves = tuple(names[b.player - a.player] for a, b in pairwise(path))
    return Solution(moves, sum(a.boxes != b.boxes for a, b in pairwise(path)))


def region(floor: int, width: int, player: int) -> int:
    """Return the mask of the cells that the player can reach. `floor`: the mask of the floor cells without boxes."""
    reached, new = 0, 1 << player
    while new:
        reached |= new
        new = (new << 1 | new >> 1 | new << width | new >> width) & floor & ~reached
    return reached


def _pushes(room: Room, state: RoomState) -> Iterator[tuple[int, int, RoomState]]:
    """Yield (player's cell before the push, step, state after the push) for each push that is possible after a
    walk.
    """
    free = room.floor & ~state.boxes
    reach = region(free, room.width, state.player)
    for box in cells(state.boxes):
        for step in offsets(room.width).values():
            if reach >> box - step & 1 and free >> box + step & 1:
                yield box - step, step, RoomState(box, state.boxes ^ (1 << box) ^ (1 << box + step))


def least_pushes(room: Room, state: RoomState | None = None, max_states: int = MAX_STATES) -> Solution | None:
    """Return a plan with the fewest pushes, connected by shortest walks. Return None if there is no plan.

    Raises:
        SearchLimit: more than `max_states` states were visited.
    """
    start = state or start_of(room)
    bound = _lower_bound(room)

    def canonical(state: RoomState) -> RoomState:
        # Put the player on the first reachable cell, so that states that differ only by a walk become equal.
        reach = region(room.floor & ~state.boxes, room.width, state.player)
        return RoomState((reach & -reach).bit_length() - 1, state.boxes)

    def successors(state: RoomState) -> Iterator[RoomState]:
        for _, _, after in _pushes(room, state):
            if bound(after.boxes) < _UNREACHABLE:
                yield canonical(after)

    path = _search(canonical(start), room.targets, bound, successors, None, max_states)
    return None if path is None else _with_walks(room, start, path, canonical)


def _with_walks(
    room: Room, start: RoomState, path: list[RoomState], canonical: Callable[[RoomState], RoomState]
) -> Solution:
    """Add the walks between the pushes of a path. Return the complete solution."""
    names = {step: move for move, step in offsets(room.width).items()}
    moves: list[str] = []
    current = start
    for following in path[1:]:
        options = [
            ((*_walk(room, current, stand), names[step]), after)
            for stand, step, after in _pushes(room, current)
            if canonical(after) == following
        ]
        shortest, current = min(options, key=lambda option: len(option[0]))
        moves += shortest
    return Solution(tuple(moves), len(path) - 1)


def _walk(room: Room, state: RoomState, goal: int) -> tuple[str, ...]:
    """Return the moves of the shortest walk from the player's cell to the cell `goal`. The walk pushes no box."""
    free = room.floor & ~state.boxes
    walks: dict[int, tuple[str, ...]] = {state.player: ()}
    queue = deque([state.player])
    while goal not in walks:
        cell = queue.popleft()
        for move, step in offsets(room.width).items():
            if free >> cell + step & 1 and cell + step not in walks:
                walks[cell + step] = (*walks[cell], move)
                queue.append(cell + step)
    return walks[goal]
