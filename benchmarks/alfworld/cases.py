"""Games on which the oracle compares two engines: made ones of all kinds, some of them mutated, and a real one.

A mutation changes what a made game's `:init` says. ALFRED's own games hold such facts (what lies in a fridge is cool,
lamps are on, a thing is in two receptacles), in more combinations than we make.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from arlarena.environments.alfworld.content import GameFile
from arlarena.environments.alfworld.houses.generator import SPLITS, Draft, HouseOptions, pddl_name
from arlarena.environments.alfworld.houses.made_games import GOAL, draft_of, file_of
from arlarena.environments.alfworld.houses.rooms import ABLE, PORTABLE
from arlarena.environments.alfworld.task_kinds import TASK_TYPES

HORIZON = 50
SMALL = HouseOptions(things=(6, 12), receptacles=8)
SIZES = (HouseOptions(), SMALL, HouseOptions(things=(12, 30), receptacles=14))
Fact = tuple[str, ...]
Facts = list[Fact]


@dataclass(frozen=True, slots=True)
class Case:
    """A game. `recipe`: how the game was made, as JSON; `kind`: made, mutated, a variant, or real."""

    name: str
    kind: str
    file: GameFile
    recipe: dict[str, object]


def made(split: str, type_: str, size: HouseOptions, index: int) -> tuple[Draft, dict[str, object]]:
    """Generate a game of a kind. Return the game and its recipe."""
    options = replace(size, types=(type_,))
    recipe: dict[str, object] = {
        "split": split,
        "index": index,
        "options": {"types": [type_], "things": list(options.things), "receptacles": options.receptacles},
    }
    return draft_of(split, index, options, HORIZON), recipe


def cases(games: int, seed: int, real: Path | None, stock: Path) -> Iterator[Case]:
    """Yield `games` generated games, then variants, then the real game.

    All kinds and splits occur equally often. Every third generated game is mutated.

    Args:
        games: how many are made.
        seed: of everything that is drawn.
        real: a game's file, if there is one.
        stock: the folder with alfworld's own `alfred.pddl` and `alfred.twl2`.
    """
    combinations = [(split, kind) for split in SPLITS for kind in TASK_TYPES]
    for number in range(games):
        split, kind = combinations[number % len(combinations)]
        size = SIZES[(number + number // len(combinations)) % len(SIZES)]
        draft, recipe = made(split, kind, size, seed * 1000 + number)
        name = f"{split}/{kind}/{recipe['index']}"
        if (number + number // 6 + number // 18) % 3 == 2:
            draft, recipe = mutated(draft, recipe, Random(f"{seed}/{number}"))
            yield Case(name, "mutated", file_of(draft), recipe)
        elif number % 3 == 0:
            variant = VARIANTS[number // 3 % len(VARIANTS)]
            yield Case(name, variant, _varied(draft, stock, variant), recipe)
        else:
            yield Case(name, "made", file_of(draft), recipe)
    if real is not None:
        read = json.loads(real.read_text())
        file = GameFile(read["pddl_domain"], read["grammar"], read["pddl_problem"])
        yield Case(real.name, "real", file, {"file": real.name})


VARIANTS = ("domain and grammar of alfworld 0.4", "of json_2.1.1", "of json_2.1.1, patched", "older wording of put")
PUT = {
    "move {o} to {r}": "put {o} in/on {r}",
    "You move the {o.name} to the {r.name}.": "You put the {o.name} in/on the {r.name}.",
}


def _varied(draft: Draft, stock: Path, variant: str) -> GameFile:
    """Return the texts of a generated game in the form of another version of alfworld.

    Games of json_2.1.1, which most papers play, know no `help`, put things "in/on" and call the place of an arrival by
    its location's name. A patch of alfworld's own brings them up to date, in its way.
    """
    file = file_of(draft)
    if variant == "older wording of put":
        return GameFile(file.pddl_domain, _replaced(file.grammar, PUT), file.pddl_problem)
    domain = (stock / "alfred.pddl").read_text()
    grammar = _replaced((stock / "alfred.twl2").read_text(), {GOAL: draft.goal.sentence(draft.choice)})
    if "json_2.1.1" in variant:
        domain = f"{domain[: domain.index('(:action help')]})"
        begin = grammar.index("action help {")
        text = json.loads(grammar[begin:].split('"rhs": ')[1].split("\n")[0])
        grammar = grammar[:begin]
        if "patched" not in variant:
            arrival = {"You arrive at {r.name}.": "You arrive at {lend.name}."}
            return GameFile(domain, _replaced(grammar, {**PUT, **arrival}), file.pddl_problem)
        before, after = domain.rsplit(")", 1)
        domain = f"{before}{HELP_ACTION}){after}"
        grammar += f'\naction help {{\n    template :: "help";\n    feedback :: "{text}";\n}}\n'
    return GameFile(domain, grammar, file.pddl_problem)


HELP_ACTION = (
    "(:action help\n    :parameters (?a - agent)\n    :precondition\n        ()\n    :effect\n        (and\n"
    + ("            (checked ?a)\n        )\n)\n")
)


def _replaced(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        assert old in text, f"{old!r} is not there to be replaced"
        text = text.replace(old, new)
    return text


# --- mutations ---


def mutated(draft: Draft, recipe: dict[str, object], random: Random) -> tuple[Draft, dict[str, object]]:
    """Apply several mutations to a game. Return the game, and its recipe with the facts that were added and removed."""
    facts = list(draft.facts)
    names = random.sample(sorted(MUTATIONS), random.randint(3, 7))
    for name in names:
        facts = MUTATIONS[name](facts, random)
    facts = list(dict.fromkeys(facts))
    was, now = set(draft.facts), set(facts)
    changes = {
        "mutations": names,
        "added": sorted([pddl_name(word) for word in fact] for fact in now - was),
        "removed": sorted([pddl_name(word) for word in fact] for fact in was - now),
    }
    return replace(draft, facts=facts), {**recipe, **changes}


def _of(facts: Facts, predicate: str) -> list[Fact]:
    return [fact for fact in facts if fact[0] == predicate]


def _some(random: Random, of: Sequence[str], most: int = 3) -> list[str]:
    return random.sample(sorted(of), min(len(of), random.randint(1, most)))


def _things(facts: Facts, kinds: frozenset[str] = PORTABLE) -> list[str]:
    return [fact[1] for fact in _of(facts, "objectType") if fact[2].removesuffix("Type") in kinds]


def _marked(mark: str, kinds: frozenset[str]) -> Callable[[Facts, Random], Facts]:
    return lambda facts, random: facts + [(mark, thing) for thing in _some(random, _things(facts, kinds), 6)]


def _opened(facts: Facts, random: Random) -> Facts:
    return facts + [("opened", one) for one in _some(random, [fact[1] for fact in _of(facts, "openable")])]


def _opened_that_does_not_open(facts: Facts, random: Random) -> Facts:
    openable = {fact[1] for fact in _of(facts, "openable")}
    others = [fact[1] for fact in _of(facts, "receptacleType") if fact[1] not in openable]
    return facts + [("opened", one) for one in _some(random, others)]


def _together(facts: Facts, random: Random) -> Facts:
    """Move several receptacles, with the things in them, to one location."""
    chosen = random.sample(sorted(_of(facts, "receptacleAtLocation")), min(4, len(_of(facts, "receptacleAtLocation"))))
    place = {receptacle: chosen[0][2] for _, receptacle, _ in chosen}
    moved = {thing: place[holder] for _, thing, holder in _of(facts, "inReceptacle") if holder in place}
    new: Facts = []
    for fact in facts:
        if fact[0] == "receptacleAtLocation" and fact[1] in place:
            new.append((*fact[:2], place[fact[1]]))
        elif fact[0] == "objectAtLocation" and fact[1] in moved:
            new.append((*fact[:2], moved[fact[1]]))
        else:
            new.append(fact)
    return new


def _also_in(facts: Facts, random: Random) -> Facts:
    """Put things into a second receptacle at any location."""
    receptacles = sorted(fact[1] for fact in _of(facts, "receptacleAtLocation"))
    return facts + [("inReceptacle", thing, random.choice(receptacles)) for thing in _some(random, _things(facts), 5)]


def _also_beside(facts: Facts, random: Random) -> Facts:
    """Put things into a second receptacle at the same location, if there is one."""
    where = {receptacle: place for _, receptacle, place in _of(facts, "receptacleAtLocation")}
    pairs = sorted(
        (thing, other)
        for _, thing, holder in _of(facts, "inReceptacle")
        for other, place in where.items()
        if other != holder and place == where.get(holder)
    )
    return facts + [("inReceptacle", *pair) for pair in random.sample(pairs, min(5, len(pairs)))]


def _elsewhere(facts: Facts, random: Random) -> Facts:
    """Give things another location than that of their receptacle."""
    places = sorted({fact[2] for fact in _of(facts, "receptacleAtLocation")})
    moved = set(_some(random, _things(facts), 5))
    return [
        (*fact[:2], random.choice(places)) if fact[0] == "objectAtLocation" and fact[1] in moved else fact
        for fact in facts
    ]


def _nowhere(facts: Facts, random: Random) -> Facts:
    """Remove the location of things."""
    moved = set(_some(random, _things(facts), 5))
    return [fact for fact in facts if not (fact[0] == "objectAtLocation" and fact[1] in moved)]


def _in_two_places(facts: Facts, random: Random) -> Facts:
    places = sorted({fact[2] for fact in _of(facts, "receptacleAtLocation")})
    return facts + [("objectAtLocation", thing, random.choice(places)) for thing in _some(random, _things(facts), 4)]


def _before_a_receptacle(facts: Facts, random: Random) -> Facts:
    """Let the player start at a receptacle."""
    place = random.choice(sorted({fact[2] for fact in _of(facts, "receptacleAtLocation")}))
    return [(*fact[:2], place) if fact[0] == "atLocation" else fact for fact in facts]


def _bowls(facts: Facts, random: Random) -> Facts:
    """Put things into bowls, boxes and other things that can contain them."""
    holders = sorted(fact[1] for fact in _of(facts, "isReceptacleObject"))
    if not holders:
        return facts
    inner = [(thing, random.choice(holders)) for thing in _some(random, _things(facts), 4)]
    return facts + [("inReceptacleObject", *pair) for pair in inner if pair[0] != pair[1]]


def _kitchenware(facts: Facts, random: Random) -> Facts:
    """Put a knife and a thing to slice on a table, if the room has none. Few rooms have both."""
    kinds = {fact[2]: fact[1] for fact in _of(facts, "objectType")}
    knives = [thing for kind, thing in kinds.items() if kind in ("KnifeType", "ButterKnifeType")]
    if knives or len(_of(facts, "inReceptacle")) < 4:
        return facts
    knife, food = random.sample(sorted({fact[1] for fact in _of(facts, "inReceptacle")} - set(_aimed(facts))), 2)
    facts = [(*fact[:2], "KnifeType") if fact[0] == "objectType" and fact[1] == knife else fact for fact in facts]
    return [*facts, ("sliceable", food)]


def _aimed(facts: Facts) -> list[str]:
    """Return the things that can be switched on. The task may need them."""
    return [fact[1] for fact in _of(facts, "toggleable")]


def _notes(facts: Facts, random: Random) -> Facts:
    """Add facts that ALFRED writes but that no rule reads."""
    receptacles = sorted(fact[1] for fact in _of(facts, "receptacleAtLocation"))
    held = random.sample(sorted(_of(facts, "inReceptacle")), 2)
    return [
        *facts,
        *[("wasInReceptacle", *fact[1:]) for fact in held],
        ("checked", random.choice(receptacles)),
        ("full", random.choice(receptacles)),
        *[("isOn", thing) for thing in _things(facts, ABLE["toggleable"])[:1]],
    ]


def _of_two_types(facts: Facts, random: Random) -> Facts:
    """Give receptacles a second type: a sink that heats, a shelf that cools, …"""
    receptacles = sorted(fact[1] for fact in _of(facts, "receptacleAtLocation"))
    return facts + [
        ("receptacleType", random.choice(receptacles), f"{kind}Type") for kind in ("SinkBasin", "Microwave", "Fridge")
    ]


def _things_of_two_types(facts: Facts, random: Random) -> Facts:
    """Let things also count as knives, and fit into all receptacles of knives."""
    return facts + [("objectType", thing, "KnifeType") for thing in _some(random, _things(facts))]


def _all_in_one_place(facts: Facts, random: Random) -> Facts:
    """Move all receptacles to one location, so that the player cannot go anywhere else."""
    place = random.choice(_of(facts, "receptacleAtLocation"))[2]
    moved = ("receptacleAtLocation", "objectAtLocation")
    return [(*fact[:2], place) if fact[0] in moved else fact for fact in facts]


def _one_nowhere(facts: Facts, random: Random) -> Facts:
    """Remove the location of an empty receptacle, and put things into it.

    These things are out of reach. A receptacle that is empty at the start is taken, because the task may need the
    others.
    """
    full = {fact[2] for fact in _of(facts, "inReceptacle")}
    empty = sorted({fact[1] for fact in _of(facts, "receptacleAtLocation")} - full)[:1]
    facts = [fact for fact in facts if not (fact[0] == "receptacleAtLocation" and fact[1] in empty)]
    return facts + [("inReceptacle", thing, one) for one in empty for thing in _some(random, _things(facts))]


def _sliceable(facts: Facts, random: Random) -> Facts:
    """Let anything be sliceable, even a knife."""
    return facts + [("sliceable", thing) for thing in _things(facts)]


def _fixed(facts: Facts, random: Random) -> Facts:
    """Make things impossible to pick up. Of each kind, two things stay as they are, because the task may need them."""
    left = Counter(fact[2] for fact in _of(facts, "objectType"))
    gone = set()
    for _, thing, kind in _of(facts, "objectType"):
        if left[kind] > 2:
            left[kind] -= 1
            gone.add(thing)
    return [fact for fact in facts if not (fact[0] == "pickupable" and fact[1] in gone)]


COOLABLE_ONLY = ABLE["coolable"] - ABLE["heatable"]
MUTATIONS: dict[str, Callable[[Facts, Random], Facts]] = {
    "opened": _opened,
    "opened, not openable": _opened_that_does_not_open,
    "clean": _marked("isClean", PORTABLE),
    "hot": _marked("isHot", PORTABLE),
    "cool": _marked("isCool", PORTABLE),
    "cool, never hot": _marked("isCool", COOLABLE_ONLY),
    "sliced": _marked("isSliced", PORTABLE),
    "toggled": _marked("isToggled", ABLE["toggleable"]),
    "together": _together,
    "in two receptacles": _also_in,
    "in two receptacles side by side": _also_beside,
    "elsewhere": _elsewhere,
    "nowhere": _nowhere,
    "in two places": _in_two_places,
    "starts before a receptacle": _before_a_receptacle,
    "in bowls": _bowls,
    "a knife": _kitchenware,
    "notes": _notes,
    "receptacles of two types": _of_two_types,
    "things of two types": _things_of_two_types,
    "all in one place": _all_in_one_place,
    "a receptacle nowhere": _one_nowhere,
    "anything is sliced": _sliceable,
    "cannot be picked up": _fixed,
}
