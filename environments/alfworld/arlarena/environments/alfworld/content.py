"""Loaded games. A loaded game has rules, a goal and a content key; it may come from a file or from the generator."""

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
        goal: the goal, or None if it belongs to none of the six kinds of tasks. A game without a goal has no expert (a
            program that plays the game).
        type: the kind of task; "" if unknown.
        content_key: the hash of everything that a player can observe.
    """

    rules: GameRules
    goal: TaskGoal | None
    type: str
    content_key: str


def loaded(rules: GameRules, kind: str = "") -> LoadedGame:
    """Return a loaded game. `kind`: the kind of task that the game's file states; if "", the goal determines it."""
    try:
        goal = goal_of(rules.goal)
    except GameError:
        goal = None
    return LoadedGame(rules, goal, kind or (goal.type if goal else ""), digest(content_of(rules)))


def content_of(rules: GameRules) -> str:
    """Return a text that describes everything that a player can observe. The text has no ids and no coordinates."""
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
