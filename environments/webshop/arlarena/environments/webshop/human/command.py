"""`python -m arlarena.environments.webshop human`: serve the shop to people.

Exit codes: 0 after SIGTERM or Ctrl-C, 2 for a wrong configuration, 3 for an address that cannot be bound.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arlarena.environments.webshop.environment import KINDS, load
from arlarena.environments.webshop.human.record import FILE
from arlarena.environments.webshop.human.visit_service import VisitService
from arlarena.environments.webshop.human.visitors import Visitors
from arlarena.environments.webshop.settings import human_token
from arlarena.proto.config import ConfigError, load_part
from arlarena.proto.shared_settings import EnvironmentKeys
from arlarena.proto.telemetry import Logger, announce, get_logger

if TYPE_CHECKING:
    from arlarena.environments.webshop.human.app import HumanApp

EXIT_ADDRESS = 3
STOP_S = 5  # seconds after SIGTERM within which running requests must end
BACKLOG = 128


def add_parser(commands: Any) -> None:
    """Add the command `human` to the subcommands of argparse."""
    parser = commands.add_parser(
        "human", help="serve the shop as web pages that people use; their episodes are recorded"
    )
    parser.add_argument(
        "--config", type=Path, help="TOML file with the options of the environment, in its table [environment]"
    )
    parser.add_argument("--split", choices=tuple(KINDS), default="test", help="split of the tasks (default test)")
    parser.add_argument("--index", type=int, default=0, help="index of each person's first task (default 0)")
    parser.add_argument("--host", default="127.0.0.1", help="address to bind (default 127.0.0.1)")
    parser.add_argument("--port", type=int, default=8300, help="port to bind; 0: any free port (default 8300)")
    parser.add_argument("--token", help="token that people must type at the start; default: WEBSHOP_HUMAN_TOKEN")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/webshop-human"), help=f"folder for {FILE} (default runs/webshop-human)"
    )
    parser.add_argument(
        "--images",
        action="store_true",
        help="show the images that the official files name; browsers load them from Amazon's servers",
    )
    parser.add_argument("--capacity", type=int, default=64, help="maximum number of people at a time (default 64)")
    parser.add_argument(
        "--idle-s",
        type=float,
        default=3600.0,
        help="seconds without a request after which a session ends (default 3600)",
    )


def run_human(arguments: argparse.Namespace) -> int:
    """Serve until SIGTERM or Ctrl-C. Returns the exit code.

    Raises:
        ConfigError: an argument or the configuration is invalid, or a package is missing.
    """
    try:
        from arlarena.environments.webshop.human.access import check_token
    except ImportError as error:
        raise ConfigError(f"{error}; install the extra: pip install 'arlarena-webshop[human]'") from error
    token = arguments.token or human_token()
    check_token(arguments.host, token)
    log = get_logger("webshop_human")
    app = human_app(arguments, token, log)
    try:
        listener = _bind(arguments.host, arguments.port)
    except (OSError, OverflowError) as error:
        where = f"{arguments.host}:{arguments.port}"
        print(f"error: cannot listen on {where}: {error}; choose another --host or --port", file=sys.stderr)
        return EXIT_ADDRESS
    return _serve(app, listener, log)


def human_app(arguments: argparse.Namespace, token: str | None, log: Logger) -> HumanApp:
    """Return the application for the arguments of the command line.

    Raises:
        ConfigError: an argument or the configuration is invalid.
    """
    from arlarena.environments.webshop.human.app import HumanApp  # needs the packages of the extra `human`

    if arguments.capacity < 1 or arguments.idle_s <= 0:
        raise ConfigError("--capacity and --idle-s must be positive")
    keys = load_part(arguments.config, "environment", EnvironmentKeys, "name", "options")
    if keys.name not in ("", "webshop"):
        raise ConfigError(
            f"{arguments.config}: [environment] name = {keys.name!r}: must be webshop, because this command serves "
            "webshop"
        )
    environment = load(f"{arguments.config or 'command line'}: [environment.options]", keys.options)
    service = VisitService(environment, arguments.split, arguments.out / FILE, log, arguments.images)
    if not 0 <= arguments.index < service.size:
        raise ConfigError(
            f"--index {arguments.index}: the split {arguments.split} has the tasks 0 to {service.size - 1}"
        )
    visitors = Visitors(arguments.capacity, arguments.idle_s)
    return HumanApp(service, visitors, arguments.index, token, f"webshop-{arguments.port}")


def _bind(host: str, port: int) -> socket.socket:
    family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    listener = socket.socket(family, kind, protocol)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _serve(app: HumanApp, listener: socket.socket, log: Logger) -> int:
    import uvicorn

    from arlarena.proto.http.bounded import HttpLimits, bounded

    class _Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            loop = asyncio.get_running_loop()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.add_signal_handler(number, setattr, self, "should_exit", True)
            yield

        async def startup(self, sockets: list[socket.socket] | None = None) -> None:
            await super().startup(sockets=sockets)
            host, port = listener.getsockname()[:2]
            log.info("listening", url=f"http://{host}:{port}", out=str(app.service.out), split=app.service.split)
            announce(host, port)

    limits = bounded(HttpLimits(body_bytes=1 << 16, connections=1024))
    config = uvicorn.Config(app.asgi(), log_config=None, access_log=False, timeout_graceful_shutdown=STOP_S, **limits)
    _Server(config).run(sockets=[listener])
    log.info("stopped")
    return 0
