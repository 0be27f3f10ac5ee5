"""The stock engine: TextWorld's, with alfworld's names, behind the same interface. Some 800 times slower than ours.

It needs packages that are not among our dependencies (`requirements/alfworld.txt`; Fast Downward is GPL and
compiled), imported when the first game is made. TextWorld's games cannot be copied. So a game here is the list of what
was typed in it and what was last answered; engines are kept apart from games, and one that stands just there is taken
where there is one, else the list is played again.
"""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from importlib import import_module
from threading import Lock
from typing import Any, Self

import msgspec

from arlarena.environment.protocols import TaskError
from arlarena.environments.alfworld.content import GameFile, Loaded
from arlarena.environments.alfworld.engine.game import NOTHING_HAPPENS, Game
from arlarena.environments.alfworld.engine.grammar import read_grammar
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.played_game import SUCCESS_REWARD, HouseGame
from arlarena.environments.alfworld.settings import alfworld_import

MISSING = "it needs TextWorld and alfworld: pip install --no-deps -r requirements/alfworld.txt (some minutes)"
LIVE = 64  # engines kept for their next step; each takes some 8 MB, and a second or two to make
UNSEEN = ("checked", "examined", "wasinreceptacle")  # facts that no condition of ALFWorld asks for
_loading = Lock()  # the translator keeps its options in a module and prints to sys.stdout


Place = tuple[GameFile, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class Seen:
    """What the engine says after a command. `state`: canonical text over its facts."""

    text: str
    commands: tuple[str, ...]
    won: bool
    state: str


def check_packages() -> None:
    """Import what this backend needs.

    Raises:
        GameError: something is not installed; the message says what to do.
    """
    try:
        _packages()
    except ImportError as error:
        raise GameError(f"{error}; {MISSING}") from error


def _packages() -> tuple[Any, Any, Any]:
    modules = ("fast_downward", "textworld.core", "textworld.envs.pddl.pddl", "alfworld.agents.utils.misc")
    with alfworld_import():
        _, core, pddl, names = map(import_module, modules)
    return core.EnvInfos, pddl.PddlEnv, names.Demangler


class Stock:
    """TextWorld's engine. It can be given one game after another; it cannot be thrown away, for its library, once
    unloaded, brings the process down at its end.
    """

    def __init__(self) -> None:
        infos, environment, self._names = _packages()
        self._env = environment(infos(won=True, admissible_commands=True))

    def load(self, file: GameFile) -> None:
        """Put a game in, at its start.

        Raises:
            GameError: the engine does not take it; the message is its own.
        """
        with _loading:
            arguments = sys.argv  # which the translator overwrites
            try:
                self._env.load(msgspec.to_builtins(file))
                names = self._names(game_infos=self._env._entity_infos)
                for info in self._env._entity_infos.values():
                    info.name = names.demangle_alfred_name(info.id)
                self._state = self._env.reset()
            except (Exception, SystemExit) as error:  # the translator's way to refuse
                raise GameError(f"TextWorld does not take the game: {type(error).__name__}: {error}") from error
            finally:
                sys.argv = arguments
        self._start = frozenset(self._facts())

    def play(self, command: str) -> None:
        """Type a command."""
        self._state, _, _ = self._env.step(command)

    def seen(self) -> Seen:
        """What it says now."""
        state, now = self._state, frozenset(self._facts())
        changes = repr((sorted(now - self._start), sorted(self._start - now)))
        return Seen(state.feedback, tuple(state["admissible_commands"]), bool(state["won"]), changes)

    def _facts(self) -> Iterator[str]:
        """The facts that can make a difference, as text."""
        facts = self._state["_facts"]
        where = {
            fact.arguments[0].name: fact.arguments[1].name for fact in facts if fact.name == "receptacleatlocation"
        }
        standing = Counter(where.values())
        for fact in facts:
            words = [argument.name for argument in fact.arguments]
            if fact.name in UNSEEN or fact.name.startswith("new-axiom"):
                continue
            # Of what is not so, `look` alone asks, and only where receptacles share a location.
            if fact.name.startswith("not_") and not (
                fact.name == "not_inreceptacle" and standing[where.get(words[1], "")] > 1
            ):
                continue
            yield " ".join([fact.name, *words])


class Stocks:
    """Engines by where they stand: a game, and what was typed in it. Where none stands right, the one that was used
    least recently is taken.
    """

    def __init__(self, most: int = LIVE) -> None:
        self._most = most
        self._kept: list[tuple[Place | None, Stock]] = []  # from the least to the most recently used
        self._lock = Lock()

    def take(self, file: GameFile, played: tuple[str, ...]) -> Stock:
        """An engine that stands there, for the caller alone. Errors as in `Stock.load`."""
        with self._lock:
            at = next((at for at, (place, _) in enumerate(self._kept) if place == (file, played)), None)
            if at is not None:
                return self._kept.pop(at)[1]
            stock = self._kept.pop(0)[1] if len(self._kept) >= self._most else Stock()
        try:
            stock.load(file)
        except GameError:
            with self._lock:
                self._kept.insert(0, (None, stock))
            raise
        for command in played:
            stock.play(command)
        return stock

    def give(self, file: GameFile, played: tuple[str, ...], stock: Stock) -> None:
        """Keep an engine for who goes on from there."""
        with self._lock:
            self._kept.append(((file, played), stock))


class TextWorldGame(HouseGame):
    """A game in the stock engine.

    Raises:
        TaskError: the engine does not take it.
    """

    def __init__(self, file: GameFile, made: Loaded | None, think: bool, stocks: Stocks) -> None:
        super().__init__(made, think)
        self.task = self.task or _task(file)
        self._file, self._stocks = file, stocks
        self._played: tuple[str, ...] = ()
        try:
            stock = stocks.take(file, ())
        except GameError as error:
            raise TaskError(str(error)) from error
        self._seen, self._text = stock.seen(), stock.seen().text
        self.score = float(self._seen.won)
        stocks.give(file, (), stock)

    def text(self) -> str:
        """The last answer; at the start, the room and the task."""
        return self._text

    def state(self) -> str:
        """What differs from the start, in TextWorld's facts."""
        return self._seen.state

    def actions(self) -> Sequence[str]:
        """What may be typed now."""
        return self._seen.commands

    def play(self, action: str | None) -> float:
        """Type a command; what could not be read, or does not work here, changes nothing."""
        if action is None or action.strip() not in self._seen.commands:
            self._text = NOTHING_HAPPENS
            return 0.0
        stock = self._stocks.take(self._file, self._played)
        stock.play(action)
        self._seen, self._played = stock.seen(), (*self._played, action.strip())
        self._stocks.give(self._file, self._played, stock)
        self._text, self.score = self._seen.text, float(self._seen.won)
        return SUCCESS_REWARD * self.score

    def native(self) -> Game | None:
        """Our engine, with the same commands typed."""
        if self._made is None:
            return None
        game = Game(self._made.rules)
        for command in self._played:
            game.play(command)
        return game

    def copy(self) -> Self:
        """All that it holds never changes."""
        return copy(self)


def _task(file: GameFile) -> str:
    """The sentence of the task; "" where it cannot be found."""
    try:
        return read_grammar(file.grammar)[1]
    except GameError:
        return ""
