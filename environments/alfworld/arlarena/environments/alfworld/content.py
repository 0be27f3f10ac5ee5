"""Loaded games. A loaded game has rules, a goal and a content key. Games come from files or from the generator."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from arlarena.environment.hashing import digest
from arlarena.environments.alfworld.engine.game import GameRules
from arlarena.environments.alfworld.engine.world import House
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.task_kinds import TaskGoal, goal_of


class GameFile(msgspec.Struct, frozen=True):
    """The three texts in a file `game.tw-pddl` that define a game."""

    pddl_domain: str
    grammar: str
    pddl_problem: str


@dataclass(frozen=True, slots=True)
class LoadedGame:
    """A game that is ready to be played.

    Attributes:
        rules: the definition of the game.
        goal: the goal; None if the goal belongs to none of the six kinds of tasks. The expert (a program that solves
            tasks) needs the goal.
        type: the kind of task; "" if unknown.
        content_key: the hash of all facts that a player can observe.
    """

    rules: GameRules
    goal: TaskGoal | None
    type: str
    content_key: str


def loaded(rules: GameRules, kind: str = "") -> LoadedGame:
    """Build a loaded game from its rules. `kind`: the kind of task. If `kind` is "", the goal determines it."""
    try:
        goal = goal_of(rules.goal)
    except GameError:
        goal = None
    return LoadedGame(rules, goal, kind or (goal.type if goal else ""), digest(content_of(rules)))


def content_of(rules: GameRules) -> str:
    """Return all facts that a player can observe, as text. The text has no ids and no coordinates."""
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
