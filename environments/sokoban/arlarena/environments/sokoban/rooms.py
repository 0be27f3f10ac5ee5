"""Generates rooms by reverse play: the boxes start on their targets and are pulled away.

The ARLArena paper uses gym-sokoban 0.0.6 (M. Schrader, MIT). This module is faster, and its rooms have the same
distribution. A *draft* is one attempt to draw a room. It has three stages:

* Floor: a random walk of 1.7 (height + width) steps. In each step, the walk draws a new direction with probability
  0.35. It then moves to the next cell, and turns the cells of one of five 3x3 masks into floor.
* Placement: the player and then the boxes are put on different floor cells, drawn uniformly. The cells of the boxes
  become the targets.
* Reverse play: a depth-first search over states (player, boxes, boxes that were never pulled). The search tries pulls
  before walks, is at most 299 moves deep, and visits at most 300,000 states. The score of a state is the number of
  pulls on its path, multiplied by the sum of the boxes' distances from their own targets. The score is 0 if a box or
  the player is on a target. The room is the first state with the highest score.

The search visits the same states in the same order as gym-sokoban. It stores a bit mask of the visited player cells for
each arrangement of boxes. A walk therefore needs no hash and no copy of the grid.

Equal (height, width, boxes, seed) always give the same room. The only source of randomness is `random.Random.random()`.
Python guarantees that the sequence of this function for an integer seed is equal in all versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from random import Random

from arlarena.environment.hashing import seeded
from arlarena.environments.sokoban.room import Room, cells, interior

GENERATOR_VERSION = "1"

STEPS_PER_SIDE = 1.7
TURN_PROBABILITY = 0.35
MAX_DEPTH = 299
MAX_STATES = 300_000
# The generator stops after this number of failed drafts. With 4 boxes in 5x5 cells, about one draft in three succeeds.
MAX_DRAFTS = 10_000

_DIRECTIONS = ((1, 0), (0, 1), (-1, 0), (0, -1))
# Cells (row, column) of each mask, relative to the walk's cell. All masks contain this cell, so the floor is connected.
_MASKS = (
    ((0, -1), (0, 0), (0, 1)),
    ((-1, 0), (0, 0), (1, 0)),
    ((0, -1), (0, 0), (1, 0)),
    ((0, -1), (0, 0), (1, -1), (1, 0)),
    ((0, 0), (0, 1), (1, 0)),
)


class RoomsExhausted(RuntimeError):
    """All attempts to generate a room that fulfils the requirements failed."""


@dataclass(frozen=True, slots=True)
class Layout:
    """A room before reverse play. The boxes are on their targets. `player`: the player's cell before reverse play."""

    height: int
    width: int
    floor: int
    targets: tuple[int, ...]
    player: int

    @property
    def target_mask(self) -> int:
        """The targets as a mask."""
        return sum(1 << cell for cell in self.targets)


@lru_cache(maxsize=64)
def _mask_bits(height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """For each inner cell, return five bit masks: `_MASKS` around this cell, without border cells. For a border cell,
    return ().
    """
    inside = interior(height, width)
    return tuple(
        tuple(inside & sum(1 << (cell + dy * width + dx) for dy, dx in mask) for mask in _MASKS)
        if inside >> cell & 1
        else ()
        for cell in range(height * width)
    )


@lru_cache(maxsize=64)
def _next_cells(height: int, width: int) -> tuple[tuple[int, ...], ...]:
    """For each cell, return its neighbour in each direction. A neighbour on the border is replaced by the nearest inner
    cell.
    """
    return tuple(
        tuple(max(min(y + dy, height - 2), 1) * width + max(min(x + dx, width - 2), 1) for dy, dx in _DIRECTIONS)
        for y in range(height)
        for x in range(width)
    )


def carve(random: Random, height: int, width: int) -> int:
    """Draw the floor of a room by a random walk, as described in the module's docstring."""
    draw, masks, next_cells = random.random, _mask_bits(height, width), _next_cells(height, width)
    direction = int(draw() * 4)
    # As in gym-sokoban, the walk may start on the border, in the last row or column. The first step leads inside.
    cell = (1 + int(draw() * (height - 1))) * width + 1 + int(draw() * (width - 1))
    floor = 0
    for _ in range(int(STEPS_PER_SIDE * (height + width))):
        if draw() < TURN_PROBABILITY:
            direction = int(draw() * 4)
        cell = next_cells[cell][direction]
        floor |= masks[cell][int(draw() * 5)]
    return floor


def draw_layout(random: Random, height: int, width: int, boxes: int) -> Layout | None:
    """Draw one layout. Return None if the floor is too small for the boxes and the player."""
    floor = carve(random, height, width)
    free = list(cells(floor))
    if len(free) <= boxes + 1:
        return None
    chosen = [free.pop(int(random.random() * len(free))) for _ in range(boxes + 1)]
    return Layout(height, width, floor, tuple(sorted(chosen[1:])), chosen[0])


class _Boxes:
    """One arrangement of boxes in reverse play. States that differ only in the player's cell share one object."""

    __slots__ = ("mask", "no_box_on_target", "unpulled", "visited")

    def __init__(self, mask: int, unpulled: int, targets: int) -> None:
        self.mask = mask  # cells of the boxes
        self.unpulled = unpulled  # cells of the boxes that were never pulled
        self.no_box_on_target = not mask & targets
        self.visited = 0  # cells that the player has visited in this arrangement


# An entry of the search's stack: arrangement; player's cell; box cells in the order of the targets; sum of the boxes'
# distances from their targets; number of pulls; remaining depth.
_Entry = tuple[_Boxes, int, tuple[int, ...], int, int, int]


def play_backwards(layout: Layout) -> Room | None:
    """Return the room with the highest score in reverse play. Return None if no state has a score above 0."""
    return _ReversePlay(layout).run()


class _ReversePlay:
    """The depth-first search that starts from one layout. The module's docstring describes the search."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        width, count, floor = layout.width, layout.height * layout.width, layout.floor
        self.targets = layout.target_mask
        self.bits = [1 << cell for cell in range(count)]
        # Neighbours of each cell in the order right, left, down, up. The stack reverses this order.
        self.next_cells = [
            tuple(
                (p + d, self.bits[p + d], p - d, self.bits[p - d]) for d in (1, -1, width, -width) if floor >> p + d & 1
            )
            if floor >> p & 1
            else ()
            for p in range(count)
        ]
        self.distances = [[_distance(cell, target, width) for cell in range(count)] for target in layout.targets]
        self.arrangements: dict[tuple[int, int], _Boxes] = {}

    def _arrangement(self, mask: int, unpulled: int) -> _Boxes:
        found = self.arrangements.get((mask, unpulled))
        if found is None:
            found = self.arrangements[mask, unpulled] = _Boxes(mask, unpulled, self.targets)
        return found

    def run(self) -> Room | None:
        """Run the search, and return the room with the highest score. The module's docstring defines the score."""
        layout, bits, targets = self.layout, self.bits, self.targets
        root = self._arrangement(targets, targets)
        stack: list[_Entry] = [(root, layout.player, layout.targets, 0, 0, MAX_DEPTH)]
        best, best_player, best_boxes, states = 0, -1, 0, 0
        while stack and states < MAX_STATES:
            entry = stack.pop()
            boxes, player, _, displacement, pulls, left = entry
            bit = bits[player]
            if boxes.visited & bit:
                continue
            boxes.visited |= bit
            states += 1
            if boxes.no_box_on_target and pulls * displacement > best and not bit & targets:
                best, best_player, best_boxes = pulls * displacement, player, boxes.mask
            if left > 1:
                self._push_next(stack, entry)
        if not best:
            return None
        return Room(layout.height, layout.width, layout.floor, targets, best_boxes, best_player)

    def _push_next(self, stack: list[_Entry], entry: _Entry) -> None:
        """Push the successors of `entry` onto the stack, in reverse order of preference. If a move can pull a box, the
        same move without the pull has the lowest preference.
        """
        boxes, player, places, displacement, pulls, left = entry
        mask, visited, left, push = boxes.mask, boxes.visited, left - 1, stack.append
        choices = []
        for cell, bit, behind, behind_bit in self.next_cells[player]:
            if mask & bit:
                continue
            if mask & behind_bit:
                choices.append((cell, bit, behind, behind_bit))
                if not visited & bit:
                    push((boxes, cell, places, displacement, pulls, left))
            else:
                choices.append((cell, bit, -1, 0))
        for cell, bit, behind, behind_bit in choices:
            if behind < 0:
                if not visited & bit:
                    push((boxes, cell, places, displacement, pulls, left))
                continue
            pulled = self._arrangement(mask ^ behind_bit ^ self.bits[player], boxes.unpulled & ~behind_bit)
            if not pulled.visited & bit:
                box = places.index(behind)
                distance = self.distances[box]
                moved = (*places[:box], player, *places[box + 1 :])
                push((pulled, cell, moved, displacement + distance[player] - distance[behind], pulls + 1, left))


def _distance(a: int, b: int, width: int) -> int:
    return abs(a // width - b // width) + abs(a % width - b % width)


def random_for(*key: object) -> Random:
    """Return a random generator with a seed derived from `key` and `GENERATOR_VERSION` (see `seeded`)."""
    return seeded("sokoban-room", GENERATOR_VERSION, *key)


def check_size(height: int, width: int, boxes: int) -> None:
    """Check that rooms with this size and this number of boxes exist.

    Raises:
        ValueError: there are fewer than 5 rows or columns, there is no box, or the floor has too few cells for the
            boxes, the targets and the player.
    """
    if height < 5 or width < 5:
        raise ValueError(
            f"a room needs at least 5 rows and 5 columns, including walls, but the size is {height}x{width}"
        )
    space = (height - 2) * (width - 2)
    if boxes < 1 or 2 * boxes + 1 > space:
        raise ValueError(f"{boxes} boxes do not fit into a {height}x{width} room: use 1 to {(space - 1) // 2}")


def generate(height: int, width: int, boxes: int, seed: int) -> Room:
    """Return the room of (height, width, boxes, seed). Equal arguments always give the same room.

    Raises:
        ValueError: no rooms with this size and this number of boxes exist.
        RoomsExhausted: `MAX_DRAFTS` attempts gave no room, probably because there are too many boxes for the size.
    """
    check_size(height, width, boxes)
    random = random_for(height, width, boxes, seed)
    for _ in range(MAX_DRAFTS):
        layout = draw_layout(random, height, width, boxes)
        room = play_backwards(layout) if layout else None
        if room:
            return room
    raise RoomsExhausted(f"no {height}x{width} room with {boxes} boxes in {MAX_DRAFTS} attempts: set fewer boxes")
