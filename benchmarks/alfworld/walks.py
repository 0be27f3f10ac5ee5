"""Ways to walk through a game: what to type next, given what may be typed and our engine's own view of the house.

A walk looks at our engine only to choose: whatever it chooses, both engines are asked, and compared.
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
    """Yield random admissible commands, mostly commands that change something."""
    while True:
        commands = list(game.commands)
        changing = [command for command in commands if command.startswith(EFFECTS)]
        yield random.choice(changing if changing and random.random() < 0.6 else commands)


def adversarial(game: Game, made: LoadedGame, random: Random) -> Walk:
    """Yield commands of a careless or malicious player.

    These are nonsense, other spellings, commands that were admissible elsewhere, and repetitions.
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
            _otherwise(one, random),
            elsewhere,
            last,
            random.choice(IDLE),
            _renumbered(one, random),
        )
        last = random.choice(odd) if random.random() < 0.55 else next(usual)
        yield last


def _otherwise(command: str, random: Random) -> str:
    """Return another spelling of a command. Of these, only added white space is accepted by the engines."""
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


# --- errands: what chance seldom brings about ---


def errands(game: Game, made: LoadedGame, random: Random) -> Walk:
    """Yield commands that random walks seldom combine.

    They slice things, use lamps, clean, heat and cool repeatedly, and move things between receptacles at one location.
    """
    ways = [slicing, lamps, treatments, neighbours, thing_in_hand]
    random.shuffle(ways)
    for way in ways:
        yield from way(game, random)


def _type(game: Game, move: Move) -> Walk:
    """Yield the command of a move, if the move is possible."""
    for command, one in game.commands.items():
        if one == move:
            yield command
            return


def _go(game: Game, receptacle: int) -> Walk:
    """Go to a receptacle and open it."""
    yield from _type(game, Move("gotolocation", receptacle=receptacle))
    yield from _type(game, Move("openobject", receptacle=receptacle))


def _drop(game: Game, random: Random) -> Walk:
    """Put the held thing into some receptacle."""
    if game.state.held == NOTHING:
        return
    places = [one for one in bits(game.rules.house.fits.get(game.state.held, 0)) if one in game.rules.house.location_of]
    if places:
        place = random.choice(places)
        yield from _go(game, place)
        yield from _type(game, Move("putobject", game.state.held, place))


def _fetch(game: Game, things: Mask, random: Random) -> Walk:
    """Take one of these things."""
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
        yield from _type(game, Move("pickupobject", thing, receptacle))


def _looks(game: Game, random: Random) -> Walk:
    """Look, and examine everything at this location and in the hand."""
    yield from ("look", "inventory")
    yield from [command for command in game.commands if command.startswith("examine")][:5]


def slicing(game: Game, random: Random) -> Walk:
    """Slice a thing twice, look at it, and put it into some receptacle."""
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
            yield from _type(game, Move("sliceobject", thing, game.state.held))
        yield from _looks(game, random)
        yield from _fetch(game, 1 << thing, random)
        yield from _looks(game, random)
        yield from _treated(game, random)


def _treated(game: Game, random: Random) -> Walk:
    """Clean, heat and cool the held thing, in any order and repeatedly, with a look after each."""
    tools = [(action, one) for action, mask in game.rules.house.tools.items() for one in bits(mask)]
    for action, tool in random.sample(tools, len(tools)) + random.sample(tools, min(2, len(tools))):
        yield from _go(game, tool)
        yield from _type(game, Move(action, game.state.held, tool))
        yield from _type(game, Move("examineobject", game.state.held))


def treatments(game: Game, random: Random) -> Walk:
    """Take a thing that can be cleaned, heated or cooled, and do so repeatedly."""
    house = game.rules.house
    for able in (house.cleanable, house.heatable, house.coolable & ~house.heatable):
        yield from _fetch(game, able, random)
        yield from _looks(game, random)
        yield from _treated(game, random)


def lamps(game: Game, random: Random) -> Walk:
    """Use lamps repeatedly, with empty hands and with a thing in hand. Take a lamp along if that is possible."""
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
            yield from _type(game, Move("toggleobject", lamp, place))
        yield from _looks(game, random)
        yield from _type(game, Move("pickupobject", lamp, place))
        yield from _looks(game, random)
        yield from _type(game, Move("toggleobject", lamp, place))


def neighbours(game: Game, random: Random) -> Walk:
    """Move things between receptacles that share a location, with a look after each move."""
    house = game.rules.house
    shared = [receptacles for receptacles in house.receptacles.values() if len(receptacles) > 1]
    for receptacles in random.sample(shared, min(2, len(shared))):
        yield from _drop(game, random)
        for one in receptacles:
            yield from _go(game, one)
        for _ in range(3):
            yield from _moved(game, receptacles, random)


def _moved(game: Game, receptacles: tuple[int, ...], random: Random) -> Walk:
    full = [one for one in receptacles if game.state.inside.get(one)]
    if not full:
        return
    source = random.choice(full)
    thing = random.choice(game.state.inside[source])
    yield from _type(game, Move("pickupobject", thing, source))
    yield from _looks(game, random)
    for target in random.sample(receptacles, len(receptacles)):
        yield from _type(game, Move("putobject", thing, target))
    yield from _looks(game, random)


def thing_in_hand(game: Game, random: Random) -> Walk:
    """Take a thing, carry it to other places, put it down and take it again."""
    yield from _fetch(game, game.rules.house.pickupable, random)
    for _ in range(3):
        held = game.state.held
        yield from _looks(game, random)
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
