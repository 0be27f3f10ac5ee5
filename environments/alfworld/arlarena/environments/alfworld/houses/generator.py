"""Generates games. A seed determines the room of ALFWorld, the things in the room, and the task.

A *draft* is a game drawn at random. Drafts are drawn until a draft is valid: its content belongs to the split, its task
is not solved at the start, and the expert solves the task within the horizon.

As in ALFWorld, `train` and `valid_seen` have the same rooms. The hash of a game's content determines whether the game
belongs to `train` or to `valid_seen`. The rooms of `valid_unseen` occur in no other split.
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
from arlarena.environments.alfworld.task_kinds import CLEAN, COOL, HEAT, LIGHT, PICK, TASK_TYPES, TWO, TaskGoal

MAKER_VERSION = 1  # part of every seed; a new version generates other games
SPLITS = ("train", "valid_seen", "valid_unseen")
TRAIN_SHARE = 7, 8  # of 8 games in the rooms of `train` and `valid_seen`, 7 belong to `train`
TOOL_OF = {CLEAN: "SinkBasin", HEAT: "Microwave", COOL: "Fridge"}
FIXED_THINGS = frozenset(
    {"Chair", "LightSwitch", "Mirror", "Sink", "Window", "Television", "Painting", "HousePlant", "Bathtub"}
)
SURFACES = frozenset({"CounterTop", "DiningTable", "CoffeeTable", "SideTable", "Desk", "Dresser", "Sofa", "Bed"})
SURFACE_WEIGHT = 4  # a thing is 4 times as likely to be on a surface as to be in another receptacle
# Some receptacles stand on another receptacle, such as a coffee machine on a counter top. ALSO_ON is the probability
# that a thing in one of two such receptacles is also in the other receptacle.
ALSO_ON = 0.5
MAX_INSTANCES = 3  # maximum number of things of one kind in a room, as in ALFRED
MAX_TARGETS = 4  # maximum number of things of the kind that the task needs


@dataclass(frozen=True, slots=True)
class HouseOptions:
    """Options of generated games.

    Attributes:
        types: kinds of tasks.
        things: minimum and maximum number of portable things in a room.
        receptacles: maximum number of receptacles in a room; None for all receptacles of the floor plan.
        instances: maximum number of things of one kind, and of receptacles of one kind; None for ALFRED's limits. If
            the task needs more, the limit does not apply.
    """

    types: tuple[str, ...] = TASK_TYPES
    things: tuple[int, int] = (25, 45)
    receptacles: int | None = None
    instances: int | None = None

    def key(self) -> str:
        """Return the options as text, for the seed of a game. Options that are None are left out, so a new option with
        the default None does not change the games.
        """
        return " ".join(f"{name}={value}" for name, value in asdict(self).items() if value is not None)


@dataclass(frozen=True, slots=True)
class Draft:
    """A game that was drawn at random.

    Attributes:
        room, goal: the room and the goal.
        choice: which of the two sentences for the goal is used, 0 or 1.
        objects: the PDDL type of each id.
        facts: the facts at the start.
    """

    room: HouseRoom
    goal: TaskGoal
    choice: int
    objects: dict[str, str]
    facts: list[tuple[str, ...]] = field(repr=False)

    def problem(self) -> PddlProblem:
        """Return the PDDL problem for the native engine."""
        objects = {pddl_name(one).lower(): kind for one, kind in self.objects.items()}
        facts = frozenset(tuple(pddl_name(word).lower() for word in fact) for fact in self.facts)
        return PddlProblem(objects, facts, read_expressions(self.goal.pddl())[0])

    def text(self, name: str) -> str:
        """Return the PDDL problem as text, for a game file."""
        objects = "\n".join(f"        {pddl_name(one)} - {kind}" for one, kind in self.objects.items())
        facts = "\n".join(f"        ({' '.join(pddl_name(word) for word in fact)})" for fact in self.facts)
        return (
            f"(define (problem {name})\n    (:domain alfred)\n    (:objects\n{objects}\n    )\n"
            f"    (:init\n{facts}\n    )\n    (:goal {self.goal.pddl()})\n)\n"
        )


def pddl_name(name: str) -> str:
    """Convert an id to a valid PDDL name: `Apple|+01.59|…` to `Apple_bar__plus_01_dot_59…`."""
    for character, word in (("|", "_bar_"), ("+", "_plus_"), ("-", "_minus_"), (".", "_dot_"), (",", "_comma_")):
        name = name.replace(character, word)
    return name


def random_for(*key: object) -> Random:
    """Return a random generator seeded by the text of `key` and the version of this generator (see `seeded`)."""
    return seeded("alfworld-house", MAKER_VERSION, *key)


def rooms_of(split: str) -> Sequence[int]:
    """Return the floor plan numbers of the rooms of a split."""
    return UNSEEN if split == "valid_unseen" else SEEN


def belongs_to(content_key: str, split: str) -> bool:
    """Return whether the game with this content key belongs to a split. Its room must be in `rooms_of(split)`."""
    if split == "valid_unseen":
        return True
    share, total = TRAIN_SHARE
    return (int(content_key, 16) % total < share) == (split == "train")


def draw(random: Random, split: str, options: HouseOptions) -> Draft | None:
    """Draw a game. Return None if the drawn kind of task is not possible in the drawn room."""
    kind = random.choice(options.types)
    room_numbers = [number for number in rooms_of(split) if room(number).kind in FACTS["goals"][kind]]
    house_room = room(random.choice(room_numbers))
    goal = _goal(random, kind, house_room)
    if goal is None:
        return None
    fixtures = _chosen_fixtures(random, house_room, goal, options)
    return _furnish(random, HouseRoom(house_room.number, house_room.kind, fixtures, house_room.kinds), goal, options)


def _goal(random: Random, kind: str, house_room: HouseRoom) -> TaskGoal | None:
    things = [thing for thing in house_room.kinds if thing in PORTABLE and house_room.holders(thing)]
    standing = {fixture.kind for fixture in house_room.fixtures}
    if kind == LIGHT:
        lamps = sorted(LAMPS & set(house_room.kinds))
        if not lamps or not things or not standing & set(LAMP_STANDS):
            return None
        return TaskGoal(LIGHT, random.choice(things), lamp=random.choice(lamps))
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
        if thing in FITS[target] and (kind not in (PICK, TWO) or len({f.kind for f in house_room.holders(thing)}) > 1)
    ]
    return TaskGoal(kind, *random.choice(pairs)) if pairs else None


def _chosen_fixtures(
    random: Random, house_room: HouseRoom, goal: TaskGoal, options: HouseOptions
) -> tuple[Fixture, ...]:
    """Return the fixtures of a game: all fixtures of the room, or a random subset with all fixtures that the task
    needs.
    """
    limit = len(house_room.fixtures) if options.receptacles is None else options.receptacles
    if len(house_room.fixtures) <= limit and options.instances is None:
        return house_room.fixtures
    needed: list[Fixture] = []
    for wanted in (goal.receptacle, TOOL_OF.get(goal.type, "")):
        candidates = [fixture for fixture in house_room.fixtures if fixture.kind == wanted]
        needed += [random.choice(candidates)] if candidates else []
    others = [f for f in house_room.holders(goal.thing) if f.kind != goal.receptacle]
    needed += [random.choice(others)] if others else []
    if goal.lamp:
        needed.append(random.choice([f for f in house_room.fixtures if f.kind in LAMP_STANDS]))
    rest = [fixture for fixture in house_room.fixtures if fixture not in needed]
    if options.instances is not None:
        rest = _limit_kinds(random, needed, rest, options.instances)
    chosen = {*needed, *random.sample(rest, max(0, min(len(rest), limit - len(set(needed)))))}
    return tuple(fixture for fixture in house_room.fixtures if fixture in chosen)


def _limit_kinds(random: Random, needed: list[Fixture], rest: list[Fixture], instances: int) -> list[Fixture]:
    """Return a random subset of `rest`. The subset and `needed` together have at most `instances` fixtures of each
    kind. If `needed` alone has more fixtures of a kind, the subset has none of this kind.
    """
    counts, chosen = Counter(fixture.kind for fixture in set(needed)), []
    for fixture in random.sample(rest, len(rest)):
        counts[fixture.kind] += 1
        if counts[fixture.kind] <= instances:
            chosen.append(fixture)
    return chosen


def _furnish(random: Random, house_room: HouseRoom, goal: TaskGoal, options: HouseOptions) -> Draft:
    """Place things in the room, and return the game with all facts."""
    placements = _placements(random, house_room, goal, options)
    places = {fixture.place for fixture in house_room.fixtures}
    start = next(
        place
        for place in iter(lambda: (random.randint(-9, 9), random.randint(-9, 9), random.randrange(4), 30), None)
        if place not in places
    )
    things = {thing: kind for thing, kind, _, _ in placements}
    things |= {
        thing_id(kind, 0.0, 1.0, 0.1 * at): kind for at, kind in enumerate(house_room.kinds) if kind in FIXED_THINGS
    }
    objects: dict[str, str] = {"agent1": "agent"}
    objects |= {f"{kind}Type": "otype" for kind in sorted({*things.values(), *PORTABLE, *LAMPS, *FIXED_THINGS})}
    objects |= {f"{kind}Type": "rtype" for kind in sorted(FITS)}
    objects |= dict.fromkeys(sorted(things), "object")
    objects |= {fixture.id: "receptacle" for fixture in house_room.fixtures}
    objects |= {_location(place): "location" for place in sorted({*places, start})}
    facts: list[tuple[str, ...]] = [("atLocation", "agent1", _location(start))]
    for fixture in house_room.fixtures:
        facts.append(("receptacleType", fixture.id, f"{fixture.kind}Type"))
        facts.append(("receptacleAtLocation", fixture.id, _location(fixture.place)))
        if fixture.openable:
            facts.append(("openable", fixture.id))
    facts += [
        ("canContain", f"{kind}Type", f"{thing}Type")
        for kind in sorted({fixture.kind for fixture in house_room.fixtures})
        for thing in sorted(FITS[kind])
    ]
    for thing, kind in things.items():
        facts += _facts_of(thing, kind)
    for thing, kind, fixture, also in placements:
        facts += [("inReceptacle", thing, holder.id) for holder in (fixture, also) if holder]
        facts.append(("objectAtLocation", thing, _location(fixture.place)))
        # As in ALFRED, the task's thing is cool if it starts in a fridge.
        if fixture.kind == "Fridge" and kind == goal.thing:
            facts.append(("isCool", thing))
    return Draft(house_room, goal, random.randrange(2), objects, facts)


Placement = tuple[str, str, Fixture, Fixture | None]  # thing, its kind, its receptacle, and a second receptacle


def _placements(random: Random, house_room: HouseRoom, goal: TaskGoal, options: HouseOptions) -> list[Placement]:
    low, high = options.things
    wanted = random.randint(low, high)
    kinds = [kind for kind in house_room.kinds if kind in PORTABLE and kind != goal.thing and house_room.holders(kind)]
    random.shuffle(kinds)
    minimum, same = 2 if goal.type == TWO else 1, options.instances or MAX_INSTANCES
    maximum = max(minimum, min(options.instances or MAX_TARGETS, max(2, wanted // 2)))
    counts = {goal.thing: random.randint(minimum, maximum)}
    for kind in kinds * same:
        if sum(counts.values()) >= wanted:
            break
        if counts.get(kind, 0) < same and (kind not in counts or random.random() < 0.7):
            counts[kind] = counts.get(kind, 0) + 1
    placements: list[Placement] = []
    ids: set[str] = set()
    for kind, count in counts.items():
        holders = house_room.holders(kind)
        if kind == goal.thing and goal.type in (PICK, TWO):  # so that the task is not solved at the start
            holders = [fixture for fixture in holders if fixture.kind != goal.receptacle]
        for _ in range(count):
            if holders:
                placements.append(_place(random, kind, holders, house_room, ids))
    for kind in sorted(LAMPS & set(house_room.kinds)):
        stands = [fixture for fixture in house_room.fixtures if fixture.kind in LAMP_STANDS]
        if stands:
            placements.append(_place(random, kind, stands, house_room, ids))
    return placements


def _place(random: Random, kind: str, holders: list[Fixture], house_room: HouseRoom, ids: set[str]) -> Placement:
    weights = [SURFACE_WEIGHT if fixture.kind in SURFACES else 1 for fixture in holders]
    fixture = random.choices(holders, weights)[0]
    beside = [f for f in house_room.fixtures if f.place == fixture.place and f is not fixture and kind in FITS[f.kind]]
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
    """Check that the options allow a game.

    Raises:
        ValueError: no game is possible. The message names the option to change.
    """
    if not options.types:
        raise ValueError(f"task_types: at least one kind of tasks is needed; known: {', '.join(TASK_TYPES)}")
    if unknown := sorted(set(options.types) - set(TASK_TYPES)):
        raise ValueError(f"task_types: unknown kinds of tasks {', '.join(unknown)}; known: {', '.join(TASK_TYPES)}")
    if not 2 <= options.things[0] <= options.things[1]:
        raise ValueError(
            f"things = {list(options.things)}: the first value must be at least 2, and the second at least the first"
        )
    if options.receptacles is not None and options.receptacles < 4:
        raise ValueError(
            f"receptacles = {options.receptacles}: must be at least 4, because a task may need 4 receptacles"
        )


__all__ = ["MAKER_VERSION", "SPLITS", "Draft", "GameError", "HouseOptions", "belongs_to", "check_options", "draw"]
