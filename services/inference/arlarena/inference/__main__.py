"""`python -m arlarena.inference --config FILE`: bind the address, print it, load the model, and serve until SIGTERM.

If there is only one embedded engine (the torch engine of this package), the engine runs in this process. Otherwise,
this process is a gateway: it forwards requests to vLLM, to several embedded engines, or to remote policy servers
(`replica_urls`).

Exit codes: 0: stopped by a signal. 1: the model cannot be served, or the engine failed. 2: configuration error. 3: an
address cannot be bound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import errno
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from arlarena.inference.app import InferenceServer, create_app
from arlarena.inference.settings import InferenceSettings, check_model, load, needs_gateway
from arlarena.proto.config import exit_on_config_error
from arlarena.proto.http.bounded import HttpLimits, bounded
from arlarena.proto.http.event_loop import loop_factory
from arlarena.proto.telemetry import Logger, announce, get_logger
from arlarena.proto.text.usage_name import program
from arlarena.proto.versions.directory import WEIGHTS_ROUTE

EXIT_FAILED, EXIT_ADDRESS = 1, 3
BACKLOG = 2048

# CPython's thread switch interval, in seconds. The engine's thread releases the GIL in every torch call. After the
# call, another thread can hold the GIL. The engine's thread then waits up to this interval. CPython's default is 5 ms.
SWITCH_INTERVAL_S = 0.0005
# Matches the path of an upload of a weight file, `/weights/DIRECTORY/FILE`, up to the last slash.
_UPLOAD = re.compile(f"{WEIGHTS_ROUTE}/[^/?]+/".encode())


def read_flags() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(prog=program("arlarena.inference"), description="Serve a policy.")
    parser.add_argument("--config", type=Path, help="the run's TOML file; table [inference] is read")
    parser.add_argument(
        "--model",
        type=Path,
        help="directory in the Hugging Face format, or a Hub name such as Qwen/Qwen3-0.6B (downloaded if it is not in "
        "the local cache); served while --weights-root contains no version of the weights",
    )
    parser.add_argument("--weights-root", type=Path, help="folder with the version directories of pushed weights")
    parser.add_argument("--host", help="address to bind (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to bind (default 8100), 0 for a free port")
    parser.add_argument("--uds", type=Path, help="run one engine on this Unix socket (the gateway uses this flag)")
    return parser.parse_args()


def bind(host: str, port: int, path: Path | None = None) -> socket.socket:
    """Open a listening socket: a Unix socket at `path`, or a TCP socket if `path` is None.

    Raises:
        OSError: the address is in use, is invalid, or does not belong to this machine.
    """
    family = socket.AF_UNIX if path else socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(str(path) if path else (host, port))
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


class _Uvicorn(uvicorn.Server):
    """A uvicorn server without uvicorn's signal handlers. After the shutdown, uvicorn's handlers would raise the signal
    again. The signal would then end the process before `main` returns the exit code.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers. The function `_uvicorn` adds handlers to the event loop instead."""
        yield


async def serve_engine(settings: InferenceSettings, listeners: list[socket.socket], log: Logger) -> int:
    """Run an embedded engine until a signal arrives or the engine fails. Returns the exit code."""
    server = InferenceServer(settings, log, lambda: setattr(http, "should_exit", True))
    http = _uvicorn(create_app(server), settings)
    await http.serve(sockets=listeners)
    log.info("stopped", failure=server.failure)
    return EXIT_FAILED if server.failure else 0


async def serve_gateway(
    settings: InferenceSettings, flags: list[str], listeners: list[socket.socket], log: Logger
) -> int:
    """Run a gateway until a signal arrives. Returns the exit code."""
    from arlarena.inference.gateway import app, build

    sockets = build.Sockets()
    try:
        if settings.replica_urls:
            gateway = build.remote_gateway(settings, log)
        else:
            gateway = build.local_gateway(settings, flags, sockets, log)
        await _uvicorn(app.create_app(gateway), settings).serve(sockets=listeners)
    finally:
        sockets.close()
    log.info("stopped")
    return 0


def _limits(settings: InferenceSettings) -> HttpLimits:
    """Returns the limits on connections and request bodies. Uploads of weight files are exempt from the limits on the
    size of bodies, because the server writes an upload to disk while the upload arrives.
    """
    return HttpLimits(
        body_bytes=settings.max_body_mb << 20,
        held_bytes=settings.max_held_mb << 20,
        connections=settings.max_connections,
        streamed=_UPLOAD,
    )


def _uvicorn(app: Starlette, settings: InferenceSettings) -> _Uvicorn:
    """Returns an HTTP server for `app`. The server shuts down after SIGTERM or SIGINT."""
    config = uvicorn.Config(
        app,
        log_config=None,
        **bounded(_limits(settings)),
        access_log=False,
        server_header=False,
        proxy_headers=False,  # no route depends on the client's address
        timeout_keep_alive=max(1, round(settings.keep_alive_s)),
        timeout_graceful_shutdown=max(1, round(settings.shutdown_grace_s)),
    )
    http = _Uvicorn(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, setattr, http, "should_exit", True)
    return http


def open_listeners(settings: InferenceSettings, path: Path | None) -> list[socket.socket]:
    """Returns the listening sockets. If `path` is None, there is a TCP socket for the setting `port`, and a second TCP
    socket if the setting `admin_port` is set. If `path` is not None, there is only a Unix socket at `path`.

    If an address cannot be bound, prints the reason and returns an empty list.
    """
    ports = {"--port" if path is None else "--uds": settings.port}
    if path is None and settings.admin_port is not None:
        ports["[inference] admin_port"] = settings.admin_port
    listeners: list[socket.socket] = []
    for setting, port in ports.items():
        try:
            listeners.append(bind(settings.host, port, path))
        except OSError as error:
            for listener in listeners:
                listener.close()
            taken = error.errno == errno.EADDRINUSE
            # If the path of a Unix socket is too long, `strerror` is None.
            why = f"is in use: choose another {setting}" if taken else f"cannot be bound: {error.strerror or error}"
            print(f"error: {f'{settings.host}:{port}' if path is None else path} {why}", file=sys.stderr)
            return []
    return listeners


def main() -> int:
    """Read the settings, bind the address and serve. Returns the exit code."""
    flags = read_flags()
    given = {key: getattr(flags, key) for key in ("model", "weights_root", "host", "port")}
    settings = load(flags.config, given)
    check_model(settings)
    log = get_logger("inference", settings.log_level)
    listeners = open_listeners(settings, flags.uds)
    if not listeners:
        return EXIT_ADDRESS
    if flags.uds is None:
        announce(settings.host, listeners[0].getsockname()[1])
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    engine = flags.uds is not None or not needs_gateway(settings)
    work = serve_engine(settings, listeners, log) if engine else serve_gateway(settings, sys.argv[1:], listeners, log)
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        return runner.run(work)


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
