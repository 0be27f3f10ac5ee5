"""Walks: strategies that choose the next command of a game.

A walk reads the admissible commands and the state from our engine. The oracle gives each chosen command to our engine
and to TextWorld, and compares the results.
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
    """Yield the expert's commands until the task is solved."""
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
    """Yield random admissible commands. Most of them change the state."""
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

    The engines accept white space at both ends of a command. Other misspelled commands do nothing, except if they are
    also admissible commands: "open drawer 1" can become "open drawer 11".
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
    """Yield all errands in random order.

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
    """Yield the command of a move if the move is possible. Otherwise yield nothing."""
    for command, one in game.commands.items():
        if one == move:
            yield command
            return


def _go(game: Game, receptacle: int) -> Walk:
    """Go to a receptacle, and open it if it is closed."""
    yield from _try(game, Move("gotolocation", receptacle=receptacle))
    yield from _try(game, Move("openobject", receptacle=receptacle))


def _drop(game: Game, random: Random) -> Walk:
    """Put the held thing into a random receptacle."""
    if game.state.held == NOTHING:
        return
    places = [one for one in bits(game.rules.house.fits.get(game.state.held, 0)) if one in game.rules.house.location_of]
    if places:
        place = random.choice(places)
        yield from _go(game, place)
        yield from _try(game, Move("putobject", game.state.held, place))


def _fetch(game: Game, things: Mask, random: Random) -> Walk:
    """Take one of these things. Put down any other held thing first. Do nothing if one of these things is held."""
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
    """Look, show the inventory, and use up to five of the admissible `examine` commands."""
    yield from ("look", "inventory")
    yield from [command for command in game.commands if command.startswith("examine")][:5]


def slicing(game: Game, random: Random) -> Walk:
    """Twice: take a knife, slice a thing two times, take the thing, then clean, heat and cool the thing."""
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
    """Clean, heat and cool the held thing with all tools in random order, and then again with up to two tools.

    Examine the thing after each action.
    """
    tools = [(action, one) for action, mask in game.rules.house.tools.items() for one in bits(mask)]
    for action, tool in random.sample(tools, len(tools)) + random.sample(tools, min(2, len(tools))):
        yield from _go(game, tool)
        yield from _try(game, Move(action, game.state.held, tool))
        yield from _try(game, Move("examineobject", game.state.held))


def treatments(game: Game, random: Random) -> Walk:
    """Take a thing, and try to clean, heat and cool it.

    The things are a cleanable thing, a heatable thing, and a thing that is coolable but not heatable.
    """
    house = game.rules.house
    for able in (house.cleanable, house.heatable, house.coolable & ~house.heatable):
        yield from _fetch(game, able, random)
        yield from _look_around(game, random)
        yield from _treat(game, random)


def lamps(game: Game, random: Random) -> Walk:
    """Up to twice: use a lamp three times, pick up the lamp if possible, and use the lamp again."""
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
    """Move things between receptacles that share a location, and look after each move."""
    house = game.rules.house
    shared = [receptacles for receptacles in house.receptacles.values() if len(receptacles) > 1]
    for receptacles in random.sample(shared, min(2, len(shared))):
        yield from _drop(game, random)
        for one in receptacles:
            yield from _go(game, one)
        for _ in range(3):
            yield from _move_between(game, receptacles, random)


def _move_between(game: Game, receptacles: tuple[int, ...], random: Random) -> Walk:
    """Take a random thing from one of these receptacles, and put it into a random one of them that accepts it."""
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
    """Take a thing, carry it to other places, put it down and take it again."""
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
