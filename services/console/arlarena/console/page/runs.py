"""The runs that a page shows."""

from __future__ import annotations

import logging
import sqlite3
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from arlarena.console.page.index.builder import EpisodeIndexer, IndexThread
from arlarena.console.page.index.database import RunDatabase
from arlarena.console.page.reading.metrics_table import MetricsTable
from arlarena.console.page.reading.run_files import BoundedFiles
from arlarena.console.page.reading.run_summary import (
    RunPhase,
    configuration,
    logged_alarms,
    masked_configuration,
    phase,
    read_object,
    table,
)
from arlarena.console.page.run_status import run_facts, run_state
from arlarena.console.page.views.records import RecordCache
from arlarena.console.page.views.tokens import RunTokenizer
from arlarena.proto.config import ConfigError

# A folder that contains one of these files is a run directory, or a folder of games that people played.
MARKERS = ("run.json", "metrics.jsonl", "episodes.jsonl")
# Maximum number of runs of a page. Maximum depth of the search for runs inside a folder.
MAX_RUNS, MAX_DEPTH = 500, 3
log = logging.getLogger("arlarena.page")


class PageRun:
    """One run of the page: its files, its metrics and its index."""

    def __init__(self, id: str, path: Path, cache: Path) -> None:
        """Open the run in the directory `path`. `cache`: the folder for the index."""
        self.id = id
        self.files = BoundedFiles(path)
        self.metrics = MetricsTable(self.files)
        state = read_object(self.files, "run.json")
        self.database = _database(cache, self.files.root, str(state.get("id", "")))
        self.index = EpisodeIndexer(self.files, self.database)
        self.records = RecordCache(self.files, self.database)
        self.tokens = RunTokenizer(self.files)
        self._alarms: tuple[object, list[dict[str, Any]]] = (None, [])

    def alarms(self, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """Returns (number of alarms, the newest `limit` alarms). Reads the logs only if they have changed."""
        state = [(file.name, file.size) for file in self.files.list("logs", ".log")]
        if self._alarms[0] != state:
            self._alarms = (state, logged_alarms(self.files))
        return len(self._alarms[1]), self._alarms[1][:limit]

    def placed_alarms(self, limit: int) -> tuple[int, list[dict[str, Any]]]:
        """Returns the result of `alarms`, with the position of each alarm on the x axes of curves.

        Adds `run_seconds` and `environment_steps`: the metrics of the alarm's step, or None if they were not recorded.
        """
        total, alarms = self.alarms(limit)
        self.metrics.refresh()
        axes = ("run_seconds", "environment_steps")
        return total, [alarm | {axis: self.metrics.at(alarm["step"], axis) for axis in axes} for alarm in alarms]

    @property
    def phase(self) -> RunPhase:
        """The state of the run now."""
        return phase(self.files, time.time())

    def gamma(self) -> float:
        """Returns the discount factor of step returns: `[trainer.recipe_overrides] gamma`, else 0.95."""
        overrides = table(table(configuration(self.files), "trainer"), "recipe_overrides")
        gamma = overrides.get("gamma", 0.95)
        return float(gamma) if isinstance(gamma, int | float) else 0.95

    def index_state(self) -> dict[str, Any]:
        """Returns the progress of the index as an object of the API."""
        found = self.index.progress
        shown = {"ready": found.ready, "progress": round(found.share, 4), "episodes": found.episodes}
        return shown | {"problems": found.problems} | ({"error": found.error} if found.error else {})

    def brief(self) -> dict[str, Any]:
        """Returns the run's object in the list of `GET /api/runs`."""
        self.metrics.refresh()
        alarms, _ = self.alarms(0)
        return {"id": self.id} | run_state(self.files, self.metrics, alarms) | {"index": self.index_state()}

    def detail(self) -> dict[str, Any]:
        """Returns the object of `GET /api/runs/{run}`."""
        with self.database.connect() as connection:
            steps = [step for (step,) in connection.execute(
                "SELECT DISTINCT step FROM episodes WHERE step IS NOT NULL ORDER BY step")]  # fmt: skip
            (groups,) = connection.execute(
                "SELECT count(DISTINCT step || ' ' || group_id) FROM episodes WHERE step IS NOT NULL"
            ).fetchone()
            (figures,) = connection.execute("SELECT count(*) FROM heads").fetchone()
            problems = connection.execute("SELECT name, reason FROM problems LIMIT 100").fetchall()
        return (
            self.brief()
            | run_facts(self.files)
            | {
                "configuration": masked_configuration(self.files),
                "recorded": {"steps": steps, "groups": groups, "figures": bool(figures)},
                "problems": [{"file": name, "reason": reason} for name, reason in problems],
            }
        )


def _database(cache: Path, root: Path, run_id: str) -> RunDatabase:
    try:
        return RunDatabase(cache, root, run_id)
    except (OSError, sqlite3.Error) as error:
        folder = Path(tempfile.mkdtemp(prefix="arlarena-page-"))
        log.warning("the index cannot be written to %s (%s): using %s instead", cache, error, folder)
        return RunDatabase(folder, root, run_id)


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Returns at most `MAX_RUNS` run directories. Each of `folders` is a run directory, or contains run directories.

    Raises:
        ConfigError: a folder does not exist, or contains no run.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder} is not a directory: pass a run directory, or a folder that contains runs")
        inside = below(folder, MAX_DEPTH)
        if not inside:
            raise ConfigError(f"{folder} contains no run of ARLArena (no run.json)")
        found += inside
    unique = list(dict.fromkeys(path.resolve() for path in found))
    return unique[:MAX_RUNS]


def is_run(folder: Path) -> bool:
    """Whether a folder is a run directory, or a folder of games that people played."""
    return any((folder / name).is_file() for name in MARKERS)


def below(folder: Path, depth: int) -> list[Path]:
    """Returns the run directories in `folder` and in its subfolders, up to `depth` levels below `folder`.

    A run directory is not searched. Therefore the result is [`folder`] if `folder` is a run directory.
    """
    if is_run(folder):
        return [folder]
    if depth == 0:
        return []
    try:
        inside = sorted(path for path in folder.iterdir() if path.is_dir() and not path.is_symlink())
    except OSError:
        return []
    return [run for path in inside[:MAX_RUNS] if not path.name.startswith(".") for run in below(path, depth - 1)]


class Catalog:
    """The runs of a page by their id, at most `MAX_RUNS`. `rescan` adds runs that are newer than the last search."""

    def __init__(self, folders: Sequence[Path], cache: Path, interval_s: float = 1.0, *, wait: bool = False) -> None:
        """Find the runs.

        `interval_s`: pause between two updates of the indices, in seconds. `wait`: accept folders that do not exist yet
        or contain no run yet.

        Raises:
            ConfigError: `wait` is False, and a folder does not exist or contains no run.
        """
        self._folders, self._cache = list(folders), cache
        self._lock = threading.Lock()
        self._runs: dict[str, PageRun] = {}
        if wait:
            self.rescan()
        else:
            self._add(find_runs(folders))
        self._thread = IndexThread(lambda: [run.index for run in self.runs()], interval_s)

    def _add(self, paths: Sequence[Path]) -> None:
        with self._lock:
            known = {run.files.root for run in self._runs.values()}
            for path in paths:
                if len(self._runs) >= MAX_RUNS:
                    return
                if path in known:
                    continue
                name, number = path.name or "run", 1
                while (id := name if number == 1 else f"{name}-{number}") in self._runs:
                    number += 1
                self._runs[id] = PageRun(id, path, self._cache)

    def rescan(self) -> None:
        """Add the runs that were created since the last search. Folders that no longer exist are ignored."""
        self._add([path.resolve() for folder in self._folders for path in below(folder, MAX_DEPTH)])

    def add_folder(self, folder: Path) -> None:
        """Make `rescan` also search `folder`. The folder does not need to exist yet."""
        self._folders.append(folder)

    def start(self) -> None:
        """Start building the indices."""
        self._thread.start()

    def stop(self) -> None:
        """Stop building the indices."""
        self._thread.stop()

    def close(self) -> None:
        """Stop building the indices, and release their write locks. Other processes can then build the indices."""
        self.stop()
        for run in self.runs():
            run.database.close()

    def runs(self) -> list[PageRun]:
        """Returns the runs, in the order in which they were found."""
        with self._lock:
            return list(self._runs.values())

    def get(self, id: str) -> PageRun | None:
        """Returns the run with this id, or None if there is no such run."""
        with self._lock:
            return self._runs.get(id)
