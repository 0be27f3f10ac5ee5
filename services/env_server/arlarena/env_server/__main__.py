"""`python -m arlarena.env_server NAME --config FILE --host H --port P`: serve one environment.

Exit status: 0: SIGTERM or Ctrl-C. 1: a worker cannot start. 2: the configuration is invalid. 3: the address cannot be
bound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import math
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn

from arlarena.env_server.api.access import read_tokens
from arlarena.env_server.api.app import create_app
from arlarena.env_server.cluster.peers import Peers, Pods, shard_of, socket_path
from arlarena.env_server.cluster.workers import WorkerError, Workers
from arlarena.env_server.sessions.service import EnvironmentService
from arlarena.env_server.settings import EnvironmentSettings, load_settings
from arlarena.environment.protocols import EnvironmentFactory, Resources, warnings_of
from arlarena.environment.registry import installed, load
from arlarena.proto.config import ConfigError, exit_on_config_error
from arlarena.proto.http.bounded import HttpLimits, bounded
from arlarena.proto.http.event_loop import rare_garbage_collection
from arlarena.proto.telemetry import Logger, announce, get_logger
from arlarena.proto.text.usage_name import program

EXIT_ADDRESS = 3
BACKLOG = 2048
DRAIN_POLL_S = 0.02  # interval at which a stopping server checks for open sessions


class AnnouncingServer(uvicorn.Server):
    """A Uvicorn server that announces its address and, after SIGTERM, exits with status 0."""

    def __init__(self, config: uvicorn.Config, service: EnvironmentService, log: Logger) -> None:
        super().__init__(config)
        self._service = service
        self._log = log
        self._draining: asyncio.Future[None] | None = None

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start the server, then announce its address on stdout."""
        await super().startup(sockets=sockets)
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            self._log.info("listening", host=host, port=port, environment=self._service.info.name)
            announce(host, port)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT inside the `with` block. The first signal starts the drain: the server waits for
        open sessions to end, and then stops. The second signal ends this wait.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop, number)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    def _stop(self, number: int) -> None:
        store = self._service.store
        self._log.info("stopping", signal=signal.Signals(number).name, sessions=len(store))
        if store.draining:  # a second signal
            self.should_exit = True
            return
        store.draining = True
        self._draining = asyncio.ensure_future(self._drain())

    async def _drain(self) -> None:
        """Wait until all sessions have ended, at most `drain_s` seconds. Then close the remaining sockets and stop."""
        store, loop = self._service.store, asyncio.get_running_loop()
        ends = loop.time() + self._service.settings.drain_s
        while len(store) and loop.time() < ends and not self.should_exit:
            await asyncio.sleep(DRAIN_POLL_S)
            store.reap()
        self._log.info("drained", sessions=len(store))
        await self._service.disconnect_all()
        self.should_exit = True


def bind(host: str, port: int, *, shared: bool = False) -> socket.socket:
    """Returns a listening socket. If `shared` is true, other sockets can listen on the same port (SO_REUSEPORT).

    Raises:
        OSError: the address is in use, not permitted or unknown.
    """
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Returns the parsed command line."""
    parser = argparse.ArgumentParser(prog=program("arlarena.env_server"), description="Serve one environment.")
    known = ", ".join(installed())
    parser.add_argument("name", nargs="?", help=f"environment ({known}); default: [environment] name of the file")
    parser.add_argument("--config", type=Path, help="TOML file with a table [environment]")
    parser.add_argument("--host", help="address to bind (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to bind, 0 for a free port (default 8000)")
    parser.add_argument("--capacity", type=int, help="maximum number of sessions (default 1024)")
    parser.add_argument("--workers", type=int, help="number of processes that share the port (default 1)")
    # Internal options. If the server has several workers, the parent process gives these options to each worker.
    for flag, kind in (("--worker", int), ("--of", int), ("--peers", Path), ("--listener", int)):
        parser.add_argument(flag, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args(argv)


def serve(settings: EnvironmentSettings, service: EnvironmentService, log: Logger, sockets: list[socket.socket]) -> int:
    """Serve until SIGTERM or SIGINT. Returns the exit status 0."""
    config = uvicorn.Config(
        create_app(service),
        log_config=None,
        access_log=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=[str(network) for network in settings.trusted_proxies],
        ws_ping_interval=settings.websocket_ping_s or None,
        ws_ping_timeout=settings.websocket_ping_s or None,
        timeout_graceful_shutdown=max(1, round(settings.shutdown_timeout_s)),
        **bounded(http_limits(settings)),
    )
    with rare_garbage_collection():
        AnnouncingServer(config, service, log).run(sockets=sockets)
    log.info("stopped")
    return 0


def http_limits(settings: EnvironmentSettings) -> HttpLimits:
    """Returns the HTTP limits of one process."""
    return HttpLimits(
        body_bytes=settings.max_body_bytes,
        held_bytes=settings.max_pending_bytes,
        frame_bytes=settings.max_body_bytes,
        connections=settings.max_connections,
        header_s=settings.header_timeout_s,
        write_s=settings.write_timeout_s,
    )


def pods_of(settings: EnvironmentSettings) -> Pods | None:
    """Returns the pods of the deployment, or None if the settings name no pods."""
    return None if settings.pods is None or settings.pod is None else Pods(settings.pods, settings.pod)


def with_pod_number(settings: EnvironmentSettings) -> EnvironmentSettings:
    """Returns the settings with this pod's `pod` and `shard`. The default of `pod` is the number at the end of the host
    name. If `pods` is not set, returns the settings unchanged.

    Raises:
        ConfigError: `pods` is set, `pod` is not set, and the host name does not end in a number.
    """
    if settings.pods is None:
        return settings
    name = socket.gethostname()
    found = re.search(r"(\d+)$", name)
    if settings.pod is None and found is None:
        raise ConfigError(
            f"[environment] pods is set, but the host name {name!r} does not end in a number: set [environment] pod"
        )
    pod = settings.pod if settings.pod is not None else int(found.group(1)) if found else 0
    return settings.model_copy(update={"pod": pod, "shard": f"p{pod}"})


def serve_worker(settings: EnvironmentSettings, arguments: argparse.Namespace, factory: EnvironmentFactory) -> int:
    """Serve as one of several workers. Returns the exit status. The worker listens on two sockets: clients connect to a
    socket from the parent process, and the other workers connect to the worker's own Unix socket.
    """
    shard = shard_of(settings.shard, arguments.worker)
    capacity = math.ceil(settings.capacity / arguments.of)
    mine = settings.model_copy(update={"shard": shard, "capacity": capacity})
    peers = Peers(settings.shard, arguments.worker, arguments.of, arguments.peers)
    log = get_logger("env_server")
    open_resources(factory)
    public = socket.socket(fileno=arguments.listener)
    path = socket_path(arguments.peers, arguments.worker)
    path.unlink(missing_ok=True)  # an earlier process of this worker may have left its socket file
    private = socket.socket(socket.AF_UNIX)
    private.bind(str(path))
    private.listen(BACKLOG)
    service = EnvironmentService(factory, mine, log, peers=peers, pods=pods_of(settings))
    return serve(mine, service, log, [public, private])


def open_resources(factory: EnvironmentFactory) -> None:
    """Start the environment's external processes, if it has any.

    Raises:
        ConfigError: the processes cannot run on this machine.
    """
    if isinstance(factory, Resources):
        factory.open()


def listeners(settings: EnvironmentSettings) -> list[socket.socket]:
    """Returns one listening socket per worker. All sockets have the same port.

    Raises:
        OSError: the address is in use, not permitted or unknown.
    """
    if settings.workers == 1:
        return [bind(settings.host, settings.port)]
    first = bind(settings.host, settings.port, shared=True)
    port = first.getsockname()[1]
    return [first, *(bind(settings.host, port, shared=True) for _ in range(settings.workers - 1))]


def main(argv: list[str] | None = None) -> int:
    """Serve the environment given on the command line or in the file. Returns the exit status.

    Raises:
        ConfigError: the configuration is invalid.
    """
    arguments = parse_arguments(argv)
    flags = {key: getattr(arguments, key) for key in ("name", "host", "port", "capacity", "workers")}
    settings = with_pod_number(load_settings(arguments.config, flags))
    error_prefix = f"{arguments.config or 'command line'}: [environment]"
    factory = load(error_prefix, settings.name, settings.options)
    if arguments.worker is not None:
        return serve_worker(settings, arguments, factory)
    if settings.tokens_file is not None:
        read_tokens(settings.tokens_file)  # an invalid file is reported before anything starts
    log = get_logger("env_server")
    for message in warnings_of(factory):
        log.warning("environment_warning", environment=settings.name, message=message)
    try:
        sockets = listeners(settings)
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        print(f"error: cannot listen on {address}: {error.strerror}; choose another --host or --port", file=sys.stderr)
        return EXIT_ADDRESS
    if settings.workers == 1:
        open_resources(factory)
        return serve(settings, EnvironmentService(factory, settings, log, pods=pods_of(settings)), log, sockets)
    try:
        return asyncio.run(Workers(argv if argv is not None else sys.argv[1:], sockets, log).run())
    except WorkerError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
