"""The environments of an evaluation: started here by name, or reached at an address."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import tomli_w

from arlarena.client.environments import EnvironmentClient
from arlarena.client.transport import Timeouts
from arlarena.proto.atomic_files import write_text
from arlarena.proto.config import ConfigError, parse_assignment
from arlarena.proto.env_api import Info
from arlarena.proto.http.addresses import service_url
from arlarena.rollout.evaluation.served import CONCURRENCY
from arlarena.rollout.evaluation.sets.standard import find_set, set_options
from arlarena.rollout.evaluation.start.local_service import local_service
from arlarena.rollout.settings import RolloutSettings, load_addresses

SPARE_SESSIONS = 32  # of a started server, above the evaluation's own: a replaced session ends after its idle time


@dataclass(frozen=True, slots=True)
class EnvironmentChoice:
    """One `--env`.

    Attributes:
        name: of the environment, for messages; for an address, the address.
        url: of a running server; "" if the server is started here.
        options: of the environment that is started here.
    """

    name: str
    url: str
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OpenedEnvironment:
    """An environment that can be played. `name`: unique in the evaluation."""

    name: str
    url: str
    client: EnvironmentClient
    info: Info


def parse_environments(texts: Sequence[str], options: Sequence[str]) -> list[EnvironmentChoice]:
    """Return the choices of `--env` (names or addresses) and `--option` (KEY=VALUE, or NAME:KEY=VALUE).

    Raises:
        ConfigError: an address is invalid, an option is not KEY=VALUE, or it belongs to no started environment.
    """
    names = [text for text in texts if "://" not in text]
    of_name: dict[str, dict[str, Any]] = {name: {} for name in names}
    for text in options:
        name, colon, assignment = text.partition(":")
        if not colon or "=" in name:
            if len(names) != 1:
                raise ConfigError(
                    f"--option {_key(text)}: write NAME:KEY=VALUE, NAME being one of {names or 'no --env'}"
                )
            name, assignment = names[0], text
        if name not in of_name:
            raise ConfigError(f"--option {_key(text)}: {name!r} is no --env that is started here; known: {names}")
        _assign(of_name[name], *parse_assignment(assignment, "KEY=VALUE"))
    return [
        EnvironmentChoice(text, _address(text), {}) if "://" in text else EnvironmentChoice(text, "", of_name[text])
        for text in dict.fromkeys(texts)
    ]


def choices_of(texts: Sequence[str], options: Sequence[str], set_name: str | None) -> list[EnvironmentChoice]:
    """Return the choices of `--env` and `--option`; with a standard set, its environment with the options of the set.

    Raises:
        ConfigError: see `parse_environments`; or there is neither `--env` nor a set.
        EvaluationError: there is no such set, or it fixes an option that is given.
    """
    if set_name is None:
        if not texts:
            raise ConfigError("give --env NAME or --env URL, or --set NAME of a standard evaluation set")
        return parse_environments(texts, options)
    standard = find_set(set_name)
    return [
        choice if choice.url else replace(choice, options=set_options(standard, choice.options))
        for choice in parse_environments(texts or [standard.environment], options)
    ]


def _key(text: str) -> str:
    return text.partition("=")[0]


def _address(text: str) -> str:
    try:
        return service_url(text)
    except ValueError as error:
        raise ConfigError(f"--env: {error}") from error


def _assign(options: dict[str, Any], key: str, value: Any) -> None:
    """Set a key, which may name a table by dots, such as curriculum.start."""
    *tables, last = key.split(".")
    for table in tables:
        options = options.setdefault(table, {})
        if not isinstance(options, dict):
            raise ConfigError(f"--option {key}: {table} is not a table")
    options[last] = value


@asynccontextmanager
async def opened(
    choices: Sequence[EnvironmentChoice],
    directory: Path,
    settings: RolloutSettings,
    *,
    sessions: int,
    expert_splits: Sequence[str] = (),
) -> AsyncIterator[list[OpenedEnvironment]]:
    """Start or reach the environments. Yields them in the order of `choices`.

    Args:
        choices: see `parse_environments`.
        directory: folder for the configurations and logs of started servers.
        settings: timeouts and retries of the client.
        sessions: number of sessions that each started server must have.
        expert_splits: evaluation splits in which a started server gives expert replies.

    Raises:
        EvaluationError: a server did not start.
        ServiceError: a server does not answer, or is not an environment server.
    """
    async with AsyncExitStack() as stack:
        found: list[OpenedEnvironment] = []
        for number, choice in enumerate(choices):
            url = choice.url or await stack.enter_async_context(
                _started(choice, directory / f"{number}-{choice.name}", sessions, expert_splits)
            )
            client = await stack.enter_async_context(_client(url, settings, local=not choice.url))
            info = await client.info()
            name = info.name
            if any(one.name == name for one in found):
                name = f"{info.name}-{number}"
            found.append(OpenedEnvironment(name, choice.url, client, info))
        yield found


def _started(choice: EnvironmentChoice, path: Path, sessions: int, expert_splits: Sequence[str]) -> Any:
    """Return the context of the server of one environment (see `local_service`)."""
    table = {
        "name": choice.name,
        "capacity": max(sessions, CONCURRENCY) + SPARE_SESSIONS,  # a set resets `CONCURRENCY` tasks at a time
        "expert_splits": list(expert_splits),
        "options": dict(choice.options),
    }
    config = path.with_suffix(".toml")
    config.parent.mkdir(parents=True, exist_ok=True)
    write_text(config, tomli_w.dumps({"environment": table}), private=True)
    arguments = ["--config", str(config), "--port", "0"]
    return local_service(
        "arlarena.env_server", arguments, path.with_suffix(".log"), f"the environment server of {choice.name}"
    )


def _client(url: str, settings: RolloutSettings, *, local: bool) -> EnvironmentClient:
    """Return a client. A server that is started here needs no token."""
    token = None if local else load_addresses({}).environment_token
    return EnvironmentClient(
        url,
        Timeouts(settings.connect_timeout_s, settings.environment_timeout_s),
        retries=settings.request_retries,
        batch_window_s=settings.batch_window_s,
        batch_size=settings.batch_size,
        token=token.get_secret_value() if token else None,
    )
