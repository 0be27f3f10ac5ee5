"""Maps a split and an index to a room, such that no evaluation room occurs in training.

A room's *floor plan* is its walls and targets, up to rotation and reflection. The hash of the floor plan determines the
split. So all rooms with equal floor plans are in one split, wherever the boxes and the player are. This also saves
time: a *draft* (an attempt to draw a room) that belongs to another split is dropped before reverse play.

Training rooms are drawn independently of each other, so rooms may repeat. In evaluation splits, index `i` is the i-th
*distinct* room; rotated or reflected rooms count as equal.
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

# How many eighths of all floor plans each split has. Small rooms repeat often: of 1,000 drafts of 6x6 with 1 box, half
# are repetitions. So an evaluation split needs many floor plans to find 512 distinct rooms in a few seconds.
SHARES = {"train": 5, "validation": 1, "test": 2}
SPLITS = tuple(SHARES)
EVALUATION_SPLITS = ("validation", "test")
# Maximum number of drafts for one room. It is reached after seconds (a draft of another split takes 60 us), and only if
# the options exclude nearly all rooms, or if an evaluation set needs more rooms than exist.
MAX_DRAFTS = 50_000


@dataclass(frozen=True, slots=True)
class RoomOptions:
    """Options of generated rooms. `min_moves` and `max_moves` bound the number of moves of the shortest solution.
    `min_pushes` and `max_pushes` bound the number of pushes of the solution with the fewest pushes. None means that
    there is no bound.

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
        """Return whether the optimal solutions are within the bounds. Return False if the search reaches its limit."""
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


# Small layouts are drawn again and again, so most drafts of an evaluation set are in this cache.
@lru_cache(maxsize=1 << 14)
def _room_if_accepted(layout: Layout, split: str, options: RoomOptions) -> Room | None:
    """Return the room of a layout, or None if the layout belongs to another split or the options refuse the room."""
    if split_of_digest(floor_plan_hash(layout), SHARES) != split:
        return None
    room = play_backwards(layout)
    return room if room and options.accepts(room) else None


def _find(split: str, index: int, options: RoomOptions, taken: frozenset[str] | set[str]) -> tuple[Room, str]:
    """Draw rooms for an index until the hash of a room is not in `taken`. Return this room and its hash."""
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
        f"in {MAX_DRAFTS} drafts: widen these options or ask for lower indices"
    )


class EvalRooms:
    """The distinct rooms of an evaluation split, generated in order on first use."""

    def __init__(self, split: str, options: RoomOptions) -> None:
        self._split, self._options = split, options
        self._rooms: list[Room] = []
        self._hashes: set[str] = set()
        self._lock = threading.Lock()

    def room(self, index: int) -> Room:
        """Return room `index`. All earlier rooms are generated before it, because it must differ from them."""
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
        RoomsExhausted: no room in `MAX_DRAFTS` drafts fulfils the options.
    """
    check_split(split)
    if index < 0:
        raise ValueError(f"a room's index must be at least 0, but it is {index}")
    if split in EVALUATION_SPLITS:
        return _eval_set(split, options).room(index)
    return _training_room(split, index, options)
