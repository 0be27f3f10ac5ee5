"""One game being played: what may be typed, and what is answered. It is TextWorld's game, to the character.

A game stands at a position, which never changes and is shared by all episodes that come to it: the siblings of a group,
and whoever plays the game again. So a step that anybody took before is looked up, and a copy is free.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from typing import Self

from arlarena.env_server.alfworld.domain import check_domain
from arlarena.env_server.alfworld.errors import GameError
from arlarena.env_server.alfworld.goal import compile_goal, watched_by
from arlarena.env_server.alfworld.grammar import Grammar, read_grammar
from arlarena.env_server.alfworld.moves import CHANGES, Move, after, binding, moves, ways
from arlarena.env_server.alfworld.pddl import Expression, Problem, read_problem
from arlarena.env_server.alfworld.state import State, check_predicates
from arlarena.env_server.alfworld.world import House, build

NOTHING_HAPPENS = "Nothing happens."
MAX_POSITIONS = 256  # of a game that are shared; some 2 KB each. A game that goes beyond them is stepped all the same

__all__ = ["Game", "Move", "Position", "Rules", "read_rules", "rules_of"]


class Position:
    """A state, what may be typed in it in alphabetical order, and the steps that were taken from it."""

    __slots__ = ("key", "menu", "state", "steps", "won")

    def __init__(self, state: State, key: str, menu: tuple[str, ...], won: bool) -> None:
        self.state, self.key, self.menu, self.won = state, key, menu, won
        self.steps: dict[str, tuple[Position, str]] = {}


@dataclass(frozen=True, slots=True)
class Rules:
    """A game as its file has it, and what is known of it by now: all that episodes share.

    Attributes:
        task: the sentence that says what to do.
        helps: whether `help` may be typed: not in games from before ALFWorld 0.4.
        watched: the predicates of the goal that can change.
        spoken: the command of each move, and `meant` the move of each command, as they come up.
        ways: the commands that lead from each location to others.
        menus: what may be typed, by what it depends on; so many at most.
        positions: by their keys.
    """

    house: House
    grammar: Grammar
    task: str
    goal: Expression
    won: Callable[[State], bool]
    watched: frozenset[str]
    helps: bool
    spoken: dict[Move, str] = field(default_factory=dict)
    meant: dict[str, Move] = field(default_factory=dict)
    ways: dict[int, tuple[str, ...]] = field(default_factory=dict)
    menus: dict[tuple[object, ...], tuple[str, ...]] = field(default_factory=dict)
    positions: dict[str, Position] = field(default_factory=dict)

    def position(self, state: State, won: bool) -> Position:
        """The position of a state."""
        key = state.key()
        found = self.positions.get(key)
        if found is None:
            found = Position(state, key, self._menu(state), won)
            if len(self.positions) < MAX_POSITIONS:
                found = self.positions.setdefault(key, found)
        return found

    def step(self, position: Position, command: str) -> tuple[Position, str]:
        """Where a command of the menu leads, and the answer."""
        state, move = position.state, self.meant[command]
        new, changed = after(state, move), self.watched & CHANGES.get(move.action, frozenset())
        then = position if new is state else self.position(new, self.won(new) if changed else position.won)
        answer = self.grammar.feedback(move.action, new, binding(state, move))
        if then.key in self.positions:
            position.steps[command] = then, answer
        return then, answer

    def _menu(self, state: State) -> tuple[str, ...]:
        at_hand = state.at_hand()
        menu = self.menus.get(at_hand)
        if menu is None:
            menu = self._made_menu(state)
            if len(self.menus) < MAX_POSITIONS:
                self.menus[at_hand] = menu
        return menu

    def _made_menu(self, state: State) -> tuple[str, ...]:
        here = state.location
        if here not in self.ways:
            self.ways[here] = tuple(self._command(state, move) for move in ways(state))
        helps = [self._command(state, Move("help"))] if self.helps else []
        return tuple(sorted({*self.ways[here], *helps, *(self._command(state, move) for move in moves(state))}))

    def _command(self, state: State, move: Move) -> str:
        command = self.spoken.get(move)
        if command is None:
            command = self.grammar.command(move.action, state, binding(state, move))
            self.spoken[move] = command
            self.meant[command] = move
        return command


def read_rules(domain: str, grammar: str, problem: str) -> Rules:
    """A game from the three texts of its file.

    Raises:
        GameError: one of them is broken, or asks for more than ALFWorld's games do.
    """
    return rules_of(read_problem(problem), grammar, check_domain(domain))


def rules_of(problem: Problem, grammar: str, actions: frozenset[str]) -> Rules:
    """A game from a problem that is read already, and the names of the domain's actions. Errors as in `read_rules`."""
    house = build(problem)
    texts, task = read_grammar(grammar)
    check_predicates(texts.predicates, "grammar")
    for name in sorted(actions - texts.commands.keys()):
        raise GameError(f"grammar: there is no action {name}, which the domain has")
    won = compile_goal(problem.goal, house, problem.objects)
    return Rules(house, texts, task, problem.goal, won, watched_by(problem.goal), "help" in actions)


class Game:
    """A game from its start. `feedback` is what was last answered, and before any move the introduction."""

    __slots__ = ("feedback", "position", "rules")

    def __init__(self, rules: Rules) -> None:
        if "intro" not in rules.grammar.rules:
            raise GameError("grammar: there is no rule 'intro'")
        state = State(rules.house)
        self.rules, self.position = rules, rules.position(state, rules.won(state))
        self.feedback = rules.grammar.derive("intro", state, {})

    def copy(self) -> Self:
        """An independent game in the same state."""
        return copy(self)

    @property
    def state(self) -> State:
        """Where everything is."""
        return self.position.state

    @property
    def won(self) -> bool:
        """Whether the goal is reached."""
        return self.position.won

    @property
    def commands(self) -> dict[str, Move]:
        """What may be typed now, in alphabetical order, and what it does."""
        return {command: self.rules.meant[command] for command in self.position.menu}

    def play(self, command: str) -> str:
        """Play a command; one that is not among `commands` changes nothing. Returns the answer."""
        command, position = command.strip(), self.position
        step = position.steps.get(command)
        if step is None:
            known = command in position.menu
            step = self.rules.step(position, command) if known else (position, NOTHING_HAPPENS)
        self.position, self.feedback = step
        return self.feedback
