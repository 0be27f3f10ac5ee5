"""Answers that were given before. The grammar is the file's, so what an answer depends on is found by watching.

An answer is a function of the command's arguments and of the facts that the grammar asked for to make it. If all of
them are among those that a key is made of, the same key gives the same questions, the same facts and so the same
answer, whatever the grammar says.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from arlarena.environments.alfworld.engine.actions import Move, binding
from arlarena.environments.alfworld.engine.grammar import Grammar
from arlarena.environments.alfworld.engine.state import WorldState
from arlarena.environments.alfworld.engine.text_limits import Pattern
from arlarena.environments.alfworld.engine.world import CHANGING, MARKS

MAX_ANSWERS = 4096  # that are kept of a game; some 250 bytes each
# What an answer can depend on: the receptacle of the command, and what is in it; what else is here; what is held; what
# is clean, …; from where one came; and anything else.
RECEPTACLE, PLACE, HANDS, CONDITION, ORIGIN, BEYOND = 1, 2, 4, 8, 16, 32

Key = tuple[object, ...]


@dataclass(slots=True)
class Answers:
    """The answers of one game.

    Attributes:
        always: those that depend on nothing but the command, and `of`: on nothing but its receptacle.
        asked: what the other answers to a command depended on so far; `given`: these answers.
    """

    always: dict[str, str] = field(default_factory=dict)
    of: dict[tuple[str, int], str] = field(default_factory=dict)
    asked: dict[str, int] = field(default_factory=dict)
    given: dict[Key, str] = field(default_factory=dict)

    def answer(self, grammar: Grammar, command: str, move: Move, state: WorldState, new: WorldState) -> str:
        """The answer to a command, which is a move from `state` to `new`."""
        text = self.of.get((command, new.changes.get(move.receptacle, 0))) or self.always.get(command)
        if text:
            return text
        asked = self.asked.get(command, BEYOND)
        text = None if asked & BEYOND else self.given.get(_key(asked, command, state, new))
        return self._made(grammar, command, move, state, new) if text is None else text

    def _made(self, grammar: Grammar, command: str, move: Move, state: WorldState, new: WorldState) -> str:
        watched = Watched(new, state.location, move.receptacle)
        text = grammar.feedback(move.action, watched, binding(state, move))
        if len(self.always) + len(self.of) + len(self.given) >= MAX_ANSWERS:
            return text
        if not watched.asked:
            self.always[command] = text
        elif watched.asked == RECEPTACLE:
            self.of[command, new.changes.get(move.receptacle, 0)] = text
        else:
            self.asked[command] = asked = self.asked.get(command, 0) | watched.asked
            self.given[_key(asked, command, state, new)] = text
        return text


def _key(asked: int, command: str, state: WorldState, new: WorldState) -> Key:
    """A command, and what its answer can depend on. What is here includes the receptacle."""
    return (
        command,
        asked,
        new.seen() if asked & (RECEPTACLE | PLACE) else 0,
        new.held if asked & HANDS else 0,
        tuple(new.marks.values()) if asked & CONDITION else 0,
        state.location if asked & ORIGIN else 0,
    )


class Watched:
    """A state that notes what is asked of it.

    `origin` is the location at which the command was given: the one argument that the command does not name. It matters
    if it is asked for, or if locations are listed, as different variables stand for different things.
    """

    def __init__(self, state: WorldState, origin: int, receptacle: int) -> None:
        self._state, self._origin, self._receptacle, self.asked = state, origin, receptacle, 0

    def name(self, entity: int) -> str:
        """What it is called."""
        if entity == self._origin:
            self.asked |= ORIGIN
        return self._state.name(entity)

    def holds(self, predicate: str, values: tuple[int, ...]) -> bool:
        """Whether a fact is so."""
        self.asked |= self._kind(predicate, values)
        return self._state.holds(predicate, values)

    def rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """The facts that fit a pattern, in order; None fits anything."""
        self.asked |= self._kind(predicate, pattern)
        house = self._state.house
        for row in self._state.rows(predicate, pattern):
            if any(one in house.receptacles or one == house.start.location for one in row):
                self.asked |= ORIGIN
            yield row

    def _kind(self, predicate: str, pattern: Pattern) -> int:
        """What a question is about."""
        origin = ORIGIN if self._origin in pattern else 0
        if predicate not in CHANGING and predicate != "not_inreceptacle":
            return origin
        match predicate:
            case "opened" | "inreceptacle" | "not_inreceptacle":
                return origin | self._kind_of(pattern[-1])
            case "objectatlocation" if pattern[-1] == self._state.location:
                return origin | PLACE
            case "atlocation":
                return origin | PLACE
            case "holds" | "holdsany":
                return origin | HANDS
            case _ if predicate in MARKS:
                return origin | CONDITION
        return BEYOND

    def _kind_of(self, receptacle: int | None) -> int:
        here = self._state.house.receptacles.get(self._state.location, ())
        if receptacle not in here:
            return BEYOND
        return RECEPTACLE if receptacle == self._receptacle else PLACE
