"""Maps a split and an index to a room. No evaluation room occurs in training.

A room's *floor plan* is its walls and targets, up to rotation and reflection. The hash of the floor plan determines the
split. All rooms with equal floor plans are therefore in the same split, even if the positions of boxes and player
differ. The floor plan is known before reverse play, so a *draft* (an attempt to draw a room) for another split is
dropped early.

Training rooms are drawn independently of each other, so rooms may repeat. In evaluation splits, index `i` is the i-th
*distinct* room. Rotated or reflected rooms count as equal.
"""

from __future__ import annotations

import threading
from dataclasses import asdict, dataclass
from functools import lru_cache

from arlarena.environment.hashing import split_of_digest
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.rooms import (
    Layout,
    RoomsExhausted,
    check_size,
    draw_layout,
    play_backwards,
    random_for,
)
from arlarena.environments.sokoban.solver import SearchLimit, least_moves, least_pushes
from arlarena.environments.sokoban.symmetry import floor_plan_hash, room_hash

# The share of floor plans in each split, in eighths. Small rooms repeat often: half of 1,000 drafts of 6x6 with 1 box
# are repetitions. An evaluation split therefore needs many floor plans to find 512 distinct rooms in a few seconds.
SHARES = {"train": 5, "validation": 1, "test": 2}
SPLITS = tuple(SHARES)
EVALUATION_SPLITS = ("validation", "test")
# Maximum number of drafts (attempts to draw a room) for one room. So many drafts take seconds; a draft for another
# split takes only 60 µs. The maximum is reached only if the options exclude nearly all rooms, or if an evaluation set
# needs more rooms than exist.
MAX_DRAFTS = 50_000


@dataclass(frozen=True, slots=True)
class RoomOptions:
    """Options of generated rooms. `min_moves`, `max_moves`: bounds of the number of moves in the shortest solution.
    `min_pushes`, `max_pushes`: bounds of the number of pushes in the solution with the fewest pushes. None: no bound.

    Raises:
        ValueError: the size is impossible, or the bounds exclude all rooms.
    """

    height: int = 6
    width: int = 6
    boxes: int = 1
    min_moves: int | None = None
    max_moves: int | None = None
    min_pushes: int | None = None
    max_pushes: int | None = None

    def __post_init__(self) -> None:
        check_size(self.height, self.width, self.boxes)
        for unit, low, high in (
            ("moves", self.min_moves, self.max_moves),
            ("pushes", self.min_pushes, self.max_pushes),
        ):
            if (low or 1) < 1 or (high is not None and high < (low or 1)):
                raise ValueError(f"min_{unit} = {low}, max_{unit} = {high}: these bounds exclude all solutions")

    def accepts(self, room: Room) -> bool:
        """Return True if the optimal solutions are within the bounds. Return False if a search reaches its limit."""
        try:
            return self._moves_fit(room) and self._pushes_fit(room)
        except SearchLimit:
            return False

    def _moves_fit(self, room: Room) -> bool:
        if self.min_moves is None and self.max_moves is None:
            return True
        plan = least_moves(room, limit=self.max_moves)
        return plan is not None and len(plan.moves) >= (self.min_moves or 0)

    def _pushes_fit(self, room: Room) -> bool:
        if self.min_pushes is None and self.max_pushes is None:
            return True
        plan = least_pushes(room)
        return plan is not None and (self.min_pushes or 0) <= plan.pushes <= (self.max_pushes or plan.pushes)


def split_of(room: Room) -> str:
    """Return the split of a room."""
    return split_of_digest(floor_plan_hash(room), SHARES)


def check_split(split: str) -> None:
    """Raise ValueError if the split is unknown."""
    if split not in SHARES:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")


# Small layouts repeat often, so this cache contains most drafts of an evaluation set.
@lru_cache(maxsize=1 << 14)
def _room_if_accepted(layout: Layout, split: str, options: RoomOptions) -> Room | None:
    """Return the room of a layout. Return None if the layout is in another split, if reverse play finds no room, or if
    the options exclude the room.
    """
    if split_of_digest(floor_plan_hash(layout), SHARES) != split:
        return None
    room = play_backwards(layout)
    return room if room and options.accepts(room) else None


def _find(split: str, index: int, options: RoomOptions, taken: frozenset[str] | set[str]) -> tuple[Room, str]:
    """Draw rooms for an index until a room's hash is not in `taken`. Return this room and its hash.

    Raises:
        RoomsExhausted: `MAX_DRAFTS` attempts gave no such room.
    """
    height, width, boxes = options.height, options.width, options.boxes
    random = random_for(height, width, boxes, split, index)
    for _ in range(MAX_DRAFTS):
        layout = draw_layout(random, height, width, boxes)
        room = _room_if_accepted(layout, split, options) if layout else None
        if room is None:
            continue
        digest = room_hash(room)
        if digest not in taken:
            return room, digest
    bounds = (f"{name} = {value}" for name, value in asdict(options).items() if "_" in name and value is not None)
    raise RoomsExhausted(
        f"no further {height}x{width} room with {boxes} boxes ({', '.join(bounds) or 'no bounds'}) for {split}/{index} "
        f"in {MAX_DRAFTS} attempts: either widen these options or request lower indices"
    )


class EvalRooms:
    """The distinct rooms of an evaluation split, generated in order on first use."""

    def __init__(self, split: str, options: RoomOptions) -> None:
        self._split, self._options = split, options
        self._rooms: list[Room] = []
        self._hashes: set[str] = set()
        self._lock = threading.Lock()

    def room(self, index: int) -> Room:
        """Return room `index`. All earlier rooms are generated first, because the rooms must differ.

        Raises:
            RoomsExhausted: `MAX_DRAFTS` attempts gave no new room.
        """
        with self._lock:
            while len(self._rooms) <= index:
                room, digest = _find(self._split, len(self._rooms), self._options, self._hashes)
                self._rooms.append(room)
                self._hashes.add(digest)
            return self._rooms[index]


@lru_cache(maxsize=64)
def _eval_set(split: str, options: RoomOptions) -> EvalRooms:
    return EvalRooms(split, options)


@lru_cache(maxsize=4096)
def _training_room(split: str, index: int, options: RoomOptions) -> Room:
    return _find(split, index, options, frozenset())[0]


def room_for(split: str, index: int, options: RoomOptions) -> Room:
    """Return the room of (split, index, options). Equal arguments always give the same room.

    Raises:
        ValueError: the split is unknown, or the index is negative.
        RoomsExhausted: `MAX_DRAFTS` attempts gave no room that fulfils the options, or no new evaluation room.
    """
    check_split(split)
    if index < 0:
        raise ValueError(f"a room's index must be at least 0, but it is {index}")
    if split in EVALUATION_SPLITS:
        return _eval_set(split, options).room(index)
    return _training_room(split, index, options)
