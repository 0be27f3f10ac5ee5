"""Games on which the oracle compares two engines: generated games of all task types, and one real game.

Some generated games are mutated: facts in the `:init` of the PDDL problem are added, changed or removed. For example, a
thing is cool, a lamp is on, or a thing is in two receptacles. ALFRED's own games contain combinations of facts that our
generator does not produce.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

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
    """A game on which the oracle compares the engines.

    Attributes:
        name: name of the game.
        kind: "made" (generated), "mutated", "real", or a value of `VARIANTS`.
        file: the texts of the game.
        recipe: how to make the game again. For a generated game: its parameters and mutations. For a real game: the
            name of its file. The recipe can be written as JSON.
    """

    name: str
    kind: str
    file: GameFile
    recipe: dict[str, Any]


def made(split: str, type_: str, size: HouseOptions, index: int) -> tuple[Draft, dict[str, Any]]:
    """Generate a game of the task type `type_`. Return (game, parameters that generate the game again)."""
    options = replace(size, types=(type_,))
    recipe: dict[str, Any] = {
        "split": split,
        "index": index,
        "options": {"types": [type_], "things": list(options.things), "receptacles": options.receptacles},
    }
    return draft_of(split, index, options, HORIZON), recipe


def cases(games: int, seed: int, real: Path | None, stock: Path) -> Iterator[Case]:
    """Yield `games` generated games, then the real game if `real` is given.

    The generated games alternate between all splits and task types. About a third of the games are mutated. Some of the
    other games have the form of another version of alfworld (`VARIANTS`).

    Args:
        games: number of generated games.
        seed: seed of the generated games and of the mutations.
        real: file of the real game, or None.
        stock: folder with alfworld's own `alfred.pddl` and `alfred.twl2`.
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
            yield Case(name, variant, _as_variant(draft, stock, variant), recipe)
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


def _as_variant(draft: Draft, stock: Path, variant: str) -> GameFile:
    """Return the texts of a generated game in the form of another version of alfworld (`variant`: one of `VARIANTS`).

    Most papers use the games of the data set json_2.1.1. These games differ from newer games in three points. They have
    no command `help`. They have the command "put … in/on …" instead of "move … to …". Their response to `go to` names
    the location instead of the receptacle. A patch in alfworld adds `help` to the domain and grammar of old games.
    """
    file = file_of(draft)
    if variant == "older wording of put":
        return GameFile(file.pddl_domain, _replace_all(file.grammar, PUT), file.pddl_problem)
    domain = (stock / "alfred.pddl").read_text()
    grammar = _replace_all((stock / "alfred.twl2").read_text(), {GOAL: draft.goal.sentence(draft.choice)})
    if "json_2.1.1" in variant:
        domain = f"{domain[: domain.index('(:action help')]})"
        begin = grammar.index("action help {")
        text = json.loads(grammar[begin:].split('"rhs": ')[1].split("\n")[0])
        grammar = grammar[:begin]
        if "patched" not in variant:
            arrival = {"You arrive at {r.name}.": "You arrive at {lend.name}."}
            return GameFile(domain, _replace_all(grammar, {**PUT, **arrival}), file.pddl_problem)
        before, after = domain.rsplit(")", 1)
        domain = f"{before}{HELP_ACTION}){after}"
        grammar += f'\naction help {{\n    template :: "help";\n    feedback :: "{text}";\n}}\n'
    return GameFile(domain, grammar, file.pddl_problem)


HELP_ACTION = (
    "(:action help\n    :parameters (?a - agent)\n    :precondition\n        ()\n    :effect\n        (and\n"
    + ("            (checked ?a)\n        )\n)\n")
)


def _replace_all(text: str, words: dict[str, str]) -> str:
    for old, new in words.items():
        assert old in text, f"the text does not contain {old!r}"
        text = text.replace(old, new)
    return text


# --- mutations ---


def mutated(draft: Draft, recipe: dict[str, Any], random: Random) -> tuple[Draft, dict[str, Any]]:
    """Apply 3 to 7 random mutations to a game. Return (mutated game, its recipe).

    The new recipe is `recipe` with three more keys: the mutations, the added facts and the removed facts.
    """
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


def _facts(facts: Facts, predicate: str) -> list[Fact]:
    return [fact for fact in facts if fact[0] == predicate]


def _sample(random: Random, names: Sequence[str], limit: int = 3) -> list[str]:
    """Return 1 to `limit` random names."""
    return random.sample(sorted(names), min(len(names), random.randint(1, limit)))


def _things(facts: Facts, kinds: frozenset[str] = PORTABLE) -> list[str]:
    return [fact[1] for fact in _facts(facts, "objectType") if fact[2].removesuffix("Type") in kinds]


def _add_property(predicate: str, kinds: frozenset[str]) -> Callable[[Facts, Random], Facts]:
    """Return a mutation that adds `predicate` to up to 6 random things of these kinds."""
    return lambda facts, random: facts + [(predicate, thing) for thing in _sample(random, _things(facts, kinds), 6)]


def _open_receptacles(facts: Facts, random: Random) -> Facts:
    return facts + [("opened", one) for one in _sample(random, [fact[1] for fact in _facts(facts, "openable")])]


def _open_unopenable_receptacles(facts: Facts, random: Random) -> Facts:
    openable = {fact[1] for fact in _facts(facts, "openable")}
    others = [fact[1] for fact in _facts(facts, "receptacleType") if fact[1] not in openable]
    return facts + [("opened", one) for one in _sample(random, others)]


def _gather_receptacles(facts: Facts, random: Random) -> Facts:
    """Move up to four receptacles, with the things in them, to the same location."""
    chosen = random.sample(
        sorted(_facts(facts, "receptacleAtLocation")), min(4, len(_facts(facts, "receptacleAtLocation")))
    )
    place = {receptacle: chosen[0][2] for _, receptacle, _ in chosen}
    moved = {thing: place[holder] for _, thing, holder in _facts(facts, "inReceptacle") if holder in place}
    new: Facts = []
    for fact in facts:
        if fact[0] == "receptacleAtLocation" and fact[1] in place:
            new.append((*fact[:2], place[fact[1]]))
        elif fact[0] == "objectAtLocation" and fact[1] in moved:
            new.append((*fact[:2], moved[fact[1]]))
        else:
            new.append(fact)
    return new


def _add_second_receptacle(facts: Facts, random: Random) -> Facts:
    """Put up to 5 things also into a second, random receptacle, at any location."""
    receptacles = sorted(fact[1] for fact in _facts(facts, "receptacleAtLocation"))
    return facts + [("inReceptacle", thing, random.choice(receptacles)) for thing in _sample(random, _things(facts), 5)]


def _add_receptacle_at_same_location(facts: Facts, random: Random) -> Facts:
    """Put up to 5 things also into a second receptacle at the location of their first receptacle.

    A thing is not chosen if there is only one receptacle at its location.
    """
    location_of = {receptacle: place for _, receptacle, place in _facts(facts, "receptacleAtLocation")}
    pairs = sorted(
        (thing, other)
        for _, thing, holder in _facts(facts, "inReceptacle")
        for other, place in location_of.items()
        if other != holder and place == location_of.get(holder)
    )
    return facts + [("inReceptacle", *pair) for pair in random.sample(pairs, min(5, len(pairs)))]


def _change_location(facts: Facts, random: Random) -> Facts:
    """Move up to 5 things to the location of a random receptacle. Do not change their facts `inReceptacle`."""
    places = sorted({fact[2] for fact in _facts(facts, "receptacleAtLocation")})
    moved = set(_sample(random, _things(facts), 5))
    return [
        (*fact[:2], random.choice(places)) if fact[0] == "objectAtLocation" and fact[1] in moved else fact
        for fact in facts
    ]


def _remove_location(facts: Facts, random: Random) -> Facts:
    """Remove the facts that give up to 5 things a location."""
    moved = set(_sample(random, _things(facts), 5))
    return [fact for fact in facts if not (fact[0] == "objectAtLocation" and fact[1] in moved)]


def _add_second_location(facts: Facts, random: Random) -> Facts:
    places = sorted({fact[2] for fact in _facts(facts, "receptacleAtLocation")})
    return facts + [("objectAtLocation", thing, random.choice(places)) for thing in _sample(random, _things(facts), 4)]


def _start_at_receptacle(facts: Facts, random: Random) -> Facts:
    """Let the player start at the location of a random receptacle."""
    place = random.choice(sorted({fact[2] for fact in _facts(facts, "receptacleAtLocation")}))
    return [(*fact[:2], place) if fact[0] == "atLocation" else fact for fact in facts]


def _fill_bowls(facts: Facts, random: Random) -> Facts:
    """Put up to 4 things into other things that can contain things, such as bowls and boxes."""
    holders = sorted(fact[1] for fact in _facts(facts, "isReceptacleObject"))
    if not holders:
        return facts
    inner = [(thing, random.choice(holders)) for thing in _sample(random, _things(facts), 4)]
    return facts + [("inReceptacleObject", *pair) for pair in inner if pair[0] != pair[1]]


def _add_knife(facts: Facts, random: Random) -> Facts:
    """Turn a random thing into a knife, and make another thing sliceable.

    Few generated rooms have a knife and a sliceable thing. A room does not change if it has a knife, or if fewer than
    four things are in receptacles.
    """
    kinds = {fact[2]: fact[1] for fact in _facts(facts, "objectType")}
    knives = [thing for kind, thing in kinds.items() if kind in ("KnifeType", "ButterKnifeType")]
    if knives or len(_facts(facts, "inReceptacle")) < 4:
        return facts
    # Lamps are not chosen, because the task may need them.
    knife, food = random.sample(
        sorted({fact[1] for fact in _facts(facts, "inReceptacle")} - set(_toggleable(facts))), 2
    )
    facts = [(*fact[:2], "KnifeType") if fact[0] == "objectType" and fact[1] == knife else fact for fact in facts]
    return [*facts, ("sliceable", food)]


def _toggleable(facts: Facts) -> list[str]:
    """Return the things that can be switched on."""
    return [fact[1] for fact in _facts(facts, "toggleable")]


def _add_unused_facts(facts: Facts, random: Random) -> Facts:
    """Add facts that occur in ALFRED's games and affect no command and no response."""
    receptacles = sorted(fact[1] for fact in _facts(facts, "receptacleAtLocation"))
    held = random.sample(sorted(_facts(facts, "inReceptacle")), 2)
    return [
        *facts,
        *[("wasInReceptacle", *fact[1:]) for fact in held],
        ("checked", random.choice(receptacles)),
        ("full", random.choice(receptacles)),
        *[("isOn", thing) for thing in _things(facts, ABLE["toggleable"])[:1]],
    ]


def _add_receptacle_types(facts: Facts, random: Random) -> Facts:
    """Give random receptacles the second type sink, microwave or fridge. For example, a shelf can then cool things."""
    receptacles = sorted(fact[1] for fact in _facts(facts, "receptacleAtLocation"))
    return facts + [
        ("receptacleType", random.choice(receptacles), f"{kind}Type") for kind in ("SinkBasin", "Microwave", "Fridge")
    ]


def _add_knife_type(facts: Facts, random: Random) -> Facts:
    """Give up to 3 things the second type "knife". These things can then slice, and fit into receptacles for knives."""
    return facts + [("objectType", thing, "KnifeType") for thing in _sample(random, _things(facts))]


def _gather_all_receptacles(facts: Facts, random: Random) -> Facts:
    """Move all receptacles and things to one location. The player can then go to no other location."""
    place = random.choice(_facts(facts, "receptacleAtLocation"))[2]
    moved = ("receptacleAtLocation", "objectAtLocation")
    return [(*fact[:2], place) if fact[0] in moved else fact for fact in facts]


def _remove_receptacle_location(facts: Facts, random: Random) -> Facts:
    """Remove the location of an empty receptacle, and put up to 3 things also into this receptacle.

    The player cannot reach the receptacle. A receptacle that contains things is not chosen, because the task may need
    it.
    """
    full = {fact[2] for fact in _facts(facts, "inReceptacle")}
    empty = sorted({fact[1] for fact in _facts(facts, "receptacleAtLocation")} - full)[:1]
    facts = [fact for fact in facts if not (fact[0] == "receptacleAtLocation" and fact[1] in empty)]
    return facts + [("inReceptacle", thing, one) for one in empty for thing in _sample(random, _things(facts))]


def _make_all_sliceable(facts: Facts, random: Random) -> Facts:
    """Make all portable things sliceable, including knives."""
    return facts + [("sliceable", thing) for thing in _things(facts)]


def _make_most_fixed(facts: Facts, random: Random) -> Facts:
    """Remove the fact `pickupable` from all but two things of each kind. The task may need two things of a kind."""
    left = Counter(fact[2] for fact in _facts(facts, "objectType"))
    gone = set()
    for _, thing, kind in _facts(facts, "objectType"):
        if left[kind] > 2:
            left[kind] -= 1
            gone.add(thing)
    return [fact for fact in facts if not (fact[0] == "pickupable" and fact[1] in gone)]


COOLABLE_ONLY = ABLE["coolable"] - ABLE["heatable"]
MUTATIONS: dict[str, Callable[[Facts, Random], Facts]] = {
    "opened": _open_receptacles,
    "opened, not openable": _open_unopenable_receptacles,
    "clean": _add_property("isClean", PORTABLE),
    "hot": _add_property("isHot", PORTABLE),
    "cool": _add_property("isCool", PORTABLE),
    "cool, never hot": _add_property("isCool", COOLABLE_ONLY),
    "sliced": _add_property("isSliced", PORTABLE),
    "toggled": _add_property("isToggled", ABLE["toggleable"]),
    "together": _gather_receptacles,
    "in two receptacles": _add_second_receptacle,
    "in two receptacles side by side": _add_receptacle_at_same_location,
    "elsewhere": _change_location,
    "nowhere": _remove_location,
    "in two places": _add_second_location,
    "starts before a receptacle": _start_at_receptacle,
    "in bowls": _fill_bowls,
    "a knife": _add_knife,
    "notes": _add_unused_facts,
    "receptacles of two types": _add_receptacle_types,
    "things of two types": _add_knife_type,
    "all in one place": _gather_all_receptacles,
    "a receptacle nowhere": _remove_receptacle_location,
    "anything is sliced": _make_all_sliceable,
    "cannot be picked up": _make_most_fixed,
}
