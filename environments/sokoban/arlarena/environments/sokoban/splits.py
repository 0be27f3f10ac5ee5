"""Maps a split and an index to a room, such that no evaluation room occurs in training.

The hash of a room's *plan*, its walls and targets modulo symmetry, determines the split. This is stricter than a hash
of the room: all rooms with the same plan are in the same split, for any boxes and player. It also saves time, as a
draft of the wrong split is dropped before reverse play.

Training rooms are drawn independently, so room `i` does not need its predecessors, and rooms may repeat. In evaluation
splits, index `i` is the i-th *distinct* room, modulo symmetry.
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
from arlarena.environments.sokoban.symmetry import plan_hash, room_hash

# Eighths of all plans. Small rooms repeat often (half of 1,000 drafts of 6x6 with 1 box), so 512 distinct evaluation
# rooms are found in a few seconds only if the evaluation share is large.
SHARES = {"train": 5, "validation": 1, "test": 2}
SPLITS = tuple(SHARES)
EVALUATION_SPLITS = ("validation", "test")
# A draft of the wrong split takes 60 us, so this limit takes seconds. It is reached only if the options exclude nearly
# all rooms, or if an evaluation set needs more rooms than exist.
MAX_DRAFTS = 50_000


@dataclass(frozen=True, slots=True)
class RoomOptions:
    """Options of generated rooms. `min_moves` and `max_moves` bound the length of the optimal solution, `min_pushes`
    and `max_pushes` the least number of pushes; None: no bound.

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
        """Return whether the optimal solutions are within the bounds. False if the search limit is reached."""
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
    return split_of_digest(plan_hash(room), SHARES)


def check_split(split: str) -> None:
    """Raise if the split is unknown.

    Raises:
        ValueError: the split is unknown; the message lists the known names.
    """
    if split not in SHARES:
        raise ValueError(f"unknown split {split!r}; known: {', '.join(SPLITS)}")


# Small layouts recur, so this cache answers most drafts of an evaluation set.
@lru_cache(maxsize=1 << 14)
def _accepted(layout: Layout, split: str, options: RoomOptions) -> Room | None:
    """Return the room of a layout, if it belongs to the split and the options accept it."""
    if split_of_digest(plan_hash(layout), SHARES) != split:
        return None
    room = play_backwards(layout)
    return room if room and options.accepts(room) else None


def _find(split: str, index: int, options: RoomOptions, taken: frozenset[str] | set[str]) -> tuple[Room, str]:
    """Return the first room drawn for an index whose hash is not in `taken`, and this hash."""
    height, width, boxes = options.height, options.width, options.boxes
    random = random_for(height, width, boxes, split, index)
    for _ in range(MAX_DRAFTS):
        layout = draw_layout(random, height, width, boxes)
        room = _accepted(layout, split, options) if layout else None
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
        """Return room `index`. All earlier rooms are generated first, because this room must differ from them."""
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
        RoomsExhausted: no such room within `MAX_DRAFTS` drafts.
    """
    check_split(split)
    if index < 0:
        raise ValueError(f"a room's index is 0 or more, not {index}")
    if split in EVALUATION_SPLITS:
        return _eval_set(split, options).room(index)
    return _training_room(split, index, options)
