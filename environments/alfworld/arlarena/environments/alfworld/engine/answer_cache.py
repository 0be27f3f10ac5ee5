"""A cache of the responses to commands.

A response depends only on the command's arguments and on the facts that the grammar reads. Each game's file has its own
grammar. So the cache records which kinds of facts the grammar reads for each response. The cache key contains the
values of these facts. Therefore, states with equal keys have equal responses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from arlarena.environments.alfworld.engine.actions import Move, binding
from arlarena.environments.alfworld.engine.grammar import Grammar
from arlarena.environments.alfworld.engine.state import WorldState
from arlarena.environments.alfworld.engine.text_limits import Pattern
from arlarena.environments.alfworld.engine.world import CHANGING, MARKS

MAX_ANSWERS = 4096  # maximum number of cached responses of a game; a response takes about 250 bytes
# Dependencies of a response, as bits. RECEPTACLE: the command's receptacle and its contents. PLACE: all other facts
# about the location. HANDS: the held thing. CONDITION: conditions of things, such as clean. ORIGIN: the location before
# the command. BEYOND: any other fact.
RECEPTACLE, PLACE, HANDS, CONDITION, ORIGIN, BEYOND = 1, 2, 4, 8, 16, 32

Key = tuple[object, ...]


@dataclass(slots=True)
class AnswerCache:
    """The cached responses of a game.

    Attributes:
        by_command: responses that depend only on the command.
        by_receptacle: responses that depend only on the command and the state of the command's receptacle.
        dependencies: for each command that depends on further facts, all dependencies that were recorded so far.
        by_key: responses to the commands in `dependencies`, by the result of `_key`.
    """

    by_command: dict[str, str] = field(default_factory=dict)
    by_receptacle: dict[tuple[str, int], str] = field(default_factory=dict)
    dependencies: dict[str, int] = field(default_factory=dict)
    by_key: dict[Key, str] = field(default_factory=dict)

    def answer(self, grammar: Grammar, command: str, move: Move, state: WorldState, new: WorldState) -> str:
        """Return the response to a command. `move`: the command's move. `state`, `new`: the states before and after the
        move.
        """
        text = self.by_receptacle.get((command, new.changes.get(move.receptacle, 0))) or self.by_command.get(command)
        if text:
            return text
        needs = self.dependencies.get(command, BEYOND)
        text = None if needs & BEYOND else self.by_key.get(_key(needs, command, state, new))
        return self._compute(grammar, command, move, state, new) if text is None else text

    def _compute(self, grammar: Grammar, command: str, move: Move, state: WorldState, new: WorldState) -> str:
        recorder = FactRecorder(new, state.location, move.receptacle)
        text = grammar.feedback(move.action, recorder, binding(state, move))
        if len(self.by_command) + len(self.by_receptacle) + len(self.by_key) >= MAX_ANSWERS:
            return text
        if not recorder.needs:
            self.by_command[command] = text
        elif recorder.needs == RECEPTACLE:
            self.by_receptacle[command, new.changes.get(move.receptacle, 0)] = text
        else:
            self.dependencies[command] = needs = self.dependencies.get(command, 0) | recorder.needs
            self.by_key[_key(needs, command, state, new)] = text
        return text


def _key(needs: int, command: str, state: WorldState, new: WorldState) -> Key:
    """Return a cache key: the command, and the values of the dependencies `needs`. The location's key also covers the
    command's receptacle, because the receptacle is at this location.
    """
    return (
        command,
        needs,
        new.location_key() if needs & (RECEPTACLE | PLACE) else 0,
        new.held if needs & HANDS else 0,
        tuple(new.marks.values()) if needs & CONDITION else 0,
        state.location if needs & ORIGIN else 0,
    )


class FactRecorder:
    """Gives access to the facts of a state, and records in `needs` which kinds of facts are read.

    `origin`: the location before the command. The command's text contains all other arguments of the command. The
    response depends on `origin` in two cases: the grammar reads `origin`, or the grammar lists locations. A list of
    locations never contains `origin`: different variables of a query denote different entities, and one variable
    already denotes `origin`.
    """

    def __init__(self, state: WorldState, origin: int, receptacle: int) -> None:
        self._state, self._origin, self._receptacle, self.needs = state, origin, receptacle, 0

    def name(self, entity: int) -> str:
        """Return the entity's name."""
        if entity == self._origin:
            self.needs |= ORIGIN
        return self._state.name(entity)

    def holds(self, predicate: str, values: tuple[int, ...]) -> bool:
        """Return whether a fact holds."""
        self.needs |= self._kind(predicate, values)
        return self._state.holds(predicate, values)

    def rows(self, predicate: str, pattern: Pattern) -> Iterator[tuple[int, ...]]:
        """Yield the facts that match a pattern, in order. None in the pattern matches every entity."""
        self.needs |= self._kind(predicate, pattern)
        house = self._state.house
        for row in self._state.rows(predicate, pattern):
            if any(one in house.receptacles or one == house.start.location for one in row):
                self.needs |= ORIGIN
            yield row

    def _kind(self, predicate: str, pattern: Pattern) -> int:
        """Return the dependency (such as RECEPTACLE or HANDS) that reading these facts adds."""
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
