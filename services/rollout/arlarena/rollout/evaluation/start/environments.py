"""Opens the environments of an evaluation. For a name, starts a server. For a URL, connects to the running server."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

import tomli_w

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import ServiceError
from arlarena.client.transport import Timeouts
from arlarena.proto.atomic_files import write_text
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info
from arlarena.proto.http.addresses import service_url
from arlarena.proto.shared_settings import EVERY_SPLIT
from arlarena.proto.text.names import nearest
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.openenv.client import OpenEnvClient
from arlarena.rollout.evaluation.openenv.description import detect
from arlarena.rollout.evaluation.openenv.rules import OpenEnvSettings
from arlarena.rollout.evaluation.served import CONCURRENCY
from arlarena.rollout.evaluation.sets.standard import find_set, set_options
from arlarena.rollout.evaluation.start.local_service import LocalServices
from arlarena.rollout.evaluation.start.options import assignment
from arlarena.rollout.settings import RolloutSettings, load_addresses

# A started server allows this many more sessions than the evaluation uses. After a failure, the server may keep a
# replaced session until its idle time ends.
SPARE_SESSIONS = 32


@dataclass(frozen=True, slots=True)
class EnvironmentChoice:
    """The value of an option `--env`, and the environment's options.

    Attributes:
        name: name of the environment, or the URL as the user wrote it.
        url: URL of a running server; "" if this process starts the server.
        options: the environment's options if this process starts the server.
    """

    name: str
    url: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OpenedEnvironment:
    """An environment that can be played.

    Attributes:
        name: unique name in the evaluation.
        url: URL of a running server; "" if this process started the server.
        client: opens sessions.
        info: the server's description of the environment.
    """

    name: str
    url: str
    client: EnvironmentClient | OpenEnvClient
    info: Info

    @property
    def own_client(self) -> EnvironmentClient | None:
        """The client of an ARLArena server, or None for an OpenEnv server."""
        return self.client if isinstance(self.client, EnvironmentClient) else None


def parse_environments(texts: Sequence[str], options: Sequence[str]) -> list[EnvironmentChoice]:
    """Parse the values of `--env` (a name or a URL) and `--option` (KEY=VALUE or NAME:KEY=VALUE).

    Raises:
        ConfigError: a URL is invalid, an option is not KEY=VALUE, or an option belongs to no started environment.
    """
    names = list(dict.fromkeys(text for text in texts if "://" not in text))
    for text in names:
        if not text.strip() or ":" in text:
            raise ConfigError(f"--env {text!r}: write a name such as sokoban, or an address such as http://host:8000")
    of_name: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in options:
        if not names:
            raise ConfigError(
                f"--option {_key(text)}: an option needs --env NAME, because a server at a URL has its own options"
            )
        name, colon, value = text.partition(":")
        if not colon or "=" in name:
            if len(names) != 1:
                raise ConfigError(f"--option {_key(text)}: write NAME:KEY=VALUE; NAME is {' or '.join(names)}")
            name, value = names[0], text
        if name not in of_name:
            raise ConfigError(
                f"--option {_key(text)}: no option --env starts the environment {name!r}; {nearest(name, names)}"
            )
        assign(of_name[name], *assignment("--option", value), "--option")
    return [
        EnvironmentChoice(text, _address(text), {}) if "://" in text else EnvironmentChoice(text, "", of_name[text])
        for text in dict.fromkeys(texts)
    ]


def choices_of(texts: Sequence[str], options: Sequence[str], set_name: str | None) -> list[EnvironmentChoice]:
    """Parse the values of `--env`, `--option` and `--set`.

    A standard set adds its options to the environments that this process starts. Without `--env`, the set's environment
    is started.

    Raises:
        ConfigError: see `parse_environments`. Other causes: neither `--env` nor `--set` is given, the set does not
            exist, or the set fixes an option that `--option` sets.
    """
    if set_name is None:
        if not texts:
            raise ConfigError("give --env NAME, --env URL, or --set NAME for a standard evaluation set")
        return parse_environments(texts, options)
    try:
        standard = find_set(set_name)
        return [
            choice if choice.url else replace(choice, options=set_options(standard, choice.options))
            for choice in parse_environments(texts or [standard.environment], options)
        ]
    except EvaluationError as error:
        raise ConfigError(str(error)) from error


def _key(text: str) -> str:
    return text.partition("=")[0]


def _address(text: str) -> str:
    try:
        return service_url(text)
    except ValueError as error:
        raise ConfigError(f"--env: {error}") from error


def assign(options: dict[str, Any], key: str, value: Any, flag: str) -> None:
    """Set a key in `options`. For example, `curriculum.start` sets the key `start` in the table `curriculum`.

    `flag`: name of the command-line option, for error messages.

    Raises:
        ConfigError: a part of `key` before a dot is not a table in `options`.
    """
    *tables, last = key.split(".")
    for table in tables:
        options = options.setdefault(table, {})
        if not isinstance(options, dict):
            raise ConfigError(f"{flag} {key}: {table} is not a table")
    options[last] = value


@asynccontextmanager
async def opened(
    choices: Sequence[EnvironmentChoice],
    services: LocalServices,
    settings: RolloutSettings,
    *,
    sessions: int,
    expert: bool = False,
    openenv: OpenEnvSettings | None = None,
) -> AsyncIterator[list[OpenedEnvironment]]:
    """Start servers, and connect to running servers. Yield the environments in the order of `choices`.

    Args:
        choices: see `parse_environments`.
        services: starts the servers. The servers' configurations are written to `services.directory`.
        settings: timeouts and retries of the client.
        sessions: number of sessions that each started server must allow.
        expert: whether started servers allow the expert in all splits.
        openenv: settings for OpenEnv servers (`--openenv`); None: the defaults.

    Raises:
        ConfigError: an environment or one of its options is unknown or invalid, or `openenv` is given and no server is
            an OpenEnv server.
        EvaluationError: a server did not start, does not answer, or is not an environment server.
    """
    async with AsyncExitStack() as stack:

        async def reach(number: int, choice: EnvironmentChoice) -> tuple[EnvironmentClient | OpenEnvClient, Info]:
            url = choice.url or await _started(number, choice, services, sessions, expert)
            try:
                client = await _client(choice, url, settings, openenv)
                await stack.enter_async_context(client)
                return client, await client.info()
            except ServiceError as error:
                hint = "; check that this is the address of a running environment server" if choice.url else ""
                raise EvaluationError(f"--env {choice.name}: {error}{hint}") from error
            except EvaluationError as error:
                raise EvaluationError(f"--env {choice.name}: {error}") from error

        reaching = [asyncio.ensure_future(reach(number, choice)) for number, choice in enumerate(choices)]
        try:
            reached = await asyncio.gather(*reaching)
        finally:
            for task in reaching:
                task.cancel()
            await asyncio.gather(*reaching, return_exceptions=True)
        if openenv is not None and all(isinstance(client, EnvironmentClient) for client, _ in reached):
            raise ConfigError(
                f"--openenv is for OpenEnv servers, but the servers of --env are ARLArena servers "
                f"({', '.join(choice.name for choice in choices)}): leave --openenv out"
            )
        names = unique_names([info.name for _, info in reached])
        yield [
            OpenedEnvironment(name, choice.url, client, info)
            for name, choice, (client, info) in zip(names, choices, reached, strict=True)
        ]


def unique_names(reported: Sequence[str]) -> list[str]:
    """Convert the names that the servers report to unique file names, because exported files have these names.

    If a name occurs again, its position in the list is added, as in `sokoban-1`.
    """
    names = [re.sub(r"[^\w.-]+", "-", name).strip("-.") or "environment" for name in reported]
    return [f"{name}-{number}" if name in names[:number] else name for number, name in enumerate(names)]


async def _started(number: int, choice: EnvironmentChoice, services: LocalServices, sessions: int, expert: bool) -> str:
    """Start an environment server, and return its address. `number`: position of `choice` in the list of choices."""
    table = {
        "name": choice.name,
        # The check of a standard set resets CONCURRENCY tasks at a time.
        "capacity": max(sessions, CONCURRENCY) + SPARE_SESSIONS,
        "expert_splits": [EVERY_SPLIT] if expert else [],
        "options": dict(choice.options),
    }
    name = f"{number}-{re.sub(r'[^A-Za-z0-9_-]+', '-', choice.name)}"
    config = services.directory / f"{name}.toml"
    config.parent.mkdir(parents=True, exist_ok=True)
    write_text(config, tomli_w.dumps({"environment": table}), private=True)
    try:
        return await services.start(
            "arlarena.env_server", ["--config", str(config)], name, f"the environment server of {choice.name}"
        )
    except ConfigError as error:
        _, marker, cause = str(error).partition(f"{config}: ")
        raise ConfigError(f"--env {choice.name}: {cause}" if marker else str(error)) from error


async def _client(
    choice: EnvironmentChoice, url: str, settings: RolloutSettings, openenv: OpenEnvSettings | None
) -> EnvironmentClient | OpenEnvClient:
    """Return a client for an ARLArena or OpenEnv server. Servers that this process starts need no token.

    Raises:
        ServiceError, EvaluationError: see `detect`.
    """
    secret = load_addresses({}).environment_token if choice.url else None
    token = secret.get_secret_value() if secret else None
    timeouts = Timeouts(settings.connect_timeout_s, settings.environment_timeout_s)
    if choice.url and await detect(url, token=token, timeouts=timeouts, retries=settings.request_retries) == "openenv":
        return OpenEnvClient(url, openenv, timeouts, token=token)
    return EnvironmentClient(
        url,
        timeouts,
        retries=settings.request_retries,
        batch_window_s=settings.batch_window_s,
        batch_size=settings.batch_size,
        token=token,
    )
