"""Games of people. A game starts a new task, or continues a recorded episode.

To continue an episode, its recorded replies are first replayed in a new session.
"""

from __future__ import annotations

import asyncio
import re
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, TypeVar

from arlarena.client.environments import Session, StepOutcome
from arlarena.client.errors import AtCapacity, PolicyFault, ServiceError
from arlarena.console.page.play.environment_servers import EnvironmentServer, EnvironmentServers
from arlarena.console.page.play.options import PlayOptions
from arlarena.console.page.play.recording import GameTurn, append_lines, conversations, played_line
from arlarena.console.page.reading.run_files import DamagedFile
from arlarena.console.page.reading.run_summary import configuration, table
from arlarena.console.page.runs import Catalog, PageRun
from arlarena.console.page.server.security import PageError
from arlarena.proto.text.wording import printable
from arlarena.proto.thoughts import END_THINK, THINK
from arlarena.proto.trajectory import Task

MAX_GAMES = 8
# A game without a step for this time is ended. In seconds.
IDLE_S = 1800.0
REPLY_CHARS = 100_000
ENTRY_POINTS = "arlarena.environments"
PLACEHOLDER = "{action}"
_NAME = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
T = TypeVar("T")


@dataclass(slots=True)
class PersonGame:
    """A game of a person.

    `origin`: the key of the recorded episode that the game continues, and the turn at which the game starts. None for a
    new task. `differs_at`: the first replayed turn at which the state differs from the recorded state, or None.
    `options`: the environment's options.
    """

    id: str
    run: PageRun | None
    options: dict[str, Any]
    server: EnvironmentServer
    session: Session
    task: Task
    first: StepOutcome
    state: StepOutcome
    origin: tuple[str, int] | None = None
    differs_at: int | None = None
    turns: list[GameTurn] = field(default_factory=list)
    saved: dict[str, str] | None = None
    started: float = field(default_factory=time.time)
    touched: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def step(self, reply: str, *, by_person: bool) -> None:
        """Take one step with `reply`. `by_person`: False if `reply` comes from a recorded episode.

        Raises:
            PolicyFault: the reply made the environment fail.
            ServiceError: the environment server failed, or refused the request.
        """
        before, began = self.state, self.touched
        self.state = await self.session.step(reply)
        self.touched = time.monotonic()
        self.turns.append(GameTurn(before, reply, self.state, self.touched - began, by_person))

    def view(self) -> dict[str, Any]:
        """Returns the game as an object of the API (`GET /api/play/{id}`)."""
        parser = self.server.info.parser
        replayed = None
        if self.origin is not None:
            replayed = {"turns": self.origin[1], "matches": self.differs_at is None, "differs_at": self.differs_at}
        return {
            "id": self.id,
            "environment": self.task.environment,
            "task": self.task.id,
            "run": self.run.id if self.run else None,
            "from": None if self.origin is None else {"episode": self.origin[0], "turn": self.origin[1]},
            "replay": replayed,
            "state": self._state(),
            "reply_format": {"action": parser.action, "thought": THINK in parser.tags},
            "saved": self.saved,
        }

    def _state(self) -> dict[str, Any]:
        seen, data = self.state.observation, self.state.metadata
        images = [f"data:{image.mime};base64,{image.data}" for image in seen.images if image.data is not None]
        return {
            "turn": len(self.turns),
            "observation": seen.text,
            "prompt": seen.prompt,
            "message": seen.message,
            "admissible_actions": seen.admissible_actions,
            "remaining_steps": seen.remaining_steps,
            "reward": self.state.reward if self.turns else None,
            "return": sum(turn.after.reward for turn in self.turns),
            "done": self.state.done,
            "terminated": seen.terminated,
            "truncated": seen.truncated,
            "success": data.success,
            "score": data.score,
            "action": printable(data.action),
            "action_valid": seen.action_valid,
            "format_valid": seen.format_valid,
            "state_key": data.state_key,
            "images": [{"data": image} for image in images],
        }

    def reply_of(self, action: str, thought: str) -> str:
        """Returns a reply in the environment's format, with the given action and thought."""
        parser = self.server.info.parser
        answer = parser.action.replace(PLACEHOLDER, action) if parser.action else action
        return f"{THINK}{thought}{END_THINK}{answer}" if THINK in parser.tags else answer


class PersonGames:
    """The games of one page."""

    def __init__(self, catalog: Catalog, options: PlayOptions) -> None:
        self._catalog, self.options = catalog, options
        self._servers = EnvironmentServers()
        self._games: dict[str, PersonGame] = {}

    def environments(self) -> list[dict[str, Any]]:
        """Returns the environments that people can play: first those of the runs, then all installed environments."""
        installed = sorted({point.name for point in entry_points(group=ENTRY_POINTS)})
        of_runs = [
            {"name": name, "run": run.id}
            for run in self._catalog.runs()
            if (name := table(configuration(run.files), "environment").get("name")) in installed
        ]
        return of_runs + [{"name": name, "run": None} for name in installed]

    def get(self, id: str) -> PersonGame:
        """Returns a game. Raises PageError if there is no game with this id."""
        if (game := self._games.get(id)) is None:
            raise PageError(404, "not_found", "no such game; games end after 30 minutes without a step")
        return game

    async def start(self, body: dict[str, Any]) -> PersonGame:
        """Start a game. `body`: the JSON object of `POST /api/play`.

        Raises:
            PageError: the body is invalid, playing is disabled, too many games are open, the run or the episode does
                not exist, or the task cannot be played.
        """
        if not self.options.enabled:
            raise PageError(403, "forbidden", "playing is disabled: start `arlarena view` with --play")
        await self._end_idle()
        if len(self._games) >= MAX_GAMES:
            raise PageError(409, "conflict", f"{MAX_GAMES} games are open: end one of them first")
        run = self._requested_run(body)
        if "episode" in body:
            if run is None:
                raise PageError(400, "bad_request", "the field episode also needs the field run")
            return await self._continue(run, _value(body, "episode", str), _value(body, "turn", int))
        name = body.get("environment")
        if name is None and run is not None:
            name = table(configuration(run.files), "environment").get("name")
        task = Task(
            environment=self._checked_environment(name),
            split=_value(body, "split", str, "test"),
            index=_value(body, "index", int, 0),
            seed=_value(body, "seed", int, 0),
        )
        return await self._open(run, task, _options_of(run, task), [], None)

    def _requested_run(self, body: dict[str, Any]) -> PageRun | None:
        if body.get("run") is None:
            return None
        name = _value(body, "run", str)
        if (run := self._catalog.get(name)) is None:
            raise PageError(404, "not_found", f"no run {name[:100]!r}")
        return run

    def _checked_environment(self, name: object) -> str:
        installed = {point.name for point in entry_points(group=ENTRY_POINTS)}
        if not isinstance(name, str) or not _NAME.match(name) or name not in installed:
            raise PageError(400, "bad_request", f"environment must be one of {', '.join(sorted(installed))}")
        return name

    async def _continue(self, run: PageRun, key: str, turn: int) -> PersonGame:
        try:
            loaded = await asyncio.to_thread(run.records.episode, key)
        except DamagedFile as error:
            raise PageError(500, "damaged", str(error)) from error
        if loaded is None:
            raise PageError(404, "not_found", f"no episode {key[:100]!r}")
        if not 0 <= turn < len(loaded.trajectory.turns):
            raise PageError(400, "bad_request", f"turn must be below {len(loaded.trajectory.turns)}")
        self._checked_environment(loaded.task.environment)
        turns = loaded.trajectory.turns
        expected = [each.state_key for each in turns[: turn + 1]]
        replies = [each.response for each in turns[:turn]]
        options = _options_of(run, loaded.task) if loaded.options is None else loaded.options
        return await self._open(run, loaded.task, options, replies, (key, turn), expected)

    async def _open(
        self,
        run: PageRun | None,
        task: Task,
        options: dict[str, Any],
        replies: list[str],
        origin: tuple[str, int] | None,
        expected: list[str] | None = None,
    ) -> PersonGame:
        """Open a session, reset it, and replay `replies`. Stops at the first state that differs from `expected`.

        `expected`: the keys of the recorded states, one per turn.

        Raises:
            PageError: the environment server does not start, or the task cannot be played.
        """
        server = await self._servers.use(task.environment, options)
        session: Session | None = None
        try:
            (session,) = await server.client.open(1, ttl_s=IDLE_S)
            if task.index >= 0:
                first = await session.reset(split=task.split, index=task.index, seed=task.seed)
            else:
                first = await session.reset(task_id=task.id, seed=task.seed)
            game = PersonGame(f"p{secrets.token_hex(8)}", run, options, server, session, task, first, first, origin)
            for number in range(len(replies) + 1):
                known = expected[number] if expected else ""
                if known and game.state.metadata.state_key != known:
                    game.differs_at = number
                    break
                if number < len(replies):
                    await game.step(replies[number], by_person=False)
        except (ServiceError, PolicyFault, AtCapacity, ValueError, TypeError) as error:
            if session is not None:
                await session.close()
            self._servers.release(server)
            raise PageError(409, "conflict", f"the task cannot be played: {error}") from error
        self._games[game.id] = game
        return game

    async def step(self, game: PersonGame, body: dict[str, Any]) -> None:
        """Take a step with a person's reply. If the game is then over, record the game.

        Raises:
            PageError: the body is invalid, the game is over or cannot be recorded, or the environment server fails.
        """
        if "reply" in body:
            reply = _value(body, "reply", str)
        else:
            reply = game.reply_of(_value(body, "action", str), _value(body, "thought", str, ""))
        if len(reply) > REPLY_CHARS:
            raise PageError(413, "too_large", f"the reply has more than {REPLY_CHARS} characters")
        async with game.lock:
            if game.state.done:
                raise PageError(409, "conflict", "the game is over")
            try:
                await game.step(reply, by_person=True)
            except PolicyFault as error:
                raise PageError(400, "bad_request", str(error)) from error
            except ServiceError as error:
                raise PageError(503, "unavailable", f"the environment server failed: {error}") from error
            if game.state.done and game.saved is None:
                game.saved = await asyncio.to_thread(self._save, game)

    def _save(self, game: PersonGame) -> dict[str, str]:
        line = played_line(game.id, game.task, game.options, game.first, game.turns, game.started)
        paths = {name: self.options.folder / f"{name}.jsonl" for name in ("episodes", "conversations")}
        try:
            append_lines(paths["episodes"], [line])
            append_lines(paths["conversations"], conversations(game.turns, line.score))
        except OSError as error:
            raise PageError(503, "unavailable", f"the game is over, but it cannot be recorded: {error}") from error
        return {name: str(path) for name, path in paths.items()}

    async def end(self, game: PersonGame) -> None:
        """End a game."""
        if self._games.pop(game.id, None) is None:
            return
        self._servers.release(game.server)
        await game.session.close()

    async def _end_idle(self) -> None:
        for game in list(self._games.values()):
            if time.monotonic() - game.touched > IDLE_S:
                await self.end(game)

    async def close(self) -> None:
        """End all games, and stop all environment servers."""
        for game in list(self._games.values()):
            await self.end(game)
        await self._servers.close()


def _options_of(run: PageRun | None, task: Task) -> dict[str, Any]:
    """Returns the environment options of the run. Returns {} without a run, and for a task of another environment."""
    tables = table(configuration(run.files), "environment") if run else {}
    return table(tables, "options") if tables.get("name") == task.environment else {}


def _value(body: dict[str, Any], name: str, kind: Callable[..., T], *default: T) -> T:
    """Returns a value of the body. Raises PageError if the value is missing or is not of type `kind`."""
    value = body.get(name, *default)
    if not isinstance(value, kind) or isinstance(value, bool):  # type: ignore[arg-type]
        raise PageError(400, "bad_request", f"{name} must be of type {kind.__name__}")
    return value  # type: ignore[no-any-return]
