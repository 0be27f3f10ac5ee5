"""The world state, and how actions change it."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Self

from arlarena.environment.hashing import digest
from arlarena.environments.alfworld.engine.text_limits import Pattern
from arlarena.environments.alfworld.engine.world import CHANGING, MARKS, PLACES, Contents, House, bits
from arlarena.environments.alfworld.errors import GameError

NOTHING = -1
PREDICATES = frozenset((*PLACES, *MARKS, "not_inreceptacle"))


class WorldState:
    """The changing part of a game. Sets of entities are bit masks.

    The dictionaries `inside`, `at`, `marks` and `changes` are replaced and never mutated, so a state and its copies can
    share them.

    Attributes:
        location: the player's location.
        held: the thing in the player's hand, or NOTHING.
        opened: the open receptacles.
        inside, at: the things in each receptacle, and at each location.
        marks: for each condition, such as `isclean`, the things that have the condition.
        key: a Zobrist hash of the state: the XOR of the hashes of all facts that differ from the start. Equal states
            have equal keys. A step updates the key only for the facts that the step changes.
        changes: for each receptacle and each location, a hash of the changed facts about it, computed like `key`. The
            facts of a location include the facts of its receptacles and things.
        removed: pairs (thing, receptacle) for things that were taken from a receptacle and not put back. A pair is
            stored only if other receptacles are at the same location. Otherwise, the text of `look` does not depend on
            the pair.
    """

    __slots__ = ("at", "changes", "held", "house", "inside", "key", "location", "marks", "opened", "removed")

    def __init__(self, house: House) -> None:
        self.house, start = house, house.start
        self.location, self.held, self.opened = start.location, NOTHING, start.opened
        self.inside, self.at, self.marks = start.inside, start.at, start.marks
        self.removed: tuple[tuple[int, int], ...] = ()
        self.key = 0
        self.changes: dict[int, int] = {}

    def copy(self) -> Self:
        """Return an independent state."""
        twin: Self = object.__new__(type(self))
        twin.house, twin.location, twin.held, twin.opened = self.house, self.location, self.held, self.opened
        twin.inside, twin.at, twin.marks, twin.removed = self.inside, self.at, self.marks, self.removed
        twin.key, twin.changes = self.key, self.changes
        return twin

    def location_key(self) -> tuple[int, int]:
        """Return a key of the current location: its open receptacles, their contents, and the removed things."""
        return self.location, self.changes.get(self.location, 0)

    def menu_key(self) -> tuple[int, ...]:
        """Return a key of all facts that decide which moves are possible."""
        here, held, house = self.location, self.held, self.house
        if held == NOTHING or house.knives >> held & 1 or house.toggleable & house.pickupable:
            return here, held, self.changes.get(here, 0)
        return here, held, self.opened & house.receptacle_masks.get(here, 0)

    def open_to_hands(self, receptacle: int) -> bool:
        """Return whether things can be put into a receptacle and taken out: the receptacle is open, or it cannot be
        closed.
        """
        return not self.house.openable >> receptacle & 1 or bool(self.opened >> receptacle & 1)

    # --- actions; the caller must first check that the action is possible ---

    def go(self, location: int) -> None:
        """Go to a location."""
        self.key ^= _fact_hash("location", self.location) ^ _fact_hash("location", location)
        self.location = location

    def turn(self, receptacle: int, *, is_open: bool) -> None:
        """Open or close a receptacle."""
        if bool(self.opened >> receptacle & 1) != is_open:
            self._toggle(_fact_hash("opened", receptacle), receptacle, self.house.location_of[receptacle])
            self.opened ^= 1 << receptacle

    def take(self, thing: int, receptacle: int) -> None:
        """Take a thing from a receptacle at the current location."""
        self.inside = self._without(self.inside, "inside", receptacle, thing)
        self.at = self._without(self.at, "at", self.location, thing)
        self.key ^= _fact_hash("held", thing)
        self.held = thing
        if len(self.house.receptacles[self.location]) > 1 and (thing, receptacle) not in self.removed:
            self._toggle(_fact_hash("removed", thing, receptacle), receptacle, self.location)
            self.removed = tuple(sorted((*self.removed, (thing, receptacle))))

    def put(self, receptacle: int) -> None:
        """Put the held thing into a receptacle."""
        thing, self.held = self.held, NOTHING
        self.key ^= _fact_hash("held", thing)
        self.inside = self._with(self.inside, "inside", receptacle, thing)
        self.at = self._with(self.at, "at", self.location, thing)
        if (thing, receptacle) in self.removed:
            self._toggle(_fact_hash("removed", thing, receptacle), receptacle, self.location)
            self.removed = tuple([pair for pair in self.removed if pair != (thing, receptacle)])

    def mark(self, name: str, thing: int, *, off: str = "") -> None:
        """Set the condition `name` of a thing, such as `isclean`. `off`: the opposite condition to clear, or ""."""
        self.marks = dict(self.marks)
        for one, wanted in ((name, 1), (off, 0)):
            if one and self.marks[one] >> thing & 1 != wanted:
                self.key ^= _fact_hash(one, thing)
                self.marks[one] ^= 1 << thing

    def _toggle(self, fact_hash: int, *places: int) -> None:
        """Update the keys after a fact has changed. `places`: the receptacles and the locations in the fact."""
        self.key ^= fact_hash
        self.changes = self.changes | {place: self.changes.get(place, 0) ^ fact_hash for place in places}

    def _with(self, contents: Contents, what: str, place: int, thing: int) -> Contents:
        there = contents.get(place, ())
        if thing in there:
            return contents
        self._toggle(_fact_hash(what, place, thing), *{place, self.location})
        return {**contents, place: tuple(sorted((*there, thing)))}

    def _without(self, contents: Contents, what: str, place: int, thing: int) -> Contents:
        there = contents.get(place, ())
        if thing not in there:
            return contents
        self._toggle(_fact_hash(what, place, thing), *{place, self.location})
        return {**contents, place: tuple([one for one in there if one != thing])}

    # --- facts ---

    def name(self, entity: int) -> str:
        """Return the entity's name."""
        return self.house.names[entity]

    def holds(self, predicate: str, values: tuple[int, ...]) -> bool:
        """Return whether a fact holds."""
        if predicate not in CHANGING:
            if predicate == "not_inreceptacle":
                return values in self.removed
            return values in self.house.known.get(predicate, ())
        first = values[0]
        match predicate:
            case "inreceptacle":
                return first in self.inside.get(values[1], ())
            case "objectatlocation":
                return first in self.at.get(values[1], ())
            case "opened":
                return bool(self.opened >> first & 1)
            case _ if predicate in self.marks:
                return bool(self.marks[predicate] >> first & 1)
        return next(self.rows(predicate, values), None) is not None

    def rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """Yield the facts that match a pattern, in order. None in the pattern matches every entity."""
        if predicate == "inreceptacle" and pattern[0] is None and pattern[1] is not None:  # the most frequent query
            receptacle = pattern[1]
            yield from [(thing, receptacle) for thing in self.inside.get(receptacle, ())]
            return
        for row in self._rows(predicate, pattern):
            if len(row) == len(pattern) and all(p is None or p == value for p, value in zip(pattern, row, strict=True)):
                yield row

    def _rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """Yield all facts that match the pattern, and possibly other facts. The caller must filter the facts."""
        match predicate:
            case "atlocation":
                yield self.house.agent, self.location
            case "opened":
                yield from ((one,) for one in bits(self.opened))
            case "holds" if self.held != NOTHING:
                yield self.house.agent, self.held
            case "holdsany" if self.held != NOTHING:
                yield (self.house.agent,)
            case "inreceptacle":
                yield from _pairs(self.inside, pattern)
            case "objectatlocation":
                yield from _pairs(self.at, pattern)
            case "not_inreceptacle":
                yield from self.removed
            case _ if predicate in self.marks:
                yield from ((one,) for one in bits(self.marks[predicate]))
            case _:
                yield from self.house.facts.get(predicate, ())


def check_predicates(predicates: frozenset[str], where: str) -> None:
    """Check that this engine supports all `predicates`. Error messages begin with `where`.

    Raises:
        GameError: a predicate is not supported. The message names the predicate.
    """
    for name in sorted(predicates):
        # `not_istoggled` is allowed. This engine has no such facts, so a condition with this predicate never holds.
        if name in PREDICATES or (name not in CHANGING and not name.startswith("not_")) or name == "not_istoggled":
            continue
        raise GameError(f"{where}: this engine does not support {name!r}: use backend = 'textworld'")


@lru_cache(1 << 15)
def _fact_hash(what: str, *entities: int) -> int:
    """Return the hash of a fact: 128 bits, the same in all processes."""
    return int(digest(repr((what, *entities))), 16)


def _pairs(by_place: Contents, pattern: Pattern) -> Iterator[tuple[int, int]]:
    """Yield the pairs (thing, place) that match the pattern, in order."""
    if len(pattern) == 2 and pattern[1] is not None:
        yield from ((thing, pattern[1]) for thing in by_place.get(pattern[1], ()))
    else:
        yield from sorted((thing, place) for place, things in by_place.items() for thing in things)
