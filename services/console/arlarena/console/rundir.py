"""The directory of one run: paths, state and lock."""

from __future__ import annotations

import fcntl
import itertools
import os
import secrets
import subprocess
from datetime import UTC, datetime
from enum import Enum
from importlib.metadata import version
from pathlib import Path

import msgspec

from arlarena.proto.atomic_files import write_json
from arlarena.proto.config import ConfigError

STATE_SCHEMA = 3  # version of the format of run.json
GIT_TIMEOUT_S = 5.0


def code_version(file: Path = Path(__file__)) -> str:
    """Returns the version of ARLArena, such as `0.1.0`.

    If git tracks `file`, the commit is added: `0.1.0, commit 0a1b2c3d4e5f`. If tracked files differ from the commit,
    `+changes` is added.
    """
    release = version("arlarena-console")
    git = ("git", "-C", str(file.parent))
    try:
        for question in (
            ("ls-files", "--error-unmatch", file.name),
            ("describe", "--always", "--dirty", "--exclude=*"),
        ):
            answer = subprocess.run(
                [*git, *question], capture_output=True, text=True, timeout=GIT_TIMEOUT_S, check=True
            ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return release
    return f"{release}, commit {answer.replace('-dirty', '+changes')}"


class ExistingRunPolicy(Enum):
    """The action of `arlarena up` if the directory contains a run.

    NEW fails. RESUME resumes the run. FRESH renames the old run and starts a new run. CONTINUE resumes the run. If the
    directory contains no run, RESUME fails, and the other policies start a new run.
    """

    NEW = "new"
    RESUME = "resume"
    FRESH = "fresh"
    CONTINUE = "continue"


class RunState(msgspec.Struct):
    """The content of `run.json`. The file marks a directory as a run of ARLArena.

    `started`: time of the first start (UTC, ISO 8601). `code`: the versions of ARLArena that executed the run, in order
    (see `code_version`). `command`: the command line of the first start.

    `id` is unique per run. It is part of the stream names, so several runs can use the same Redis. `stages`: duration
    of each finished stage in seconds. `wall_s`: total running time of the launcher over all starts, in seconds.
    `restarts`: number of restarts of each service. `finished`: True if all stages before the report have
    finished.
    """

    id: str
    name: str
    schema: int = STATE_SCHEMA
    started: str = ""
    code: list[str] = []
    command: str = ""
    stages: dict[str, float] = {}
    wall_s: float = 0.0
    restarts: dict[str, int] = {}
    finished: bool = False


class RunDirectory:
    """Paths and state of a run. `open` creates or reuses the directory and locks it until this process exits."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config, self.metrics = path / "config.toml", path / "metrics.jsonl"
        self.summary, self.report = path / "summary.json", path / "report.html"
        self.policy, self.cloned, self.weights = path / "policy", path / "cloned", path / "weights"
        self.demonstrations = path / "demonstrations.msgpack"
        self.validation = path / "validation.msgpack"
        self.broker, self.checkpoints = path / "broker", path / "checkpoints"
        self.training = path / "training.json"
        self.state: RunState
        self.moved_to: Path | None = None  # new path of the earlier run, if `open` renamed it
        self._lock: int | None = None

    def log(self, service: str) -> Path:
        """Returns the log file of a service or stage."""
        return self.path / "logs" / f"{service}.log"

    def progress(self, stage: str) -> Path:
        """Returns the progress file of a stage."""
        return self.path / "progress" / f"{stage}.jsonl"

    def step(self, stage: str) -> Path:
        """Returns the file with the state of a stage's current step."""
        return self.path / "progress" / f"{stage}-step.json"

    def eval_set(self, label: str) -> Path:
        """Returns the result file of an evaluation."""
        return self.path / "eval_sets" / f"{label}.json"

    def episodes(self, label: str) -> Path:
        """Returns the episodes file of an evaluation."""
        return self.path / "episodes" / f"{label}.jsonl"

    def read_state(self, *, any_schema: bool = False) -> RunState | None:
        """Returns the content of `run.json`, or None if there is no such file. `any_schema`: accept any schema version.

        Raises:
            ConfigError: `run.json` is unreadable or has another schema version.
        """
        try:
            state = msgspec.json.decode((self.path / "run.json").read_bytes(), type=RunState)
        except FileNotFoundError:
            return None
        except (msgspec.MsgspecError, OSError) as error:
            raise ConfigError(f"{self.path / 'run.json'} cannot be read: {error}") from error
        if state.schema != STATE_SCHEMA and not any_schema:
            age = "a newer" if state.schema > STATE_SCHEMA else "an older"
            raise ConfigError(
                f"{self.path} was written by {age} version of ARLArena (schema {state.schema}; this version uses "
                f"schema {STATE_SCHEMA}): either use the version that wrote this run, or start a new run with --fresh"
            )
        return state

    def save(self) -> None:
        """Write the state atomically."""
        write_json(self.path / "run.json", self.state)

    def open(self, name: str, start: ExistingRunPolicy, command: str = "") -> None:
        """Lock the directory, and start a new run or continue the existing run. `start` selects the action.

        `command`: the command line of a new run.

        Raises:
            ConfigError: another process uses the directory, the directory contains other files but no run, or `start`
                does not permit the action.
        """
        if self.path.exists() and not self.path.is_dir():
            raise ConfigError(f"{self.path} is a file: choose another --run-dir")
        existing = self.read_state(any_schema=start is ExistingRunPolicy.FRESH)
        if existing is None and self.path.is_dir() and any(self.path.iterdir()):
            raise ConfigError(f"{self.path} is not empty and contains no ARLArena run: choose another --run-dir")
        if existing is None and start is ExistingRunPolicy.RESUME:
            raise ConfigError(f"{self.path} contains no run to resume: omit --resume")
        if existing is not None and start is ExistingRunPolicy.NEW:
            kind = "a finished run" if existing.finished else "an unfinished run"
            raise ConfigError(
                f"{self.path} contains {kind}: use --resume to continue this run, or --fresh to rename it and start a "
                "new run"
            )
        if existing is not None and start is ExistingRunPolicy.FRESH:
            self._move_aside()
            existing = None
        self.path.mkdir(parents=True, exist_ok=True)
        self._acquire()
        started = datetime.now(UTC).isoformat(timespec="seconds")
        self.state = existing or RunState(f"{name}-{secrets.token_hex(4)}", name, started=started, command=command)
        self.state.code = list(dict.fromkeys([*self.state.code, code_version()]))
        self.save()

    def _move_aside(self) -> None:
        """Rename the old run to the first free name of `<name>.previous`, `<name>.previous-2`, …"""
        self._acquire()
        names = (self.path.name + ".previous" + (f"-{number}" if number > 1 else "") for number in itertools.count(1))
        aside = next(path for path in map(self.path.with_name, names) if not os.path.lexists(path))
        self.path.rename(aside)
        self.moved_to = aside
        self.release()

    def _acquire(self) -> None:
        handle = os.open(self.path / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(handle)
            raise ConfigError(f"{self.path} is in use by another `arlarena up`: stop that command first") from error
        self._lock = handle

    def release(self) -> None:
        """Release the lock."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None
