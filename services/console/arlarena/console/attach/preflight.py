"""The checks of `arlarena up --attach` before the first stage.

When the environment server and the policy server start, each of them checks its own table of the configuration.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import ServiceError, Unavailable
from arlarena.console.launch.failures import LaunchError
from arlarena.console.launch.preflight import (
    fetch_policy,
    limit_problems,
    run_checks,
    split_problems,
    transport_problems,
    write_problems,
)
from arlarena.console.runconfig import RunConfig, find_problems
from arlarena.console.settings import ServiceAddresses, environment_token
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info
from arlarena.proto.shared_settings import EnvironmentKeys

# The commands of the stages belong to these services. The commands run in the same container as this process.
STAGE_SERVICES = ("rollout", "trainer")
_POLL_S = 0.5


async def check_before_attach(config: RunConfig, directory: Path, addresses: ServiceAddresses) -> None:
    """Run all checks. Waits for the environment server, up to `[console] ready_timeout_s`.

    Raises:
        ConfigError: checks failed. The message has one line per problem.
        LaunchError: the environment server does not become ready in this time, or refuses a request.
    """
    lines = _address_problems(addresses)
    if config.policy_path is not None:
        await asyncio.to_thread(fetch_policy, config)
    lines += (await find_problems(config, services=STAGE_SERVICES))[0]
    lines += await asyncio.to_thread(run_checks, (transport_problems, limit_problems), config)
    lines += write_problems(directory)
    if not lines:
        info = await _environment_info(config, addresses.environment_url)
        if info.name != config.environment:
            lines.append(
                f"{config.source}: [environment] name = {config.environment!r}, but the server at "
                f"{addresses.environment_url} serves {info.name}: set ARLARENA_ENVIRONMENT_URL to the address of a "
                f"server for {config.environment}"
            )
        else:
            lines += await asyncio.to_thread(run_checks, (lambda config: split_problems(config, info),), config)
    if lines:
        raise ConfigError("\n".join(dict.fromkeys(lines)))


def _address_problems(addresses: ServiceAddresses) -> list[str]:
    return [
        f"--attach needs the address of the {service}: either use {flag} URL, or set {variable}"
        for service, url, flag, variable in (
            ("environment server", addresses.environment_url, "--environment-url", "ARLARENA_ENVIRONMENT_URL"),
            ("policy server", addresses.inference_url, "--inference-url", "ARLARENA_INFERENCE_URL"),
        )
        if not url
    ]


async def _environment_info(config: RunConfig, url: str) -> Info:
    limit_s = config.console.ready_timeout_s
    deadline = time.monotonic() + limit_s
    table = config.part("environment", EnvironmentKeys, "token").token
    token = environment_token() or (table.get_secret_value() if table else None)
    async with EnvironmentClient(url, token=token, retries=0) as client:
        while True:
            try:
                return await client.info()
            except Unavailable as error:
                if time.monotonic() >= deadline:
                    hint = f"was not ready after {limit_s:g} s ([console] ready_timeout_s)"
                    raise LaunchError(f"the environment server at {url} {hint}: {error}") from error
            except ServiceError as error:
                raise LaunchError(f"the environment server at {url}: {error}") from error
            await asyncio.sleep(_POLL_S)
