"""What a game is, apart from where it came from: its content, and what is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from arlarena.environment.hashing import digest
from arlarena.environments.alfworld.engine.game import GameRules
from arlarena.environments.alfworld.engine.world import House
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.task_kinds import Aim, aim_of


class GameFile(msgspec.Struct, frozen=True):
    """What is read of a `game.tw-pddl`: the three texts that a game is made of."""

    pddl_domain: str
    grammar: str
    pddl_problem: str


@dataclass(frozen=True, slots=True)
class Loaded:
    """A game ready to be played. `aim` None: a goal of none of the six kinds, so there is no expert."""

    rules: GameRules
    aim: Aim | None
    type: str
    content_key: str


def loaded(rules: GameRules, kind: str = "") -> Loaded:
    """A game with its aim, its kind of task (as its file says, or as its goal shows) and the hash of its content."""
    try:
        aim = aim_of(rules.goal)
    except GameError:
        aim = None
    return Loaded(rules, aim, kind or (aim.type if aim else ""), digest(content_of(rules)))


def content_of(rules: GameRules) -> str:
    """All that a player could tell of a game: two games that differ in ids and coordinates alone are the same."""
    house, start = rules.house, rules.house.start
    contents: dict[int, list[tuple[str, ...]]] = {}
    for receptacle, things in start.inside.items():
        for thing in things:
            marks = [mark for mark, marked in sorted(start.marks.items()) if marked >> thing & 1]
            contents.setdefault(receptacle, []).append((house.names[thing], *marks))
    places = sorted(
        [_fixture(house, receptacle, contents.get(receptacle, [])) for receptacle in receptacles]
        for receptacles in house.receptacles.values()
    )
    return repr((places, rules.goal))


def _fixture(
    house: House, receptacle: int, contents: list[tuple[str, ...]]
) -> tuple[str, bool, bool, list[tuple[str, ...]]]:
    openable, opened = (bool(mask >> receptacle & 1) for mask in (house.openable, house.start.opened))
    return house.names[receptacle], openable, opened, contents
