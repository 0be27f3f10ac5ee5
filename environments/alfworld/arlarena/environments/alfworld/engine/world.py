"""A house: the part of a game that never changes. Entities are represented by numbers, in the order of their ids."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field

from arlarena.environments.alfworld.engine.names import names_of
from arlarena.environments.alfworld.engine.pddl import PddlProblem
from arlarena.environments.alfworld.errors import GameError

Mask = int  # a set of entities: bit n is entity n
Pair = tuple[int, int]
Rows = dict[str, tuple[tuple[int, ...], ...]]  # facts by predicate
Contents = dict[int, tuple[int, ...]]  # things by place, in order

# CHANGING: predicates with facts that can change. The engine stores these facts only for PLACES and MARKS. Facts of
# predicates outside CHANGING never change: they are *static*.
PLACES = ("atlocation", "opened", "inreceptacle", "objectatlocation", "holds", "holdsany")
MARKS = ("isclean", "ishot", "iscool", "issliced", "istoggled")
PROPERTIES = ("pickupable", "openable", "cleanable", "heatable", "coolable", "toggleable", "sliceable")
TOOLS = {"cleanobject": "sinkbasintype", "heatobject": "microwavetype", "coolobject": "fridgetype"}
CHANGING = frozenset((*PLACES, *MARKS, "ison", "checked", "examined", "wasinreceptacle", "full"))


@dataclass(frozen=True, slots=True)
class InitialPlacement:
    """The changing facts at the start.

    Attributes:
        location: the player's location.
        opened: the open receptacles.
        inside, at: the things in each receptacle, and at each location.
        marks: for each condition, such as `isclean`, the things that have the condition.
    """

    location: int
    opened: Mask
    inside: Contents
    at: Contents
    marks: dict[str, Mask]


@dataclass(frozen=True, slots=True)
class House:
    """The part of a game that never changes, and the facts at the start. Masks are sets of entities.

    Attributes:
        ids, names: the ids and the names of the entities.
        agent: the entity that represents the player.
        receptacles: the receptacles at each location. `receptacle_masks` stores these sets as bit masks.
        location_of: the location of each receptacle.
        fits: for each thing, the receptacles into which the thing can be put.
        pickupable, openable, cleanable, heatable, coolable, toggleable, sliceable: the entities with this property.
        knives: the things that can slice other things.
        tools: the receptacles in which things can be cleaned, heated or cooled, by action.
        facts: the static facts by predicate, in order. `known` stores these facts as sets.
        start: the changing facts at the start.
    """

    ids: tuple[str, ...]
    names: tuple[str, ...]
    agent: int
    receptacles: dict[int, tuple[int, ...]]
    receptacle_masks: dict[int, Mask]
    location_of: dict[int, int]
    fits: dict[int, Mask]
    pickupable: Mask
    openable: Mask
    cleanable: Mask
    heatable: Mask
    coolable: Mask
    toggleable: Mask
    sliceable: Mask
    knives: Mask
    tools: dict[str, Mask]
    facts: Rows
    start: InitialPlacement
    known: dict[str, frozenset[tuple[int, ...]]] = field(repr=False)


def bits(mask: Mask) -> Iterator[int]:
    """Yield the entities of a set in ascending order."""
    while mask:
        low = mask & -mask
        yield low.bit_length() - 1
        mask ^= low


def build(problem: PddlProblem) -> House:
    """Return the house of a problem.

    Raises:
        GameError: the problem contradicts itself, or this engine does not support it.
    """
    mentioned = {argument for fact in problem.facts for argument in fact[1:]}
    ids = tuple(sorted(mentioned))
    number = {one: at for at, one in enumerate(ids)}
    names = names_of(mentioned)
    facts: dict[str, list[tuple[int, ...]]] = defaultdict(list)
    for name, *arguments in problem.facts:
        facts[name].append(tuple(number[argument] for argument in arguments))
    rows = {name: tuple(sorted(found)) for name, found in facts.items()}
    agent, location = _agent_and_location(rows, problem)
    location_of, standing = _standing(rows)
    static = {name: found for name, found in rows.items() if name not in CHANGING}
    return House(
        ids=ids,
        names=tuple(names[one] for one in ids),
        agent=agent,
        receptacles={place: tuple(sorted(found)) for place, found in standing.items()},
        receptacle_masks={place: sum(1 << one for one in found) for place, found in standing.items()},
        location_of=location_of,
        fits=_fits(rows),
        knives=_of_types(rows, "objecttype", number, ("knifetype", "butterknifetype")),
        tools={action: _of_types(rows, "receptacletype", number, (kind,)) for action, kind in TOOLS.items()},
        facts=static,
        start=_start(rows, location),
        known={name: frozenset(found) for name, found in static.items()},
        **{predicate: _mask(rows, predicate) for predicate in PROPERTIES},
    )


def _mask(rows: Rows, predicate: str) -> Mask:
    """Return the entities for which a unary predicate holds."""
    return sum(1 << row[0] for row in rows.get(predicate, ()))


def _standing(rows: Rows) -> tuple[dict[int, int], dict[int, list[int]]]:
    """Return the location of each receptacle, and the receptacles of each location."""
    location_of = dict(_pairs(rows, "receptacleatlocation"))
    if len(location_of) < len(rows.get("receptacleatlocation", ())):
        raise GameError("PDDL problem: a receptacle is at two locations")
    standing: dict[int, list[int]] = defaultdict(list)
    for receptacle, place in location_of.items():
        standing[place].append(receptacle)
    return location_of, standing


def _start(rows: Rows, location: int) -> InitialPlacement:
    return InitialPlacement(
        location,
        _mask(rows, "opened"),
        _contents(rows, "inreceptacle"),
        _contents(rows, "objectatlocation"),
        {name: _mask(rows, name) for name in MARKS},
    )


def _agent_and_location(rows: Rows, problem: PddlProblem) -> Pair:
    """Return the problem's only agent, and the agent's location."""
    places = rows.get("atlocation", ())
    if len(places) != 1:
        raise GameError(f"PDDL problem: the agent must be at one location, but it is at {len(places)}")
    agents = [one for one, kind in problem.objects.items() if kind == "agent"]
    if len(agents) != 1:
        raise GameError(f"PDDL problem: one agent is expected, but there are {len(agents)}")
    if rows.get("holds") or rows.get("holdsany"):
        raise GameError("PDDL problem: the agent holds something at the start")
    return places[0][0], places[0][1]


def _pairs(rows: Rows, predicate: str) -> Iterator[Pair]:
    for row in rows.get(predicate, ()):
        if len(row) != 2:
            raise GameError(f"PDDL problem: ({predicate} …) must have two arguments, but it has {len(row)}")
        yield row[0], row[1]


def _contents(rows: Rows, predicate: str) -> Contents:
    found: dict[int, list[int]] = defaultdict(list)
    for thing, place in _pairs(rows, predicate):
        found[place].append(thing)
    return {place: tuple(sorted(things)) for place, things in found.items()}


def _fits(rows: Rows) -> dict[int, Mask]:
    holders: dict[int, Mask] = defaultdict(int)  # type of object -> receptacles
    kinds: dict[int, Mask] = defaultdict(int)  # type of receptacle -> receptacles
    for receptacle, kind in _pairs(rows, "receptacletype"):
        kinds[kind] |= 1 << receptacle
    for kind, inner in _pairs(rows, "cancontain"):
        holders[inner] |= kinds[kind]
    fits: dict[int, Mask] = defaultdict(int)
    for thing, kind in _pairs(rows, "objecttype"):
        fits[thing] |= holders[kind]
    return dict(fits)


def _of_types(rows: Rows, predicate: str, number: dict[str, int], types: tuple[str, ...]) -> Mask:
    wanted = {number[kind] for kind in types if kind in number}
    return sum(1 << one for one in {thing for thing, kind in _pairs(rows, predicate) if kind in wanted})
