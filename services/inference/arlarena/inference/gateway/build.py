"""Builds a gateway. Its replicas are either local engines or remote policy servers. It starts the local engines."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import aiohttp

from arlarena.inference.gateway.app import Gateway
from arlarena.inference.gateway.engines import LocalEngine
from arlarena.inference.gateway.fleet import Fleet
from arlarena.inference.gateway.replica import Replica
from arlarena.inference.gateway.weight_drivers import Driver, ServiceDriver, VllmDriver
from arlarena.inference.settings import InferenceSettings, secret
from arlarena.inference.vllm import server as vllm
from arlarena.proto.telemetry import Logger

# The URL of a local engine. Requests go to a Unix socket, so the host name appears only in the header Host.
LOCAL = "http://engine"


class Sockets:
    """A private folder for the engines' sockets. The folder's path is short, because the operating system allows only
    about 100 bytes for the path of a socket.
    """

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="arlarena-"))

    def path(self, name: str) -> Path:
        """Returns the path of an engine's socket."""
        return self.folder / f"{name}.sock"

    def close(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self.folder, ignore_errors=True)


def remote_gateway(settings: InferenceSettings, log: Logger) -> Gateway:
    """Returns a gateway to remote policy servers. Must be called in a running event loop."""
    replicas = []
    for url in settings.replica_urls:
        session = _session(aiohttp.TCPConnector(limit=0), secret(settings.api_key))
        driver = ServiceDriver(session, url, secret(settings.admin_token))
        replicas.append(Replica(url, url, session, driver, settings.health_interval_s, log))
    return Gateway(settings, Fleet(replicas, settings.affinity_slack, log), [], log)


def local_gateway(settings: InferenceSettings, flags: Sequence[str], sockets: Sockets, log: Logger) -> Gateway:
    """Returns a gateway with local engines. Must be called in a running event loop. `flags`: the command-line arguments
    of this process. Embedded engines get the same arguments.

    Raises:
        ConfigError: the engine is vLLM, and vLLM is not installed or there is no model to serve.
    """
    names = [f"engine-{index}" for index in range(settings.replicas)]
    engines = [_engine(settings, flags, name, sockets.path(name), log) for name in names]
    replicas = []
    for engine in engines:
        session = _session(aiohttp.UnixConnector(str(engine.socket), limit=0), secret(settings.api_key))
        driver, max_requests = _driver(settings, session), settings.max_slots if settings.engine == "vllm" else None
        replica = Replica(engine.name, LOCAL, session, driver, settings.health_interval_s, log, max_requests)
        replica.restart = engine.restart
        replicas.append(replica)
    return Gateway(settings, Fleet(replicas, settings.affinity_slack, log), engines, log)


def _engine(settings: InferenceSettings, flags: Sequence[str], name: str, socket: Path, log: Logger) -> LocalEngine:
    command: Callable[[], Sequence[str]]
    environment: Mapping[str, str]
    if settings.engine == "vllm":
        vllm.check(settings)
        command, environment = lambda: vllm.command(settings, socket), vllm.variables(settings)
    else:
        arguments = [sys.executable, "-m", "arlarena.inference", *flags, "--uds", str(socket)]
        command, environment = lambda: arguments, os.environ
    return LocalEngine(name, command, environment, socket, settings.shutdown_grace_s, log)


def _driver(settings: InferenceSettings, session: aiohttp.ClientSession) -> Driver:
    if settings.engine == "vllm":
        return VllmDriver(session, LOCAL)
    return ServiceDriver(session, LOCAL, secret(settings.admin_token))


def _session(connector: aiohttp.BaseConnector, api_key: str | None) -> aiohttp.ClientSession:
    headers = {"accept-encoding": "identity"} | ({} if api_key is None else {"authorization": f"Bearer {api_key}"})
    return aiohttp.ClientSession(
        connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, headers=headers
    )
