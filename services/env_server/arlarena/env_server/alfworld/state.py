"""Where everything is now, and what actions make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Self

from arlarena.env_server.alfworld.errors import GameError
from arlarena.env_server.alfworld.grammar import Pattern
from arlarena.env_server.alfworld.world import CHANGING, MARKS, PLACES, Contents, House, bits

NOTHING = -1
PREDICATES = frozenset((*PLACES, *MARKS, "not_inreceptacle"))


class State:
    """All that changes. Sets of entities are bit masks; `inside`, `at` and `marks` are replaced and never changed, so
    that copies share them.

    `removed`: (object, receptacle) from which the object was taken since it was last put there. The text of `look` asks
    for it. It is kept where receptacles share a location: elsewhere it can never show.
    """

    __slots__ = ("at", "held", "house", "inside", "location", "marks", "opened", "removed")

    def __init__(self, house: House) -> None:
        self.house, start = house, house.start
        self.location, self.held, self.opened = start.location, NOTHING, start.opened
        self.inside, self.at, self.marks = start.inside, start.at, start.marks
        self.removed: tuple[tuple[int, int], ...] = ()

    def copy(self) -> Self:
        """An independent state."""
        twin: Self = object.__new__(type(self))
        twin.house, twin.location, twin.held, twin.opened = self.house, self.location, self.held, self.opened
        twin.inside, twin.at, twin.marks, twin.removed = self.inside, self.at, self.marks, self.removed
        return twin

    def key(self) -> str:
        """All that can make a difference from now on, written canonically: contents where they are not as they were."""
        start = self.house.start
        inside, at = _changed(self.inside, start.inside), _changed(self.at, start.at)
        return repr((self.location, self.held, self.opened, inside, at, *self.marks.values(), self.removed))

    def at_hand(self) -> tuple[object, ...]:
        """All that the moves that are possible depend on."""
        here, house = self.location, self.house
        receptacles = house.receptacles.get(here, ())
        lying = self.at.get(here, ()) if self.held != NOTHING and house.knives >> self.held & 1 else ()
        opened = tuple([self.opened >> one & 1 for one in receptacles])
        return (here, self.held, opened, *[self.inside.get(one, ()) for one in receptacles], lying)

    def open_to_hands(self, receptacle: int) -> bool:
        """Whether things can be put into it and taken from it."""
        return not self.house.openable >> receptacle & 1 or bool(self.opened >> receptacle & 1)

    # --- actions; whether they may be done is for the caller to know ---

    def take(self, thing: int, receptacle: int) -> None:
        """Pick something up."""
        self.inside = _without(self.inside, receptacle, thing)
        self.at = _without(self.at, self.location, thing)
        self.held = thing
        if len(self.house.receptacles[self.location]) > 1:
            self.removed = tuple(sorted({*self.removed, (thing, receptacle)}))

    def put(self, receptacle: int) -> None:
        """Put down what is held."""
        thing, self.held = self.held, NOTHING
        self.inside = _with(self.inside, receptacle, thing)
        self.at = _with(self.at, self.location, thing)
        if self.removed:
            self.removed = tuple([pair for pair in self.removed if pair != (thing, receptacle)])

    def mark(self, name: str, thing: int, *, off: str = "") -> None:
        """Make something clean, hot, …; and `off` what excludes it."""
        self.marks = {**self.marks, name: self.marks[name] | 1 << thing}
        if off:
            self.marks[off] &= ~(1 << thing)

    # --- facts ---

    @property
    def lists(self) -> dict[tuple[object, ...], str]:
        """See `grammar.Facts`."""
        return self.house.lists

    def name(self, entity: int) -> str:
        """What it is called."""
        return self.house.names[entity]

    def holds(self, predicate: str, values: tuple[int, ...]) -> bool:
        """Whether a fact is so."""
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
        """The facts that fit a pattern, in order; None fits anything."""
        if predicate == "inreceptacle" and pattern[0] is None and pattern[1] is not None:  # what everybody asks
            receptacle = pattern[1]
            yield from [(thing, receptacle) for thing in self.inside.get(receptacle, ())]
            return
        for row in self._rows(predicate, pattern):
            if len(row) == len(pattern) and all(p is None or p == value for p, value in zip(pattern, row, strict=True)):
                yield row

    def _rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """At least those that fit."""
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
    """Refuse text and goals that ask for what is not kept here.

    Raises:
        GameError: with the predicate's name.
    """
    for name in sorted(predicates):
        # Nothing that is on forever is ever made untrue, so no fact says so: such a condition never holds.
        if name in PREDICATES or (name not in CHANGING and not name.startswith("not_")) or name == "not_istoggled":
            continue
        raise GameError(f"{where}: {name!r} is asked for, which this engine does not keep: use backend = 'textworld'")


def _with(contents: Contents, place: int, thing: int) -> Contents:
    return {**contents, place: tuple(sorted({*contents.get(place, ()), thing}))}


def _without(contents: Contents, place: int, thing: int) -> Contents:
    return {**contents, place: tuple([one for one in contents.get(place, ()) if one != thing])}


def _changed(now: Contents, then: Contents) -> list[tuple[int, tuple[int, ...]]]:
    """What lies elsewhere than it did, by place."""
    return (
        []
        if now is then
        else sorted([(place, things) for place, things in now.items() if things != then.get(place, ())])
    )


def _pairs(by_place: Contents, pattern: Pattern) -> Iterator[tuple[int, int]]:
    """(thing, place) in order."""
    if len(pattern) == 2 and pattern[1] is not None:
        yield from ((thing, pattern[1]) for thing in by_place.get(pattern[1], ()))
    else:
        yield from sorted((thing, place) for place, things in by_place.items() for thing in things)
