"""`arlarena doctor --attach`: checks the services that `arlarena up --attach` uses.

Run both commands on the same machine or in the same container.

In Compose: `docker compose run --rm run doctor --attach`. In a cluster: `arlarena doctor --attach` in a pod with the
console's image.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import redis

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import ServiceError
from arlarena.client.policy import PolicyClient
from arlarena.console.cli.doctor import Finding
from arlarena.console.launch.broker import BrokerError, check_broker
from arlarena.console.launch.child import GivenAddress
from arlarena.console.launch.health import HttpHealth
from arlarena.console.settings import BrokerSettings, ServiceAddresses, environment_token, external_broker_url
from arlarena.proto.config import ConfigError
from arlarena.proto.streams.queue import redact

TIMEOUT_S = 5.0


def examine_services(addresses: ServiceAddresses) -> list[Finding]:
    """Check environment server, policy server and Redis. Returns the findings in the order of the output."""
    return [*asyncio.run(_servers(addresses)), *_broker(addresses)]


async def _servers(addresses: ServiceAddresses) -> list[Finding]:
    return [*await _environment(addresses.environment_url), *await _policy(addresses.inference_url)]


async def _environment(url: str) -> list[Finding]:
    if not url:
        return [Finding("environ.", "problem", "no address: set ARLARENA_ENVIRONMENT_URL")]
    if problem := await HttpHealth()(GivenAddress(url), 0.0, TIMEOUT_S):
        return [Finding("environ.", "problem", f"{url}: {problem}; start the environment server, or read its log")]
    try:
        async with EnvironmentClient(url, token=environment_token(), retries=0) as client:
            info = await client.info()
    except ServiceError as error:
        hint = "ARLARENA_ENVIRONMENT_TOKEN or ARLARENA_ENVIRONMENT_TOKEN_FILE must provide the server's token"
        return [Finding("environ.", "problem", f"{url}: {error}; {hint}")]
    found = [Finding("environ.", "ok", f"{info.name} {info.version} at {url}")]
    if info.data is not None:
        generated = info.data.official is False
        hint = "; not comparable with published results" if generated else "; the licence of the data applies"
        found.append(Finding("data", "warning" if generated else "ok", info.data.description + hint))
    return found


async def _policy(url: str) -> list[Finding]:
    if not url:
        return [Finding("policy", "problem", "no address: set ARLARENA_INFERENCE_URL")]
    if problem := await HttpHealth()(GivenAddress(url), 0.0, TIMEOUT_S):
        hint = "before the end of stage `clone`, this is normal; later, read the log of the policy server"
        return [Finding("policy", "warning", f"{url}: {problem}; {hint}")]
    try:
        async with PolicyClient(url, retries=0) as client:
            version = await client.version()
    except ServiceError as error:
        return [Finding("policy", "problem", f"{url}: {error}")]
    return [Finding("policy", "ok", f"serves version {version} at {url}")]


def _broker(addresses: ServiceAddresses) -> Iterator[Finding]:
    try:
        url = addresses.redis_url or external_broker_url(BrokerSettings())
    except ConfigError as error:
        yield Finding("broker", "problem", str(error))
        return
    if not url:
        yield Finding("broker", "problem", "no address: set ARLARENA_REDIS_URL")
        return
    try:
        check_broker(url, timeout_s=TIMEOUT_S)
    except BrokerError as error:
        yield Finding("broker", "problem", str(error))
        return
    yield Finding("broker", "ok", redact(url))
    yield from _durability(url)


def _durability(url: str) -> Iterator[Finding]:
    """Yields a warning if Redis writes no append-only file. Yields nothing if Redis refuses the command INFO."""
    try:
        with redis.Redis.from_url(url, socket_timeout=TIMEOUT_S, protocol=2) as client:
            state = client.info("persistence")
    except (redis.RedisError, OSError):
        return
    if not state.get("aof_enabled"):
        yield Finding(
            "broker", "warning", "no append-only file: a restart of Redis loses all groups; configure `appendonly yes`"
        )
