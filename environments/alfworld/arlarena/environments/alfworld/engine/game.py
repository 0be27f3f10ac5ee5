"""One game being played: what may be typed, and what is answered. It is TextWorld's game, to the character.

Episodes of a game share what was worked out before: the menu of a place as it is now, and the answer to a command.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from sys import intern
from typing import NamedTuple, Self

from arlarena.environments.alfworld.engine.actions import CHANGES, Move, after, binding, moves, ways
from arlarena.environments.alfworld.engine.answer_cache import Answers
from arlarena.environments.alfworld.engine.domain import check_domain
from arlarena.environments.alfworld.engine.goal import compile_goal, watched_by
from arlarena.environments.alfworld.engine.grammar import Grammar, read_grammar
from arlarena.environments.alfworld.engine.pddl import Expression, PddlProblem, read_problem
from arlarena.environments.alfworld.engine.state import NOTHING, WorldState, check_predicates
from arlarena.environments.alfworld.engine.world import House, Mask, build
from arlarena.environments.alfworld.errors import GameError

NOTHING_HAPPENS = "Nothing happens."
MAX_MENUS = 1024  # that are kept of a game; some 1 KB each

__all__ = ["Game", "GameRules", "Move", "read_rules", "rules_of"]


class Menu(NamedTuple):
    """What may be typed, in alphabetical order. `offered`: all but `help`, in a sentence."""

    commands: tuple[str, ...]
    offered: str


@dataclass(frozen=True, slots=True)
class GameRules:
    """A game as its file has it, and what is known of it by now: all that episodes share.

    Attributes:
        intro: what is said at the start.
        task: the sentence that says what to do.
        helps: whether `help` may be typed: not in games from before ALFWorld 0.4.
        watched: the predicates of the goal that can change, and `concerned` the entities that the goal can be about.
        spoken: the command of each move, and `meant` the move of each command, as they come up.
        ways: the commands that lead to each location from others.
        menus: by what they depend on.
        answers: what was answered.
    """

    house: House
    grammar: Grammar
    intro: str
    task: str
    goal: Expression
    won: Callable[[WorldState], bool]
    watched: frozenset[str]
    concerned: Mask
    helps: bool
    spoken: dict[Move, str] = field(default_factory=dict)
    meant: dict[str, Move] = field(default_factory=dict)
    ways: list[tuple[int, str]] = field(default_factory=list)
    menus: dict[tuple[int, ...], Menu] = field(default_factory=dict)
    answers: Answers = field(default_factory=Answers)

    def menu(self, state: WorldState) -> Menu:
        """The menu of a state."""
        choice = state.choice()
        menu = self.menus.get(choice)
        if menu is None:
            menu = self._made_menu(state)
            if len(self.menus) < MAX_MENUS:
                self.menus[choice] = menu
        return menu

    def decides(self, move: Move) -> bool:
        """Whether a move can change whether the goal is reached."""
        if not self.watched & CHANGES[move.action]:
            return False
        # What is done to a thing changes facts that name it, and of those that do not only whether anything is held.
        return move.thing == NOTHING or bool(self.concerned >> move.thing & 1) or "holdsany" in self.watched

    def _made_menu(self, state: WorldState) -> Menu:
        here = state.location
        if not self.ways:
            self.ways.extend((location, self._command(state, move)) for location, move in ways(self.house))
        away = [command for location, command in self.ways if location != here]
        commands = sorted({*away, *[self._command(state, move) for move in moves(state)]})
        offered = ", ".join(commands)
        if self.helps:
            insort(commands, self._command(state, Move("help")))
        return Menu(tuple(commands), offered)

    def _command(self, state: WorldState, move: Move) -> str:
        command = self.spoken.get(move)
        if command is None:
            command = intern(self.grammar.command(move.action, state, binding(state, move)))  # many games have it
            self.spoken[move] = command
            self.meant[command] = move
        return command


def read_rules(domain: str, grammar: str, problem: str) -> GameRules:
    """A game from the three texts of its file.

    Raises:
        GameError: one of them is broken, or asks for more than ALFWorld's games do.
    """
    return rules_of(read_problem(problem), grammar, check_domain(domain))


def rules_of(problem: PddlProblem, grammar: str, actions: frozenset[str]) -> GameRules:
    """A game from a problem that is read already, and the names of the domain's actions. Errors as in `read_rules`."""
    house = build(problem)
    texts, task = read_grammar(grammar)
    check_predicates(texts.predicates, "grammar")
    for name in sorted(actions - texts.commands.keys()):
        raise GameError(f"grammar: there is no action {name}, which the domain has")
    if "intro" not in texts.rules:
        raise GameError("grammar: there is no rule 'intro'")
    intro = texts.derive("intro", WorldState(house), {})
    won, concerned = compile_goal(problem.goal, house, problem.objects)
    helps = "help" in actions
    return GameRules(house, texts, intro, task, problem.goal, won, watched_by(problem.goal), concerned, helps)


class Game:
    """A game from its start.

    Attributes:
        state: where everything is.
        won: whether the goal is reached.
        menu: what may be typed now.
        feedback: what was last answered, and before any move the introduction.
    """

    __slots__ = ("feedback", "menu", "rules", "state", "won")

    def __init__(self, rules: GameRules) -> None:
        self.rules, self.state, self.feedback = rules, WorldState(rules.house), rules.intro
        self.won, self.menu = rules.won(self.state), rules.menu(self.state)

    def copy(self) -> Self:
        """An independent game in the same state."""
        return copy(self)

    @property
    def commands(self) -> dict[str, Move]:
        """What may be typed now, in alphabetical order, and what it does."""
        return {command: self.rules.meant[command] for command in self.menu.commands}

    def play(self, command: str) -> str:
        """Play a command; one that is not in the menu changes nothing. Returns the answer."""
        command, rules, state = command.strip(), self.rules, self.state
        if command not in self.menu.commands:
            self.feedback = NOTHING_HAPPENS
            return NOTHING_HAPPENS
        move = rules.meant[command]
        new = after(state, move)
        self.feedback = rules.answers.answer(rules.grammar, command, move, state, new)
        if new is not state:
            self.state, self.menu = new, rules.menu(new)
            if rules.decides(move):
                self.won = rules.won(new)
        return self.feedback
