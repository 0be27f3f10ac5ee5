"""Plays a game. The admissible commands and the responses are exactly the same as in TextWorld.

A *menu* is the list of the admissible commands in a state. All episodes of a game share the game's caches of menus and
responses.
"""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from copy import copy
from dataclasses import dataclass, field
from sys import intern
from typing import NamedTuple, Self

from arlarena.environments.alfworld.engine.actions import EFFECTS, Move, after, binding, goto_moves, moves
from arlarena.environments.alfworld.engine.answer_cache import AnswerCache
from arlarena.environments.alfworld.engine.domain import check_domain
from arlarena.environments.alfworld.engine.goal import changing_predicates, compile_goal
from arlarena.environments.alfworld.engine.grammar import Grammar, read_grammar
from arlarena.environments.alfworld.engine.pddl import Expression, PddlProblem, read_problem
from arlarena.environments.alfworld.engine.state import NOTHING, WorldState, check_predicates
from arlarena.environments.alfworld.engine.world import House, Mask, build
from arlarena.environments.alfworld.errors import GameError

NOTHING_HAPPENS = "Nothing happens."
MAX_MENUS = 1024  # maximum number of cached menus of a game; a menu takes about 1 KB

__all__ = ["Game", "GameRules", "Move", "read_rules", "rules_of"]


class Menu(NamedTuple):
    """The admissible commands in alphabetical order. `offered`: the same commands as text for the prompt, without
    `help`.
    """

    commands: tuple[str, ...]
    offered: str


@dataclass(frozen=True, slots=True)
class GameRules:
    """A game's definition and the caches that its episodes share.

    Attributes:
        intro: the text shown at the start.
        task: the sentence that states the task.
        goal: the goal as a PDDL expression.
        won: returns whether the goal holds in a state.
        watched: the goal's predicates that are in `world.CHANGING`.
        goal_entities: the entities that the goal can refer to.
        has_help: whether the game has the command `help`, which ALFWorld 0.4 added.
        command_of: the command of each move. move_of: the move of each command. Entries are added when they are first
            needed.
        goto_commands: pairs (location, command to go to this location).
        menus: cached menus by `WorldState.menu_key`.
        answers: the cache of responses.
    """

    house: House
    grammar: Grammar
    intro: str
    task: str
    goal: Expression
    won: Callable[[WorldState], bool]
    watched: frozenset[str]
    goal_entities: Mask
    has_help: bool
    command_of: dict[Move, str] = field(default_factory=dict)
    move_of: dict[str, Move] = field(default_factory=dict)
    goto_commands: list[tuple[int, str]] = field(default_factory=list)
    menus: dict[tuple[int, ...], Menu] = field(default_factory=dict)
    answers: AnswerCache = field(default_factory=AnswerCache)

    def menu(self, state: WorldState) -> Menu:
        """Return the admissible commands of a state."""
        menu_key = state.menu_key()
        menu = self.menus.get(menu_key)
        if menu is None:
            menu = self._build_menu(state)
            if len(self.menus) < MAX_MENUS:
                self.menus[menu_key] = menu
        return menu

    def decides(self, move: Move) -> bool:
        """Return whether this move can make the goal true or false."""
        if not self.watched & EFFECTS[move.action]:
            return False
        # A move with a thing changes only the facts about this thing, and the fact `holdsany`.
        return move.thing == NOTHING or bool(self.goal_entities >> move.thing & 1) or "holdsany" in self.watched

    def _build_menu(self, state: WorldState) -> Menu:
        here = state.location
        if not self.goto_commands:
            self.goto_commands.extend((place, self._command(state, move)) for place, move in goto_moves(self.house))
        away = [command for location, command in self.goto_commands if location != here]
        commands = sorted({*away, *[self._command(state, move) for move in moves(state)]})
        offered = ", ".join(commands)
        if self.has_help:
            insort(commands, self._command(state, Move("help")))
        return Menu(tuple(commands), offered)

    def _command(self, state: WorldState, move: Move) -> str:
        command = self.command_of.get(move)
        if command is None:
            # Many games have equal commands, so `intern` saves memory.
            command = intern(self.grammar.command(move.action, state, binding(state, move)))
            self.command_of[move] = command
            self.move_of[command] = move
        return command


def read_rules(domain: str, grammar: str, problem: str) -> GameRules:
    """Read a game from the three texts of its file.

    Raises:
        GameError: a text is invalid, or it uses a feature that this engine does not support.
    """
    return rules_of(read_problem(problem), grammar, check_domain(domain))


def rules_of(problem: PddlProblem, grammar: str, actions: frozenset[str]) -> GameRules:
    """Build a game from a problem, a grammar and the names of the domain's actions.

    Raises:
        GameError: the problem or the grammar is invalid, or it uses a feature that this engine does not support.
    """
    house = build(problem)
    texts, task = read_grammar(grammar)
    check_predicates(texts.predicates, "grammar")
    for name in sorted(actions - texts.commands.keys()):
        raise GameError(f"grammar: there is no text for the domain's action {name}")
    if "intro" not in texts.rules:
        raise GameError("grammar: there is no rule 'intro'")
    intro = texts.derive("intro", WorldState(house), {})
    won, goal_entities = compile_goal(problem.goal, house, problem.objects)
    has_help = "help" in actions
    watched = changing_predicates(problem.goal)
    return GameRules(house, texts, intro, task, problem.goal, won, watched, goal_entities, has_help)


class Game:
    """A game in progress.

    Attributes:
        state: the world state.
        won: whether the goal holds in this state.
        menu: the admissible commands in this state.
        feedback: the last response; at the start, the intro of the game.
    """

    __slots__ = ("feedback", "menu", "rules", "state", "won")

    def __init__(self, rules: GameRules) -> None:
        self.rules, self.state, self.feedback = rules, WorldState(rules.house), rules.intro
        self.won, self.menu = rules.won(self.state), rules.menu(self.state)

    def copy(self) -> Self:
        """Return an independent game in the same state."""
        return copy(self)

    @property
    def commands(self) -> dict[str, Move]:
        """The admissible commands in alphabetical order, with their moves."""
        return {command: self.rules.move_of[command] for command in self.menu.commands}

    def play(self, command: str) -> str:
        """Play a command and return the response. A command that is not admissible does not change the state."""
        command, rules, state = command.strip(), self.rules, self.state
        if command not in self.menu.commands:
            self.feedback = NOTHING_HAPPENS
            return NOTHING_HAPPENS
        move = rules.move_of[command]
        new = after(state, move)
        self.feedback = rules.answers.answer(rules.grammar, command, move, state, new)
        if new is not state:
            self.state, self.menu = new, rules.menu(new)
            if rules.decides(move):
                self.won = rules.won(new)
        return self.feedback
