"""The conditions and the effects of actions. Actions have the names of the PDDL domain, in lower case."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from arlarena.environments.alfworld.engine.state import NOTHING, WorldState
from arlarena.environments.alfworld.engine.world import House

HANDS = frozenset(("inreceptacle", "objectatlocation", "holds", "holdsany"))
EFFECTS: Mapping[str, frozenset[str]] = {  # for each action, the predicates of the facts that it can change
    "gotolocation": frozenset(("atlocation",)),
    "openobject": frozenset(("opened",)),
    "closeobject": frozenset(("opened",)),
    "pickupobject": HANDS,
    "putobject": HANDS,
    "cleanobject": frozenset(("isclean",)),
    "heatobject": frozenset(("ishot", "iscool")),
    "coolobject": frozenset(("iscool", "ishot")),
    "toggleobject": frozenset(("istoggled",)),
    "sliceobject": frozenset(("issliced",)),
}


class Move(NamedTuple):
    """An action, its thing and its receptacle. NOTHING (-1) means that the action has no thing or no receptacle. For
    `sliceobject`, `receptacle` is the knife.
    """

    action: str
    thing: int = NOTHING
    receptacle: int = NOTHING


def goto_moves(house: House) -> list[tuple[int, Move]]:
    """For each receptacle, return a pair (location, move): its location, and the move that goes to it."""
    return [(location, Move("gotolocation", receptacle=each)) for each, location in house.location_of.items()]


def moves(state: WorldState) -> Iterator[Move]:
    """Yield all possible moves except `gotolocation` and `help`."""
    house = state.house
    yield from (Move("look"), Move("inventory"))
    for receptacle in house.receptacles.get(state.location, ()):
        yield from _moves_at(state, receptacle)
    if state.held == NOTHING:
        return
    yield Move("examineobject", state.held)
    if house.knives >> state.held & 1:
        for thing in state.at.get(state.location, ()):
            if house.sliceable >> thing & 1:
                yield Move("sliceobject", thing, state.held)


def _moves_at(state: WorldState, receptacle: int) -> Iterator[Move]:
    """Yield the possible moves that involve a receptacle of the current location."""
    house = state.house
    held, contents, accessible = state.held, state.inside.get(receptacle, ()), state.open_to_hands(receptacle)
    yield Move("examinereceptacle", receptacle=receptacle)
    if house.openable >> receptacle & 1:
        yield Move("closeobject" if accessible else "openobject", receptacle=receptacle)
    for thing in contents:
        if house.toggleable >> thing & 1:
            yield Move("toggleobject", thing, receptacle)
        if accessible and held == NOTHING and house.pickupable >> thing & 1:
            yield Move("pickupobject", thing, receptacle)
    if held == NOTHING:
        return
    if accessible and house.fits.get(held, 0) >> receptacle & 1:
        yield Move("putobject", held, receptacle)
    for action, able in (
        ("cleanobject", house.cleanable),
        ("heatobject", house.heatable),
        ("coolobject", house.coolable),
    ):
        if able >> held & 1 and house.tools[action] >> receptacle & 1:
            yield Move(action, held, receptacle)


def after(state: WorldState, move: Move) -> WorldState:
    """Return the state after a move. If the move's action has no effects, return the given state."""
    action, thing, receptacle = move
    if action not in EFFECTS:
        return state
    new = state.copy()
    match action:
        case "gotolocation":
            new.go(state.house.location_of[receptacle])
        case "openobject":
            new.turn(receptacle, is_open=True)
        case "closeobject":
            new.turn(receptacle, is_open=False)
        case "pickupobject":
            new.take(thing, receptacle)
        case "putobject":
            new.put(receptacle)
        case "cleanobject":
            new.mark("isclean", thing)
        case "heatobject":
            new.mark("ishot", thing, off="iscool")
        case "coolobject":
            new.mark("iscool", thing, off="ishot")
        case "toggleobject":
            new.mark("istoggled", thing)
        case "sliceobject":
            new.mark("issliced", thing)
    return new


def binding(state: WorldState, move: Move) -> dict[str, int]:
    """Return the arguments of a move as {variable of the PDDL domain: entity}. `state`: the state before the move."""
    house, (action, thing, receptacle) = state.house, move
    match action:
        case "look":
            return {"a": house.agent, "l": state.location}
        case "inventory" | "help":
            return {"a": house.agent}
        case "examinereceptacle":
            return {"a": house.agent, "r": receptacle}
        case "examineobject":
            return {"a": house.agent, "o": thing}
        case "gotolocation":
            lend = house.location_of[receptacle]
            return {"a": house.agent, "lstart": state.location, "lend": lend, "r": receptacle}
        case "openobject" | "closeobject":
            return {"a": house.agent, "l": state.location, "r": receptacle}
        case "sliceobject":
            return {"a": house.agent, "l": state.location, "co": thing, "ko": receptacle}
    return {"a": house.agent, "l": state.location, "o": thing, "r": receptacle}
