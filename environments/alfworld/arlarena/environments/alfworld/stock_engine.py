"""The *stock engine*: TextWorld, with the names that alfworld gives to things. A step takes about 1,200 times as long
as in the native engine.

This module needs the packages in `requirements/alfworld.txt`. These packages are not dependencies of this distribution,
because one of them, Fast Downward, must be compiled and has the licence GPL. They are imported only if the option
`backend` is "textworld".

TextWorld cannot copy a game. So a game is stored as the list of its commands and the last response, and the engines are
in a pool. To play a command, a game takes an engine in the game's state from the pool. If the pool has no such engine,
another engine loads the game and replays its commands.
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
from arlarena.environments.alfworld.content import GameFile, LoadedGame
from arlarena.environments.alfworld.engine.game import NOTHING_HAPPENS, Game
from arlarena.environments.alfworld.engine.grammar import read_grammar
from arlarena.environments.alfworld.errors import GameError
from arlarena.environments.alfworld.played_game import SUCCESS_REWARD, HouseGame
from arlarena.environments.alfworld.settings import alfworld_import

MISSING = (
    "backend = 'textworld' needs TextWorld and alfworld: pip install --no-deps -r requirements/alfworld.txt "
    "(this takes some minutes)"
)
MAX_ENGINES = 64  # maximum number of engines in the pool; an engine takes 8 MB, and one to two seconds to create
IGNORED_FACTS = ("checked", "examined", "wasinreceptacle")  # no condition of ALFWorld uses these facts
# One game is loaded at a time, because TextWorld's PDDL translator has global options and prints to sys.stdout.
_loading = Lock()


EngineState = tuple[GameFile, tuple[str, ...]]  # a game, and the commands that were played in it


@dataclass(frozen=True, slots=True)
class EngineOutput:
    """The engine's output after a command: the response, the admissible commands, and whether the goal holds. `state`:
    the facts that differ from the start, as canonical text.
    """

    text: str
    commands: tuple[str, ...]
    won: bool
    state: str


def check_packages() -> None:
    """Import the packages of this backend.

    Raises:
        GameError: a package is not installed. The message names the fix.
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


class StockEngine:
    """TextWorld's engine. One engine can load several games in turn.

    An engine must never be destroyed: if the engine's library is unloaded, the process crashes at exit.
    """

    def __init__(self) -> None:
        infos, environment, self._names = _packages()
        self._env = environment(infos(won=True, admissible_commands=True))

    def load(self, file: GameFile) -> None:
        """Load a game. The engine is then at the start of the game.

        Raises:
            GameError: the engine refuses the game. The message contains the engine's message.
        """
        with _loading:
            arguments = sys.argv  # the translator overwrites sys.argv
            try:
                self._env.load(msgspec.to_builtins(file))
                names = self._names(game_infos=self._env._entity_infos)
                for info in self._env._entity_infos.values():
                    info.name = names.demangle_alfred_name(info.id)
                self._state = self._env.reset()
            except (Exception, SystemExit) as error:  # the translator refuses a game by SystemExit
                raise GameError(f"TextWorld refuses the game: {type(error).__name__}: {error}") from error
            finally:
                sys.argv = arguments
        self._start = frozenset(self._facts())

    def play(self, command: str) -> None:
        """Play a command."""
        self._state, _, _ = self._env.step(command)

    def output(self) -> EngineOutput:
        """Return the output after the last command, or at the start of the game."""
        state, now = self._state, frozenset(self._facts())
        changes = repr((sorted(now - self._start), sorted(self._start - now)))
        return EngineOutput(state.feedback, tuple(state["admissible_commands"]), bool(state["won"]), changes)

    def _facts(self) -> Iterator[str]:
        """Yield all facts that can affect the game, each as text."""
        facts = self._state["_facts"]
        where = {
            fact.arguments[0].name: fact.arguments[1].name for fact in facts if fact.name == "receptacleatlocation"
        }
        standing = Counter(where.values())
        for fact in facts:
            words = [argument.name for argument in fact.arguments]
            if fact.name in IGNORED_FACTS or fact.name.startswith("new-axiom"):
                continue
            # Negative facts affect only the text of `look`, and only if several receptacles share a location.
            if fact.name.startswith("not_") and not (
                fact.name == "not_inreceptacle" and standing[where.get(words[1], "")] > 1
            ):
                continue
            yield " ".join([fact.name, *words])


class EnginePool:
    """A pool of engines. The state of an engine is a game and the commands that were played in it. If no engine has the
    required state and the pool is full, the least recently used engine is reused.
    """

    def __init__(self, limit: int = MAX_ENGINES) -> None:
        self._limit = limit
        self._engines: list[tuple[EngineState | None, StockEngine]] = []  # least recently used first
        self._lock = Lock()

    def take(self, file: GameFile, played: tuple[str, ...]) -> StockEngine:
        """Take an engine out of the pool. Its state is the game `file` after the commands `played`. If no engine is in
        this state, another engine loads the game and replays the commands.

        Raises:
            GameError: the engine refuses the game.
        """
        with self._lock:
            at = next((at for at, (state, _) in enumerate(self._engines) if state == (file, played)), None)
            if at is not None:
                return self._engines.pop(at)[1]
            engine = self._engines.pop(0)[1] if len(self._engines) >= self._limit else StockEngine()
        try:
            engine.load(file)
        except GameError:
            with self._lock:
                self._engines.insert(0, (None, engine))
            raise
        for command in played:
            engine.play(command)
        return engine

    def give(self, file: GameFile, played: tuple[str, ...], engine: StockEngine) -> None:
        """Put an engine back into the pool. Its state is the game `file` after the commands `played`."""
        with self._lock:
            self._engines.append(((file, played), engine))


class TextWorldGame(HouseGame):
    """A game in the stock engine.

    Raises:
        TaskError: the engine refuses the game.
    """

    def __init__(self, file: GameFile, loaded: LoadedGame | None, think: bool, pool: EnginePool) -> None:
        super().__init__(loaded, think)
        self.task = self.task or _task(file)
        self._file, self._pool = file, pool
        self._played: tuple[str, ...] = ()
        try:
            engine = pool.take(file, ())
        except GameError as error:
            raise TaskError(str(error)) from error
        self._output, self._text = engine.output(), engine.output().text
        self.score = float(self._output.won)
        pool.give(file, (), engine)

    def text(self) -> str:
        """Return the last response; at the start, the room and the task."""
        return self._text

    def state(self) -> str:
        """Return the facts that differ from the start, in TextWorld's notation."""
        return self._output.state

    def actions(self) -> Sequence[str]:
        """Return the admissible commands."""
        return self._output.commands

    def play(self, action: str | None) -> float:
        """Play a command. If the command is None or not admissible, the state does not change."""
        if action is None or action.strip() not in self._output.commands:
            self._text = NOTHING_HAPPENS
            return 0.0
        engine = self._pool.take(self._file, self._played)
        engine.play(action)
        self._output, self._played = engine.output(), (*self._played, action.strip())
        self._pool.give(self._file, self._played, engine)
        self._text, self.score = self._output.text, float(self._output.won)
        return SUCCESS_REWARD * self.score

    def native(self) -> Game | None:
        """Replay the commands in the native engine and return the game. Return None if the native engine cannot play
        the game.
        """
        if self._loaded is None:
            return None
        game = Game(self._loaded.rules)
        for command in self._played:
            game.play(command)
        return game

    def copy(self) -> Self:
        """Return a shallow copy. It is independent, because all attributes are immutable."""
        return copy(self)


def _task(file: GameFile) -> str:
    """Return the sentence that states the task. Return "" if the grammar cannot be read."""
    try:
        return read_grammar(file.grammar)[1]
    except GameError:
        return ""
