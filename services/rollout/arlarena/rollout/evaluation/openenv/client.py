"""A client for OpenEnv servers. It implements `SessionSource` with OpenEnv's WebSocket sessions.

    async with OpenEnvClient("http://127.0.0.1:8000", OpenEnvSettings()) as environment:
        (session,) = await environment.open(1)
        state = await session.reset(split=SEEDS, index=7, seed=0)
        while not state.done:
            state = await session.step("a model's reply")

OpenEnv's HTTP routes /reset and /step are stateless, so each session has its own WebSocket. The client uses HTTP only
to read the server's description (`openenv.description`).
"""

from __future__ import annotations

import asyncio
from itertools import count as numbers
from typing import Any
from weakref import WeakSet

import aiohttp
import msgspec

from arlarena.client.arguments import valid_integer
from arlarena.client.errors import ProtocolError, Refused
from arlarena.client.transport import AsyncClosing, Timeouts
from arlarena.proto.env_api import Info, Parser, Split, Template
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.openenv.description import (
    OpenEnvDescription,
    openenv_transport,
    read_description,
    read_splits,
    read_tools,
)
from arlarena.rollout.evaluation.openenv.rules import (
    MAX_TEXT_CHARS,
    PARSER_VERSION,
    RULES_VERSION,
    SEEDS,
    TEMPLATE,
    ActionRule,
    OpenEnvSettings,
    check_text_field,
)
from arlarena.rollout.evaluation.openenv.session import OpenEnvRules, OpenEnvSession
from arlarena.rollout.evaluation.openenv.socket import MAX_FRAME_BYTES, OpenEnvSocket, SocketOptions

PARSER = "the reply after the thought is the text of an action, or contains a JSON object"


class OpenEnvClient(AsyncClosing):
    """A client for one OpenEnv server. It supports many concurrent sessions on one event loop."""

    def __init__(
        self,
        url: str,
        settings: OpenEnvSettings | None = None,
        timeouts: Timeouts | None = None,
        *,
        token: str | None = None,
        max_frame_bytes: int = MAX_FRAME_BYTES,
    ) -> None:
        """Create a client. It connects when it is first used.

        Args:
            url: base URL of the server.
            settings: how the environment is played; None: the defaults.
            timeouts: timeouts of requests; None: the defaults.
            token: bearer token, or None.
            max_frame_bytes: maximum size in bytes of a frame from the server.

        Raises:
            TypeError, ValueError: an argument is invalid.
        """
        self.settings = settings or OpenEnvSettings()
        valid_integer("max_steps", self.settings.max_steps, least=1)
        self._transport = openenv_transport(url, token, timeouts)
        self._options = SocketOptions(
            self._transport.timeouts, token, valid_integer("max_frame_bytes", max_frame_bytes, least=1)
        )
        self._pool: aiohttp.ClientSession | None = None
        self._sockets: WeakSet[OpenEnvSocket] = WeakSet()
        self._described: tuple[OpenEnvDescription, OpenEnvRules] | None = None
        self._describing = asyncio.Lock()
        self._numbers = numbers()

    @property
    def url(self) -> str:
        """The base URL of the server."""
        return self._transport.url

    async def close(self) -> None:
        """End all sessions and close all connections."""
        await asyncio.gather(*(socket.close() for socket in list(self._sockets)))
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        await self._transport.close()

    async def info(self) -> Info:
        """Return the environment's description in the format of `GET /v1/info`.

        The description's options are the client's settings. The split `SEEDS` is unbounded. The other splits come from
        the server's Task API. `SEEDS` is an evaluation split only if the server has no evaluation split.

        Raises:
            Unavailable: the server is unreachable or failing.
            Refused, ProtocolError: the server is not an OpenEnv server.
            EvaluationError: a model's reply cannot be converted to an action of this environment. The message contains
                the action's schema.
            ConfigError: a setting names a field that does not exist.
        """
        description, rules = await self._rules()
        splits = await read_splits(self._transport)
        seeds = Split(SEEDS, "test", None, evaluation=not any(split.evaluation for split in splits))
        options = msgspec.to_builtins(self.settings) | {
            "api": "openenv",
            "action_field": rules.action.field,
            "instructions": rules.instructions,
        }
        return Info(
            name=description.name,
            version=description.version,
            description=description.description,
            template=Template(TEMPLATE, RULES_VERSION, rules.instructions),
            parser=Parser(PARSER_VERSION, PARSER),
            rewards={},
            horizon=self.settings.max_steps,
            actions=list(rules.action.choices) or None,
            splits=[seeds, *splits],
            options=options,
            capabilities=[],
        )

    async def open(self, count: int, *, ttl_s: float | None = None) -> list[OpenEnvSession]:
        """Open `count` sessions. If a session cannot be opened, close the other sessions and raise the error.

        `ttl_s` has no effect, because a client cannot set the idle time of an OpenEnv server.

        Raises:
            AtCapacity: the server cannot open so many sessions now.
            Unavailable: the server is unreachable or failing.
            Refused, ProtocolError: the server is not an OpenEnv server.
            EvaluationError, ConfigError: see `info`.
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
        return [OpenEnvSession(socket, rules, next(self._numbers)) for socket in sockets]

    async def _rules(self) -> tuple[OpenEnvDescription, OpenEnvRules]:
        async with self._describing:
            if self._described is None:
                found = await read_description(self._transport)
                schemas = f"{self.url}/schema"
                check_text_field(self.settings.text_field, found.schemas, schemas)
                action = ActionRule.of(found.schemas["action"], schemas, self.settings.action_field)
                instructions = await self._instructions(action, found.description)
                self._described = found, OpenEnvRules(found.name, self.settings, action, instructions)
            return self._described

    async def _instructions(self, action: ActionRule, description: str) -> str:
        if self.settings.instructions is not None:
            return self.settings.instructions
        tools = await self._tools() if action.calls_tools else []
        instructions = action.instructions(description, tools)
        if len(instructions) > MAX_TEXT_CHARS:
            raise EvaluationError(
                f"{self.url}: the description and the schema of the actions have {len(instructions)} characters, but "
                f"the maximum is {MAX_TEXT_CHARS}: give shorter instructions with --openenv instructions=TEXT"
            )
        return instructions

    async def _tools(self) -> list[dict[str, Any]]:
        try:
            return await read_tools(self._transport)
        except (Refused, ProtocolError) as error:
            raise EvaluationError(
                f"{self.url}: the actions are tool calls, but the server lists no tools ({error}): describe the "
                "actions with --openenv instructions=TEXT"
            ) from error
