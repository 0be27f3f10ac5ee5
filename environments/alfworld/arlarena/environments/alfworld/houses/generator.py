"""Making games: a room of ALFWorld, things in it, and a task, all of it a function of a seed.

A game is drawn until it fits: its content belongs to the split, its task is not done already, and the expert, who
searches as a player must, is done within the horizon. Rooms are shared between `train` and `valid_seen` as in ALFWorld;
what lies in them is not: a game belongs to one of the two by the hash of its content. Rooms of `valid_unseen` occur
nowhere else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from random import Random

from arlarena.environment.hashing import seeded
from arlarena.environments.alfworld.engine.pddl import PddlProblem, read_expressions
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.houses.rooms import (
    ABLE,
    FACTS,
    FITS,
    HOLDING,
    LAMP_STANDS,
    LAMPS,
    PORTABLE,
    SEEN,
    UNSEEN,
    Fixture,
    HouseRoom,
    Place,
    room,
    thing_id,
)
from arlarena.environments.alfworld.task_kinds import CLEAN, COOL, HEAT, LIGHT, PICK, TASK_TYPES, TWO, Aim

MAKER_VERSION = 1
SPLITS = ("train", "valid_seen", "valid_unseen")
TRAIN_SHARE = 7, 8  # of the contents of seen rooms
TOOL_OF = {CLEAN: "SinkBasin", HEAT: "Microwave", COOL: "Fridge"}
STANDING = frozenset(
    {"Chair", "LightSwitch", "Mirror", "Sink", "Window", "Television", "Painting", "HousePlant", "Bathtub"}
)
SURFACES = frozenset({"CounterTop", "DiningTable", "CoffeeTable", "SideTable", "Desk", "Dresser", "Sofa", "Bed"})
SURFACE_WEIGHT = 4  # how much likelier a thing lies on a table than in a given drawer
ALSO_ON = 0.5  # how often what is in a coffee machine or on a burner is on what stands there too
MAX_INSTANCES = 3  # of a kind, as in ALFRED
MAX_TARGETS = 4


@dataclass(frozen=True, slots=True)
class HouseOptions:
    """What kind of games. `things`: how many portable ones lie in a room, at least and at most; `receptacles`: the most
    that stand in it, None for all; `instances`: the most of either that are of one kind, None for as many as in ALFRED.
    Of what the task needs there may be two in any case: what is moved twice, or where the lamp stands.
    """

    types: tuple[str, ...] = TASK_TYPES
    things: tuple[int, int] = (25, 45)
    receptacles: int | None = None
    instances: int | None = None

    def key(self) -> str:
        """What the games are a function of, beside the seed: unlike repr, the same when an option is added."""
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if value is not None)


@dataclass(frozen=True, slots=True)
class Draft:
    """A game as text: ids of things with their types, facts, the aim, and which of its two sentences says it."""

    room: HouseRoom
    aim: Aim
    choice: int
    objects: dict[str, str]
    facts: list[tuple[str, ...]] = field(repr=False)

    def problem(self) -> PddlProblem:
        """What the engine plays."""
        objects = {mangled(one).lower(): kind for one, kind in self.objects.items()}
        facts = frozenset(tuple(mangled(word).lower() for word in fact) for fact in self.facts)
        return PddlProblem(objects, facts, read_expressions(self.aim.goal())[0])

    def text(self, name: str) -> str:
        """The problem in PDDL, as it stands in a game's file."""
        objects = "\n".join(f"        {mangled(one)} - {kind}" for one, kind in self.objects.items())
        facts = "\n".join(f"        ({' '.join(mangled(word) for word in fact)})" for fact in self.facts)
        return (
            f"(define (problem {name})\n    (:domain alfred)\n    (:objects\n{objects}\n    )\n"
            f"    (:init\n{facts}\n    )\n    (:goal {self.aim.goal()})\n)\n"
        )


def mangled(name: str) -> str:
    """`Apple|+01.59|…` as PDDL can say it: `Apple_bar__plus_01_dot_59…`."""
    for character, word in (("|", "_bar_"), ("+", "_plus_"), ("-", "_minus_"), (".", "_dot_"), (",", "_comma_")):
        name = name.replace(character, word)
    return name


def random_for(*key: object) -> Random:
    """A generator seeded by the text of `key`, the same in every process and on every machine."""
    return seeded("alfworld-house", MAKER_VERSION, *key)


def rooms_of(split: str) -> Sequence[int]:
    """The rooms in which a split's games play."""
    return UNSEEN if split == "valid_unseen" else SEEN


def belongs(content_key: str, split: str) -> bool:
    """Whether a game of this content may be of the split, its room aside."""
    if split == "valid_unseen":
        return True
    share, of = TRAIN_SHARE
    return (int(content_key, 16) % of < share) == (split == "train")


def draw(random: Random, split: str, options: HouseOptions) -> Draft | None:
    """A game; None if the drawn room has no such task."""
    kind = random.choice(options.types)
    homes = [number for number in rooms_of(split) if room(number).kind in FACTS["goals"][kind]]
    home = room(random.choice(homes))
    aim = _aim(random, kind, home)
    if aim is None:
        return None
    fixtures = _kept(random, home, aim, options)
    return _furnish(random, HouseRoom(home.number, home.kind, fixtures, home.kinds), aim, options)


def _aim(random: Random, kind: str, home: HouseRoom) -> Aim | None:
    things = [thing for thing in home.kinds if thing in PORTABLE and home.holders(thing)]
    standing = {fixture.kind for fixture in home.fixtures}
    if kind == LIGHT:
        lamps = sorted(LAMPS & set(home.kinds))
        if not lamps or not things or not standing & set(LAMP_STANDS):
            return None
        return Aim(LIGHT, random.choice(things), lamp=random.choice(lamps))
    tool = TOOL_OF.get(kind, "")
    if tool:
        able = {CLEAN: "cleanable", HEAT: "heatable", COOL: "coolable"}[kind]
        things = [thing for thing in things if thing in ABLE[able]]
        if tool not in standing:
            return None
    pairs = [
        (thing, target)
        for thing in things
        for target in sorted(standing - {tool})
        if thing in FITS[target] and (kind not in (PICK, TWO) or len({f.kind for f in home.holders(thing)}) > 1)
    ]
    return Aim(kind, *random.choice(pairs)) if pairs else None


def _kept(random: Random, home: HouseRoom, aim: Aim, options: HouseOptions) -> tuple[Fixture, ...]:
    """The fixtures of a game: all, or so many, those that the task needs among them."""
    most = len(home.fixtures) if options.receptacles is None else options.receptacles
    if len(home.fixtures) <= most and options.instances is None:
        return home.fixtures
    needed: list[Fixture] = []
    for wanted in (aim.receptacle, TOOL_OF.get(aim.type, "")):
        candidates = [fixture for fixture in home.fixtures if fixture.kind == wanted]
        needed += [random.choice(candidates)] if candidates else []
    others = [f for f in home.holders(aim.thing) if f.kind != aim.receptacle]
    needed += [random.choice(others)] if others else []
    if aim.lamp:
        needed.append(random.choice([f for f in home.fixtures if f.kind in LAMP_STANDS]))
    rest = [fixture for fixture in home.fixtures if fixture not in needed]
    if options.instances is not None:
        rest = _unlike(random, needed, rest, options.instances)
    chosen = {*needed, *random.sample(rest, max(0, min(len(rest), most - len(set(needed)))))}
    return tuple(fixture for fixture in home.fixtures if fixture in chosen)


def _unlike(random: Random, needed: list[Fixture], rest: list[Fixture], instances: int) -> list[Fixture]:
    """So many of `rest` that, with what is needed, there are at most `instances` of a kind."""
    counts, kept = Counter(fixture.kind for fixture in set(needed)), []
    for fixture in random.sample(rest, len(rest)):
        counts[fixture.kind] += 1
        if counts[fixture.kind] <= instances:
            kept.append(fixture)
    return kept


def _furnish(random: Random, home: HouseRoom, aim: Aim, options: HouseOptions) -> Draft:
    """Put things into the room, and write it all down."""
    lying = _placed(random, home, aim, options)
    places = {fixture.place for fixture in home.fixtures}
    start = next(
        place
        for place in iter(lambda: (random.randint(-9, 9), random.randint(-9, 9), random.randrange(4), 30), None)
        if place not in places
    )
    things = {thing: kind for thing, kind, _, _ in lying}
    things |= {thing_id(kind, 0.0, 1.0, 0.1 * at): kind for at, kind in enumerate(home.kinds) if kind in STANDING}
    objects: dict[str, str] = {"agent1": "agent"}
    objects |= {f"{kind}Type": "otype" for kind in sorted({*things.values(), *PORTABLE, *LAMPS, *STANDING})}
    objects |= {f"{kind}Type": "rtype" for kind in sorted(FITS)}
    objects |= dict.fromkeys(sorted(things), "object")
    objects |= {fixture.id: "receptacle" for fixture in home.fixtures}
    objects |= {_location(place): "location" for place in sorted({*places, start})}
    facts: list[tuple[str, ...]] = [("atLocation", "agent1", _location(start))]
    for fixture in home.fixtures:
        facts.append(("receptacleType", fixture.id, f"{fixture.kind}Type"))
        facts.append(("receptacleAtLocation", fixture.id, _location(fixture.place)))
        if fixture.openable:
            facts.append(("openable", fixture.id))
    facts += [
        ("canContain", f"{kind}Type", f"{thing}Type")
        for kind in sorted({fixture.kind for fixture in home.fixtures})
        for thing in sorted(FITS[kind])
    ]
    for thing, kind in things.items():
        facts += _facts_of(thing, kind)
    for thing, kind, fixture, also in lying:
        facts += [("inReceptacle", thing, holder.id) for holder in (fixture, also) if holder]
        facts.append(("objectAtLocation", thing, _location(fixture.place)))
        if fixture.kind == "Fridge" and kind == aim.thing:  # ALFRED counts what it looks for in a fridge as cool
            facts.append(("isCool", thing))
    return Draft(home, aim, random.randrange(2), objects, facts)


Lying = tuple[str, str, Fixture, Fixture | None]  # thing, its kind, where, and where besides


def _placed(random: Random, home: HouseRoom, aim: Aim, options: HouseOptions) -> list[Lying]:
    low, high = options.things
    wanted = random.randint(low, high)
    kinds = [kind for kind in home.kinds if kind in PORTABLE and kind != aim.thing and home.holders(kind)]
    random.shuffle(kinds)
    fewest, alike = 2 if aim.type == TWO else 1, options.instances or MAX_INSTANCES
    most = max(fewest, min(options.instances or MAX_TARGETS, max(2, wanted // 2)))
    counts = {aim.thing: random.randint(fewest, most)}
    for kind in kinds * alike:
        if sum(counts.values()) >= wanted:
            break
        if counts.get(kind, 0) < alike and (kind not in counts or random.random() < 0.7):
            counts[kind] = counts.get(kind, 0) + 1
    lying: list[Lying] = []
    ids: set[str] = set()
    for kind, count in counts.items():
        holders = home.holders(kind)
        if kind == aim.thing and aim.type in (PICK, TWO):  # else it may be done from the start
            holders = [fixture for fixture in holders if fixture.kind != aim.receptacle]
        for _ in range(count):
            if holders:
                lying.append(_lay(random, kind, holders, home, ids))
    for kind in sorted(LAMPS & set(home.kinds)):
        stands = [fixture for fixture in home.fixtures if fixture.kind in LAMP_STANDS]
        if stands:
            lying.append(_lay(random, kind, stands, home, ids))
    return lying


def _lay(random: Random, kind: str, holders: list[Fixture], home: HouseRoom, ids: set[str]) -> Lying:
    weights = [SURFACE_WEIGHT if fixture.kind in SURFACES else 1 for fixture in holders]
    fixture = random.choices(holders, weights)[0]
    beside = [f for f in home.fixtures if f.place == fixture.place and f is not fixture and kind in FITS[f.kind]]
    also = (
        beside[0] if beside and not fixture.openable and not beside[0].openable and random.random() < ALSO_ON else None
    )
    x, z = fixture.place[0] / 4, fixture.place[1] / 4
    while True:
        name = thing_id(kind, x + random.uniform(-0.6, 0.6), random.uniform(0.1, 2.1), z + random.uniform(-0.6, 0.6))
        if name not in ids:
            ids.add(name)
            return name, kind, fixture, also


def _facts_of(thing: str, kind: str) -> list[tuple[str, ...]]:
    facts: list[tuple[str, ...]] = [("objectType", thing, f"{kind}Type")]
    facts += [("pickupable", thing)] if kind in PORTABLE else []
    facts += [("isReceptacleObject", thing)] if kind in HOLDING else []
    facts += [(what, thing) for what, kinds in ABLE.items() if kind in kinds]
    return facts


def _location(place: Place) -> str:
    return "|".join(["loc", *(str(part) for part in place)])


def check_options(options: HouseOptions) -> None:
    """Refuse options that allow no game.

    Raises:
        ValueError: which.
    """
    unknown = sorted(set(options.types) - set(TASK_TYPES)) or ([] if options.types else ["(none)"])
    if unknown:
        raise ValueError(f"task_types: {', '.join(unknown)}; known: {', '.join(TASK_TYPES)}")
    if not 2 <= options.things[0] <= options.things[1]:
        raise ValueError(f"things = {list(options.things)}: from 2 on, and the second no less than the first")
    if options.receptacles is not None and options.receptacles < 4:
        raise ValueError(f"receptacles = {options.receptacles}: a task may need 4")


__all__ = ["MAKER_VERSION", "SPLITS", "Draft", "GameError", "HouseOptions", "belongs", "check_options", "draw"]
