"""A client of any OpenEnv server, for evaluations: `SessionSource` over OpenEnv's WebSocket sessions.

    async with OpenEnvClient("http://127.0.0.1:8000", OpenEnvSettings()) as environment:
        (session,) = await environment.open(1)
        state = await session.reset(split=SEEDS, index=7, seed=0)
        while not state.done:
            state = await session.step("a model's reply")

OpenEnv's HTTP routes /reset and /step are stateless, so episodes need a WebSocket each. HTTP is used for the
description (`openenv.description`).
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
        """The base URL."""
        return self._transport.url

    async def close(self) -> None:
        """End all sessions and close all connections."""
        await asyncio.gather(*(socket.close() for socket in list(self._sockets)))
        if self._pool is not None:
            await self._pool.close()
            self._pool = None
        await self._transport.close()

    async def info(self) -> Info:
        """Return the description of the environment in the form of `GET /v1/info`, with the settings as its options.

        The split `SEEDS` has no end. The other splits are those of the server's Task API. If one of them is for
        evaluation, `SEEDS` is not, so that it is not the default.

        Raises:
            Unavailable: the server is unreachable or failing.
            Refused, ProtocolError: the server is no OpenEnv server.
            EvaluationError: replies of a model cannot be actions of this environment. The message has the schema.
            ConfigError: the server has no such field as a setting names.
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
        """Open `count` sessions, or none. `ttl_s` has no effect: OpenEnv servers have their own idle time, if any.

        Raises:
            AtCapacity: the server has no capacity for that many sessions now.
            Unavailable: the server is unreachable or failing.
            Refused, ProtocolError: the server is no OpenEnv server.
            EvaluationError, ConfigError: as in `info`.
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
                f"{self.url}: description and schema of the actions have {len(instructions)} characters, and the "
                f"maximum is {MAX_TEXT_CHARS}: give shorter instructions with --openenv instructions=TEXT"
            )
        return instructions

    async def _tools(self) -> list[dict[str, Any]]:
        try:
            return await read_tools(self._transport)
        except (Refused, ProtocolError) as error:
            raise EvaluationError(
                f"{self.url}: its actions are calls of tools, but it lists none ({error}): describe the actions with "
                "--openenv instructions=TEXT"
            ) from error
