"""A client of any OpenEnv server, for evaluations: `SessionSource` over OpenEnv's WebSocket sessions.

    async with OpenEnvClient("http://127.0.0.1:8000", OpenEnvSettings()) as environment:
        (session,) = await environment.open(1)
        state = await session.reset(split=SEEDS, index=7, seed=0)
        while not state.done:
            state = await session.step("a model's reply")

OpenEnv's HTTP routes /reset and /step are stateless, so episodes need a WebSocket each. HTTP is used for /metadata,
/schema and the task routes.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count as numbers
from typing import Any, Literal
from weakref import WeakSet

import aiohttp
import msgspec

from arlarena.client.arguments import valid_integer
from arlarena.client.environments import REQUEST_S
from arlarena.client.errors import ProtocolError, Refused, ServiceError, Unavailable
from arlarena.client.transport import Answer, AsyncClosing, HttpTransport, Timeouts, quote
from arlarena.proto.env_api import Info
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.play.openenv_rules import ActionRule, OpenEnvSettings
from arlarena.rollout.evaluation.play.openenv_session import OpenEnvRules, OpenEnvSession
from arlarena.rollout.evaluation.play.openenv_socket import MAX_FRAME_BYTES, OpenEnvSocket, SocketOptions
from arlarena.rollout.evaluation.records import EnvironmentPlan

# Template and parser of records: the rules of `openenv_rules`. Another version means that results are not comparable.
RULES_VERSION = "openenv/1"
# The split of servers without task routes: the seed of the reset is the index plus the seed of the plan.
SEEDS = "seeds"
MAX_DESCRIPTION_BYTES = 1 << 20  # maximum size of /metadata, /schema and a task
MAX_NAME_CHARS = 200
MAX_CACHED_TASKS = 256

ServerKind = Literal["ours", "openenv"]


@dataclass(frozen=True, slots=True)
class OpenEnvDescription:
    """What `GET /metadata` and `GET /schema` report.

    Attributes:
        version: of the environment, with a digest of the schemas.
        action: JSON Schema of the action, unchecked.
    """

    name: str
    version: str
    description: str
    action: Any


async def detect(url: str, *, token: str | None = None, timeouts: Timeouts | None = None) -> ServerKind:
    """Return the kind of an environment server: "ours" (GET /v1/info) or "openenv" (GET /metadata and /schema).

    Raises:
        Unavailable: the server is unreachable or failing.
        EvaluationError: it is no environment server. The message says what the routes answered.
    """
    async with _transport(url, token, timeouts) as transport:
        answer = await transport.request("GET", "/v1/info")
        if answer.status == 200 and _is(answer, Info):
            return "ours"
        if answer.status in (401, 403):
            raise EvaluationError(f"{transport.url} requires a token: {answer.refusal()}")
        try:
            await _describe(transport)
        except (Refused, ProtocolError) as error:
            raise EvaluationError(
                f"{transport.url} is neither an ARLArena environment server (GET /v1/info: HTTP {answer.status}) nor "
                f"an OpenEnv server ({error})"
            ) from error
    return "openenv"


class OpenEnvClient(AsyncClosing):
    """A client of one OpenEnv server. Safe for many sessions on one event loop."""

    def __init__(
        self,
        url: str,
        settings: OpenEnvSettings | None = None,
        timeouts: Timeouts | None = None,
        *,
        token: str | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        """`token`: bearer token. `max_frame_bytes`: maximum size of a frame of the server.

        Raises:
            TypeError, ValueError: an argument is invalid.
        """
        self.settings = settings or OpenEnvSettings()
        valid_integer("max_steps", self.settings.max_steps, least=1)
        self._transport = _transport(url, token, timeouts)
        self._options = SocketOptions(
            self._transport.timeouts, token, valid_integer("max_frame_bytes", max_frame_bytes, least=1)
        )
        self._pool: aiohttp.ClientSession | None = None
        self._sockets: WeakSet[OpenEnvSocket] = WeakSet()
        self._described: tuple[OpenEnvDescription, OpenEnvRules] | None = None
        self._describing = asyncio.Lock()
        self._task_name: str | None = None
        self._tasks: dict[tuple[str, int], dict[str, Any]] = {}
        self._numbers = numbers()

    @property
    def url(self) -> str:
        """The base URL."""
        return self._transport.url

    async def close(self) -> None:
        """End all sessions and close all connections."""
        await asyncio.gather(*(socket.close() for socket in list(self._sockets)))
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        await self._transport.close()

    async def describe(self) -> OpenEnvDescription:
        """Return the description of the environment.

        Raises:
            Unavailable: the server is unreachable or failing.
            Refused, ProtocolError: it is no OpenEnv server.
            EvaluationError: replies of a model cannot be actions of this environment. The message has the schema.
        """
        return (await self._rules())[0]

    async def plan(self, split: str, indices: Sequence[int], *, name: str = "") -> EnvironmentPlan:
        """Return the plan of an evaluation on this server. `name`: default: the name that the server reports.

        Raises:
            EvaluationError: the server has no such split or not so many tasks.
        """
        description, rules = await self._rules()
        size = await self.tasks(split)
        if size is not None and indices and max(indices) >= size:
            raise EvaluationError(f"{self.url}: the split {split!r} has {size} tasks, and no task {max(indices)}")
        options = msgspec.to_builtins(self.settings) | {
            "api": "openenv",
            "action_field": rules.action.field,
            "instructions": rules.instructions,
        }
        return EnvironmentPlan(
            name=name or description.name,
            url=self.url,
            version=description.version,
            template=RULES_VERSION,
            parser=RULES_VERSION,
            options=options,
            split=split,
            indices=tuple(indices),
        )

    async def tasks(self, split: str) -> int | None:
        """Return the number of tasks of a split, or None for `SEEDS`, where any index is valid.

        Raises:
            EvaluationError: the server has no tasks of this split.
        """
        if split == SEEDS:
            return None
        try:
            size = (await self._task_route("num_tasks", {"split": split})).get("num_tasks")
        except (Refused, Unavailable) as error:  # OpenEnv answers 501 if an environment has no tasks
            raise EvaluationError(
                f"{self.url}: no tasks of the split {split!r} ({error}); the split {SEEDS!r} uses seeds as tasks"
            ) from error
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise ProtocolError(f"{self.url}: num_tasks of the split {split!r} is not a number of tasks")
        return size

    async def open(self, count: int, *, ttl_s: float | None = None) -> list[OpenEnvSession]:
        """Open `count` sessions, or none. `ttl_s` has no effect: OpenEnv servers have their own idle time, if any.

        Raises:
            AtCapacity: the server has no capacity for that many sessions now.
            Unavailable: the server is unreachable or failing.
            Refused, ProtocolError: it is no OpenEnv server.
            EvaluationError: replies of a model cannot be actions of this environment.
        """
        _, rules = await self._rules()
        if self._pool is None:
            self._pool = aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0, ttl_dns_cache=60))
        pool = self._pool
        opened = await asyncio.gather(
            *(OpenEnvSocket.connect(pool, self.url, self._options) for _ in range(count)), return_exceptions=True
        )
        sockets = [one for one in opened if isinstance(one, OpenEnvSocket)]
        failures = [one for one in opened if isinstance(one, BaseException)]
        if failures:
            await asyncio.gather(*(socket.close() for socket in sockets))
            raise failures[0]
        self._sockets.update(sockets)
        return [OpenEnvSession(socket, rules, self._reset_data, next(self._numbers)) for socket in sockets]

    async def _rules(self) -> tuple[OpenEnvDescription, OpenEnvRules]:
        async with self._describing:
            if self._described is None:
                found = await _describe(self._transport)
                action = ActionRule.of(found.action, f"{self.url}/schema", self.settings.action_field)
                given = self.settings.instructions
                instructions = action.instructions(found.description) if given is None else given
                self._described = found, OpenEnvRules(found.name, self.settings, action, instructions)
            return self._described

    async def _reset_data(self, split: str, index: int, seed: int) -> dict[str, Any]:
        """Return the data of a reset: a seed, or a task of the server with a seed."""
        if split in ("", SEEDS):
            return {"seed": seed + index}
        if (split, index) not in self._tasks:
            task = (await self._task_route("task", {"split": split, "index": index})).get("task")
            if not isinstance(task, dict):
                raise ProtocolError(f"{self.url}: task of {split}/{index} is {type(task).__name__}, not an object")
            if len(self._tasks) >= MAX_CACHED_TASKS:
                self._tasks.pop(next(iter(self._tasks)))
            self._tasks[split, index] = task
        return {**self._tasks[split, index], "seed": seed}

    async def _task_route(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        if self._task_name is None:
            names = _decoded(await self._transport.request("GET", "/list_environments"), list)
            if len(names) != 1 or not isinstance(names[0], str) or not names[0].isprintable() or "/" in names[0]:
                raise ProtocolError(f"{self.url}: GET /list_environments does not report one name")
            self._task_name = names[0]
        answer = await self._transport.request("POST", f"/{self._task_name}/{route}", msgspec.json.encode(body))
        found: dict[str, Any] = _decoded(answer, dict)
        return found


def _transport(url: str, token: str | None, timeouts: Timeouts | None) -> HttpTransport:
    return HttpTransport(url, timeouts or Timeouts(request_s=REQUEST_S), token, MAX_DESCRIPTION_BYTES)


async def _describe(transport: HttpTransport) -> OpenEnvDescription:
    """Read /metadata and /schema.

    Raises:
        ServiceError: the server does not answer, or is no OpenEnv server. The message names route and field.
    """
    metadata = _decoded(await transport.request("GET", "/metadata"), dict)
    schemas = _decoded(await transport.request("GET", "/schema"), dict)
    if "action" not in schemas:
        raise ProtocolError(f"GET {transport.url}/schema: action is missing")
    name = _text(metadata, "name", transport)
    if not name or len(name) > MAX_NAME_CHARS or not name.isprintable():
        raise ProtocolError(f"GET {transport.url}/metadata: name is not a name: {name[:MAX_NAME_CHARS]!r}")
    version = _text(metadata, "version", transport) or "unversioned"
    digest = hashlib.blake2b(msgspec.json.encode(schemas, order="deterministic"), digest_size=8).hexdigest()
    description = _text(metadata, "description", transport)
    return OpenEnvDescription(name, f"{version[:MAX_NAME_CHARS]}+schema.{digest}", description, schemas["action"])


def _text(metadata: dict[str, Any], field: str, transport: HttpTransport) -> str:
    value = metadata.get(field)
    if value is not None and not isinstance(value, str):
        raise ProtocolError(f"GET {transport.url}/metadata: {field} is {type(value).__name__}, not a string")
    return value or ""


def _decoded(answer: Answer, kind: type[Any]) -> Any:
    """Return the body of a response.

    Raises:
        Refused: its status is not 200.
        ProtocolError: it is not JSON of this kind.
    """
    if answer.status != 200:
        raise Refused(f"{answer.request}: HTTP {answer.status}: {quote(answer.body)}", answer.status)
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except (msgspec.MsgspecError, ValueError, RecursionError) as error:
        raise answer.malformed(error) from error


def _is(answer: Answer, kind: type[Any]) -> bool:
    try:
        _decoded(answer, kind)
    except ServiceError:
        return False
    return True
