"""The 120 rooms of ALFWorld: their receptacles, and the kinds of things that can be in them.

`data/rooms.json` has the receptacles of the 120 floor plans; `scripts/alfworld_rooms.py` writes this file. For some
receptacles, such as burners, a toaster or a towel holder, a floor plan states no position. This module chooses a fixed
position for each of these receptacles.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from random import Random
from typing import Any

FACTS: dict[str, Any] = json.loads(resources.files(__package__).joinpath("data/rooms.json").read_text(encoding="utf-8"))
FITS: dict[str, frozenset[str]] = {kind: frozenset(things) for kind, things in FACTS["objects_by_receptacle"].items()}
ABLE: dict[str, frozenset[str]] = {name: frozenset(things) for name, things in FACTS["objects_by_property"].items()}
OPENABLE = frozenset(FACTS["openable"])
HOLDING = frozenset(FACTS["movable"])  # things that can contain other things: bowls, boxes, mugs, …
PORTABLE = frozenset().union(*FITS.values())
LAMPS = ABLE["toggleable"]
ROOM_KINDS = {0: "Kitchen", 2: "LivingRoom", 3: "Bedroom", 4: "Bathroom"}  # by the hundreds digit of a room's number

UNSEEN_UP_TO = 6  # rooms 1 to 6 of each kind are for valid_unseen; rooms 7 to 30 are for train and valid_seen
# Number of receptacles that a room gets, by kind, if the floor plan states no positions for this kind. For a kind that
# is not listed here, the number is 1.
SEVERAL = {"StoveBurner": 4, "Drawer": 3, "Shelf": 2}
# Receptacles that stand on another receptacle. The player uses both receptacles from one location.
ON = {"CoffeeMachine": ("CounterTop", "DiningTable"), "Toaster": ("CounterTop", "DiningTable")}
LAMP_STANDS = ("Desk", "SideTable", "Dresser", "Shelf", "CoffeeTable", "DiningTable", "TVStand", "Sofa", "ArmChair")
NEVER_OPENS = 0.2  # share of cabinets that cannot be opened; the floor plans have such cabinets

Place = tuple[int, int, int, int]  # the player's column, row, direction (quarter turns) and view (degrees down)


@dataclass(frozen=True, slots=True)
class Fixture:
    """A receptacle, and the location of a player who uses the receptacle."""

    id: str
    kind: str
    place: Place
    openable: bool


@dataclass(frozen=True, slots=True)
class HouseRoom:
    """A room. `kinds`: the kinds of things that can be in the room."""

    number: int
    kind: str
    fixtures: tuple[Fixture, ...]
    kinds: tuple[str, ...]

    def holders(self, thing: str) -> list[Fixture]:
        """Return the fixtures that can hold a kind of thing."""
        return [fixture for fixture in self.fixtures if thing in FITS.get(fixture.kind, ())]


NUMBERS = tuple(int(number) for number in FACTS["rooms"])
SEEN = tuple(number for number in NUMBERS if number % 100 > UNSEEN_UP_TO)
UNSEEN = tuple(number for number in NUMBERS if number % 100 <= UNSEEN_UP_TO)


@cache
def room(number: int) -> HouseRoom:
    """Return the room with this floor plan number."""
    facts = FACTS["rooms"][str(number)]
    random = Random(number)
    fixtures = [
        Fixture(name, kind, (column, row, turn, down), kind in OPENABLE and not _never_opens(kind, random))
        for name, column, row, turn, down in facts["receptacles"]
        if (kind := _kind(name)) in FITS
    ]
    placed = {fixture.kind for fixture in fixtures}
    for kind in sorted(set(facts["kinds"]) & FITS.keys() - placed):
        for _ in range(SEVERAL.get(kind, 1)):
            fixtures.append(_added(kind, fixtures, random))
    return HouseRoom(number, ROOM_KINDS[number // 100], tuple(fixtures), tuple(facts["kinds"]))


def _kind(name: str) -> str:
    """Return the kind of a receptacle: SinkBasin for `Sink|-01.90|+00.97|-01.50|SinkBasin`."""
    parts = name.split("|")
    return parts[4] if len(parts) > 4 else parts[0]


def _never_opens(kind: str, random: Random) -> bool:
    return kind == "Cabinet" and random.random() < NEVER_OPENS


def _added(kind: str, fixtures: list[Fixture], random: Random) -> Fixture:
    """Return a receptacle for which the floor plan states no position. `random` determines the position."""
    stands = [fixture for fixture in fixtures if fixture.kind in ON.get(kind, ())]
    if stands:
        place = random.choice(stands).place
    else:
        taken = {fixture.place for fixture in fixtures}
        place = next(one for one in iter(lambda: _somewhere(random), None) if one not in taken)
    x, z = place[0] / 4 + random.uniform(-0.4, 0.4), place[1] / 4 + random.uniform(-0.4, 0.4)
    suffix = f"|{kind}" if kind.endswith("Basin") else ""
    return Fixture(thing_id(kind.removesuffix("Basin"), x, 0.9, z) + suffix, kind, place, kind in OPENABLE)


def _somewhere(random: Random) -> Place:
    return random.randint(-9, 9), random.randint(-9, 9), random.randrange(4), random.choice((0, 30, 45))


def thing_id(kind: str, x: float, y: float, z: float) -> str:
    """Return an id in ALFRED's form: `Apple|+01.59|+00.97|-01.29`."""
    return "|".join([kind, *(f"{'-' if value < 0 else '+'}{abs(value):05.2f}" for value in (x, y, z))])
