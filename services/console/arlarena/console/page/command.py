"""`arlarena view`: starts the server of the run page."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import uvicorn

from arlarena.console.launch.failures import LaunchError
from arlarena.console.page.play.options import PlayOptions
from arlarena.console.page.runs import Catalog
from arlarena.console.page.server.app import build_app
from arlarena.console.page.server.security import AccessRules, is_loopback
from arlarena.console.settings import page_cache_folder, page_token
from arlarena.proto.config import ConfigError
from arlarena.proto.telemetry import announce

PORT = 8400
PORT_IN_USE = 3
# Time for open connections to finish after SIGTERM, in seconds.
GRACE_S = 3


@dataclass(frozen=True, slots=True)
class ViewRequest:
    """The arguments of `arlarena view`.

    `names`: further host names of the page. `play`: whether people may play environments. If it is None, they may play
    only if `host` is a loopback address. `wait`: start even if there is no run yet.
    """

    runs: Sequence[Path]
    host: str = "127.0.0.1"
    port: int = PORT
    token_file: Path | None = None
    cache: Path | None = None
    names: Sequence[str] = ()
    play: bool | None = None
    play_dir: Path = Path("runs/played")
    wait: bool = False


def view(request: ViewRequest) -> None:
    """Serve the page until SIGINT or SIGTERM.

    Raises:
        ConfigError: there is no run, a file with the token cannot be used, or `request.host` needs a token.
        LaunchError: the address cannot be bound, for example because the port is in use.
    """
    token = page_token(request.token_file)
    if token is None and not is_loopback(request.host):
        raise ConfigError(
            f"--host {request.host} is reachable from other machines: either use --token-file FILE, or set "
            "ARLARENA_PAGE_TOKEN"
        )
    catalog = Catalog(list(request.runs), request.cache or page_cache_folder(), wait=request.wait)
    rules = AccessRules(request.host, token, request.names)
    play = is_loopback(request.host) if request.play is None else request.play
    catalog.add_folder(request.play_dir)
    app = build_app(catalog, rules, PlayOptions(enabled=play, folder=request.play_dir))
    with contextlib.closing(_bind(request.host, request.port)) as bound:
        host, port = bound.getsockname()[:2]
        announce(host, port)
        with contextlib.suppress(OSError):  # the disk of the log may be full
            # a single write, because other output could otherwise split the line
            sys.stderr.write(f"The page is at http://{_shown(host)}:{port}\n")
        asyncio.run(_serve(app, bound))


def _bind(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio sets TCP_NODELAY only if the protocol is given. Without TCP_NODELAY, each reply takes 40 ms longer.
    bound = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind((host, port))
        bound.listen(128)
    except OSError as error:
        bound.close()
        raise LaunchError(f"{host}:{port}: {error.strerror}; choose another --port", PORT_IN_USE) from error
    return bound


def _shown(host: str) -> str:
    return f"[{host}]" if ":" in host else host


async def _serve(app: object, bound: socket.socket) -> None:
    config = uvicorn.Config(
        app,  # type: ignore[arg-type]
        log_level="warning",
        loop="asyncio",
        http="h11",
        ws="none",
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=GRACE_S,
        h11_max_incomplete_event_size=64 << 10,
        limit_concurrency=256,
    )
    server = _PageServer(config)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: _stop(server, app))
    await server.serve([bound])


class _PageServer(uvicorn.Server):
    """A server without signal handlers. With the handlers of uvicorn, the exit status after a signal would not be 0."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Install no signal handlers."""
        yield


def _stop(server: uvicorn.Server, app: object) -> None:
    server.should_exit = True
    live = app.state.live  # type: ignore[attr-defined]
    asyncio.get_running_loop().create_task(live.close())
