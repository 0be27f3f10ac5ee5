"""One game being played: what may be typed, and what is answered. It is TextWorld's game, to the character."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import copy
from dataclasses import dataclass
from typing import NamedTuple, Self

from arlarena.env_server.alfworld.domain import check_domain
from arlarena.env_server.alfworld.errors import GameError
from arlarena.env_server.alfworld.goal import compile_goal, watched_by
from arlarena.env_server.alfworld.grammar import Grammar, read_grammar
from arlarena.env_server.alfworld.pddl import Expression, Problem, read_problem
from arlarena.env_server.alfworld.state import NOTHING, State, check_predicates
from arlarena.env_server.alfworld.world import House, build

NOTHING_HAPPENS = "Nothing happens."
HANDS = frozenset(("inreceptacle", "objectatlocation", "holds", "holdsany"))
CHANGES: Mapping[str, frozenset[str]] = {  # what an action may make true or untrue of what a goal may ask for
    "gotolocation": frozenset(("atlocation",)),
    "openobject": frozenset(("opened",)),
    "closeobject": frozenset(("opened",)),
    "pickupobject": HANDS,
    "putobject": HANDS,
    "cleanobject": frozenset(("isclean",)),
    "heatobject": frozenset(("ishot", "iscool")),
    "coolobject": frozenset(("iscool", "ishot")),
    "toggleobject": frozenset(("istoggled",)),
    "sliceobject": frozenset(("issliced",)),
}


class Move(NamedTuple):
    """An action on a thing and a receptacle; -1 for none. Of `sliceobject`, the second is the knife."""

    action: str
    thing: int = NOTHING
    receptacle: int = NOTHING


@dataclass(frozen=True, slots=True)
class Rules:
    """A game as its file has it: everything that episodes share. `task`: the sentence that says what to do."""

    house: House
    grammar: Grammar
    task: str
    goal: Expression
    won: Callable[[State], bool]
    watched: frozenset[str]  # what the goal asks of that can change
    spoken: dict[Move, str]  # filled as they come up
    ways: dict[int, dict[str, Move]]  # from each location to all others; filled as they come up


def read_rules(domain: str, grammar: str, problem: str) -> Rules:
    """A game from the three texts of its file.

    Raises:
        GameError: one of them is broken, or asks for more than ALFWorld's games do.
    """
    check_domain(domain)
    return rules_of(read_problem(problem), grammar)


def rules_of(problem: Problem, grammar: str) -> Rules:
    """A game from a problem that is read already. Errors as in `read_rules`."""
    house = build(problem)
    texts, task = read_grammar(grammar)
    check_predicates(texts.predicates, "grammar")
    won = compile_goal(problem.goal, house, problem.objects)
    return Rules(house, texts, task, problem.goal, won, watched_by(problem.goal), {}, {})


class Game:
    """A game from its start. `feedback` is what was last answered, and before any move the introduction."""

    __slots__ = ("_commands", "feedback", "rules", "state", "won")

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self.state = State(rules.house)
        self.won = rules.won(self.state)
        self.feedback = self._derive("intro", {})
        self._commands: dict[str, Move] | None = None

    def copy(self) -> Self:
        """An independent game in the same state."""
        twin = copy(self)
        twin.state = self.state.copy()
        return twin

    @property
    def commands(self) -> dict[str, Move]:
        """What may be typed now, in alphabetical order, and what it does."""
        if self._commands is None:
            spoken = self.rules.spoken
            found = self._ways() | {spoken.get(move) or self._spoken(move): move for move in self._moves()}
            self._commands = {command: found[command] for command in sorted(found)}
        return self._commands

    def play(self, command: str) -> str:
        """Play a command; one that is not among `commands` changes nothing. Returns the answer."""
        move = self.commands.get(command.strip())
        if move is None:
            self.feedback = NOTHING_HAPPENS
            return self.feedback
        binding = self._binding(move)
        self._apply(move)
        self._commands = None
        if self.rules.watched & CHANGES.get(move.action, frozenset()):
            self.won = self.rules.won(self.state)
        self.feedback = self.rules.grammar.feedback(move.action, self.state, binding)
        return self.feedback

    def _apply(self, move: Move) -> None:
        state, (action, thing, receptacle) = self.state, move
        match action:
            case "gotolocation":
                state.location = self.rules.house.location_of[receptacle]
            case "openobject":
                state.opened |= 1 << receptacle
            case "closeobject":
                state.opened &= ~(1 << receptacle)
            case "pickupobject":
                state.take(thing, receptacle)
            case "putobject":
                state.put(receptacle)
            case "cleanobject":
                state.mark("isclean", thing)
            case "heatobject":
                state.mark("ishot", thing, off="iscool")
            case "coolobject":
                state.mark("iscool", thing, off="ishot")
            case "toggleobject":
                state.mark("istoggled", thing)
            case "sliceobject":
                state.mark("issliced", thing)

    def _ways(self) -> dict[str, Move]:
        """Where the player can go: to all that stands elsewhere."""
        here = self.state.location
        if here not in self.rules.ways:
            places = self.rules.house.location_of.items()
            moves = [Move("gotolocation", receptacle=one) for one, location in places if location != here]
            self.rules.ways[here] = {self._spoken(move): move for move in moves}
        return self.rules.ways[here]

    def _moves(self) -> Iterator[Move]:
        """What else is possible now."""
        state, house = self.state, self.rules.house
        yield from (Move("look"), Move("inventory"), Move("help"))
        for receptacle in house.receptacles.get(state.location, ()):
            yield from self._moves_at(receptacle)
        if state.held == NOTHING:
            return
        yield Move("examineobject", state.held)
        if house.knives >> state.held & 1:
            for thing in state.at.get(state.location, ()):
                if house.sliceable >> thing & 1:
                    yield Move("sliceobject", thing, state.held)

    def _moves_at(self, receptacle: int) -> Iterator[Move]:
        """What is possible at a receptacle that the player stands before."""
        state, house = self.state, self.rules.house
        held, contents, accessible = state.held, state.inside.get(receptacle, ()), state.open_to_hands(receptacle)
        yield Move("examinereceptacle", receptacle=receptacle)
        if house.openable >> receptacle & 1:
            yield Move("closeobject" if accessible else "openobject", receptacle=receptacle)
        for thing in contents:
            if house.toggleable >> thing & 1:
                yield Move("toggleobject", thing, receptacle)
            if accessible and held == NOTHING and house.pickupable >> thing & 1:
                yield Move("pickupobject", thing, receptacle)
        if held == NOTHING:
            return
        if accessible and house.fits.get(held, 0) >> receptacle & 1:
            yield Move("putobject", held, receptacle)
        for action, able in (
            ("cleanobject", house.cleanable),
            ("heatobject", house.heatable),
            ("coolobject", house.coolable),
        ):
            if able >> held & 1 and house.tools[action] >> receptacle & 1:
                yield Move(action, held, receptacle)

    def _spoken(self, move: Move) -> str:
        command = self.rules.grammar.command(move.action, self.state, self._binding(move))
        self.rules.spoken[move] = command
        return command

    def _binding(self, move: Move) -> dict[str, int]:
        """A move's arguments, under the names that they have in the domain."""
        state, house, (action, thing, receptacle) = self.state, self.rules.house, move
        match action:
            case "look":
                return {"a": house.agent, "l": state.location}
            case "inventory" | "help":
                return {"a": house.agent}
            case "examinereceptacle":
                return {"a": house.agent, "r": receptacle}
            case "examineobject":
                return {"a": house.agent, "o": thing}
            case "gotolocation":
                lend = house.location_of[receptacle]
                return {"a": house.agent, "lstart": state.location, "lend": lend, "r": receptacle}
            case "openobject" | "closeobject":
                return {"a": house.agent, "l": state.location, "r": receptacle}
            case "sliceobject":
                return {"a": house.agent, "l": state.location, "co": thing, "ko": receptacle}
        return {"a": house.agent, "l": state.location, "o": thing, "r": receptacle}

    def _derive(self, rule: str, binding: dict[str, int]) -> str:
        if rule not in self.rules.grammar.rules:
            raise GameError(f"grammar: there is no rule {rule!r}")
        return self.rules.grammar.derive(rule, self.state, binding)
