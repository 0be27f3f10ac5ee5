"""Walks: strategies that choose the next command of an ALFWorld game.

A walk is a generator of commands. It reads the admissible commands and the state from our engine. `oracle.py` gives
each command to our engine and to TextWorld, and compares the results.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from random import Random

from arlarena.environments.alfworld.content import LoadedGame
from arlarena.environments.alfworld.engine.game import Game, Move
from arlarena.environments.alfworld.engine.state import NOTHING
from arlarena.environments.alfworld.engine.world import Mask, bits
from arlarena.environments.alfworld.expert import Expert, NoPlan

Walk = Iterator[str]
NONSENSE = (
    "dance", "", "   ", "look around", "go to", "take", "go to nowhere 1", "examine agent1", "éteindre", "help me",
    "xyzzy", "inventory 1", "take everything", "use", "open fridge", "#look.feedback#", "{o.name}", "look\nlook",
)  # fmt: skip
IDLE = ("look", "inventory", "help")
EFFECTS = ("take", "move", "put", "open", "close", "use", "heat", "cool", "clean", "slice")


def planned(game: Game, made: LoadedGame, random: Random) -> Walk:
    """Yield the expert's commands until the task is solved, or the expert finds no plan."""
    if made.goal is None:
        return
    expert = Expert(made.rules.house, made.goal)
    for _ in range(120):
        if game.won:
            return
        try:
            yield expert.choose(game)[1]
        except NoPlan:
            return


def wandering(game: Game, made: LoadedGame, random: Random) -> Walk:
    """Yield random admissible commands without end. Most of them are commands that change the state."""
    while True:
        commands = list(game.commands)
        changing = [command for command in commands if command.startswith(EFFECTS)]
        yield random.choice(changing if changing and random.random() < 0.6 else commands)


def adversarial(game: Game, made: LoadedGame, random: Random) -> Walk:
    """Yield the commands of a careless or malicious player.

    About half of the commands are nonsense, misspelled commands, commands that were admissible in an earlier state, and
    repetitions. The other commands come from `wandering`.
    """
    known: set[str] = set()
    usual, last = wandering(game, made, random), "look"
    while True:
        commands = list(game.commands)
        known.update(commands)
        one = random.choice(commands)
        elsewhere = random.choice(sorted(known - set(commands)) or commands)
        odd = (
            random.choice(NONSENSE),
            _misspelled(one, random),
            elsewhere,
            last,
            random.choice(IDLE),
            _renumbered(one, random),
        )
        last = random.choice(odd) if random.random() < 0.55 else next(usual)
        yield last


def _misspelled(command: str, random: Random) -> str:
    """Return a command with another spelling.

    The engines ignore white space at both ends of a command. Other misspelled commands usually do nothing. But a
    misspelled command can be another admissible command: "open drawer 1" can become "open drawer 11".
    """
    return random.choice(
        [
            command.upper(),
            command.title(),
            f"  {command}",
            f"{command} \n",
            f"\t{command}  ",
            command.replace(" ", "  "),
            f"{command}.",
            command[:-1],
            f"{command}{command[-1]}",
        ]
    )


def _renumbered(command: str, random: Random) -> str:
    return "".join(random.choice("0123456789") if letter.isdigit() else letter for letter in command)


# --- errands: sequences of commands that are rare in random walks ---


def errands(game: Game, made: LoadedGame, random: Random) -> Walk:
    """Yield the commands of all errands, in random order. Their sequences of commands are rare in random walks.

    - `slicing` slices things.
    - `lamps` uses lamps.
    - `treatments` cleans, heats and cools things repeatedly.
    - `neighbours` moves things between receptacles at the same location.
    - `thing_in_hand` carries things to other places.
    """
    kinds = [slicing, lamps, treatments, neighbours, thing_in_hand]
    random.shuffle(kinds)
    for errand in kinds:
        yield from errand(game, random)


def _try(game: Game, move: Move) -> Walk:
    """Yield the command that makes this move. If the move is not possible now, yield nothing."""
    for command, one in game.commands.items():
        if one == move:
            yield command
            return


def _go(game: Game, receptacle: int) -> Walk:
    """Yield commands that go to a receptacle, and open it if it is closed."""
    yield from _try(game, Move("gotolocation", receptacle=receptacle))
    yield from _try(game, Move("openobject", receptacle=receptacle))


def _drop(game: Game, random: Random) -> Walk:
    """Yield commands that put the thing in the player's hand into a random receptacle."""
    if game.state.held == NOTHING:
        return
    places = [one for one in bits(game.rules.house.fits.get(game.state.held, 0)) if one in game.rules.house.location_of]
    if places:
        place = random.choice(places)
        yield from _go(game, place)
        yield from _try(game, Move("putobject", game.state.held, place))


def _fetch(game: Game, things: Mask, random: Random) -> Walk:
    """Yield commands that take one of `things`. If the player already holds one of them, yield nothing.

    If the player holds another thing, first put that thing down.
    """
    if game.state.held != NOTHING and things >> game.state.held & 1:
        return
    yield from _drop(game, random)
    found = [
        (thing, receptacle)
        for receptacle, inside in sorted(game.state.inside.items())
        for thing in inside
        if things >> thing & 1 and receptacle in game.rules.house.location_of
    ]
    if found:
        thing, receptacle = random.choice(found)
        yield from _go(game, receptacle)
        yield from _try(game, Move("pickupobject", thing, receptacle))


def _look_around(game: Game, random: Random) -> Walk:
    """Yield `look`, `inventory` and up to five of the admissible `examine` commands."""
    yield from ("look", "inventory")
    yield from [command for command in game.commands if command.startswith("examine")][:5]


def slicing(game: Game, random: Random) -> Walk:
    """Twice, yield commands that take a knife, slice a thing two times, take the thing, and clean, heat and cool it."""
    house = game.rules.house
    if not house.knives or not house.sliceable:
        return
    for _ in range(2):
        yield from _fetch(game, house.knives, random)
        placements = [(place, thing) for place, things in game.state.at.items() for thing in things]
        food = [
            (place, thing) for place, thing in placements if house.sliceable >> thing & 1 and place in house.receptacles
        ]
        if not food:
            return
        place, thing = random.choice(food)
        yield from _go(game, house.receptacles[place][0])
        for _ in range(2):
            yield from _try(game, Move("sliceobject", thing, game.state.held))
        yield from _look_around(game, random)
        yield from _fetch(game, 1 << thing, random)
        yield from _look_around(game, random)
        yield from _treat(game, random)


def _treat(game: Game, random: Random) -> Walk:
    """Yield commands that clean, heat and cool the held thing, and examine it after each action.

    The tools are the receptacles that can clean, heat or cool things. The commands use all tools in random order, and
    then up to two of them again.
    """
    tools = [(action, one) for action, mask in game.rules.house.tools.items() for one in bits(mask)]
    for action, tool in random.sample(tools, len(tools)) + random.sample(tools, min(2, len(tools))):
        yield from _go(game, tool)
        yield from _try(game, Move(action, game.state.held, tool))
        yield from _try(game, Move("examineobject", game.state.held))


def treatments(game: Game, random: Random) -> Walk:
    """For each of three things, yield commands that take the thing, and try to clean, heat and cool it.

    The first thing is cleanable, the second heatable, and the third coolable but not heatable.
    """
    house = game.rules.house
    for able in (house.cleanable, house.heatable, house.coolable & ~house.heatable):
        yield from _fetch(game, able, random)
        yield from _look_around(game, random)
        yield from _treat(game, random)


def lamps(game: Game, random: Random) -> Walk:
    """For up to two lamps, yield commands that use the lamp three times, try to pick it up, and use it again."""
    house, state = game.rules.house, game.state
    lit = [
        (lamp, place)
        for place, inside in sorted(state.inside.items())
        for lamp in inside
        if house.toggleable >> lamp & 1 and place in house.location_of
    ]
    for lamp, place in random.sample(lit, min(2, len(lit))):
        yield from _go(game, place)
        for _ in range(3):
            yield from _try(game, Move("toggleobject", lamp, place))
        yield from _look_around(game, random)
        yield from _try(game, Move("pickupobject", lamp, place))
        yield from _look_around(game, random)
        yield from _try(game, Move("toggleobject", lamp, place))


def neighbours(game: Game, random: Random) -> Walk:
    """Yield commands that move things between receptacles at the same location, and look around after each move."""
    house = game.rules.house
    shared = [receptacles for receptacles in house.receptacles.values() if len(receptacles) > 1]
    for receptacles in random.sample(shared, min(2, len(shared))):
        yield from _drop(game, random)
        for one in receptacles:
            yield from _go(game, one)
        for _ in range(3):
            yield from _move_between(game, receptacles, random)


def _move_between(game: Game, receptacles: tuple[int, ...], random: Random) -> Walk:
    """Yield commands that take a thing from one of these receptacles, and put it into one that accepts it."""
    full = [one for one in receptacles if game.state.inside.get(one)]
    if not full:
        return
    source = random.choice(full)
    thing = random.choice(game.state.inside[source])
    yield from _try(game, Move("pickupobject", thing, source))
    yield from _look_around(game, random)
    for target in random.sample(receptacles, len(receptacles)):
        yield from _try(game, Move("putobject", thing, target))
    yield from _look_around(game, random)


def thing_in_hand(game: Game, random: Random) -> Walk:
    """Yield commands that take a thing, carry it to another receptacle, put it down there and take it again."""
    yield from _fetch(game, game.rules.house.pickupable, random)
    for _ in range(3):
        held = game.state.held
        yield from _look_around(game, random)
        yield from _drop(game, random)
        yield from ("look",)
        if held != NOTHING:
            yield from _fetch(game, 1 << held, random)


WALKS: dict[str, Callable[[Game, LoadedGame, Random], Walk]] = {
    "planned": planned,
    "errands": errands,
    "wandering": wandering,
    "adversarial": adversarial,
}
