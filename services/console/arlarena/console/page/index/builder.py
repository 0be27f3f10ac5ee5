"""Builds the index of a run in the background, and updates the index when the run writes new data."""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from arlarena.console.page.index.database import RunDatabase
from arlarena.console.page.index.rows import COLUMNS, FileKind, RowBatch, add_group, add_line
from arlarena.console.page.reading.records import (
    Place,
    episode_line,
    frames,
    group_record,
    lines,
    plain_group,
    step_record,
)
from arlarena.console.page.reading.run_files import BoundedFiles, DamagedFile, FileState
from arlarena.proto.records.group_records import FOLDER, StepRecord

# A transaction ends when it contains at least this number of episodes.
BATCH_EPISODES = 2_000
MAX_PROBLEMS = 1_000
# Number of bytes at the end of a file's indexed part. If these bytes have changed, the file was overwritten.
END_BYTES = 64
# The file of games that people played. It is in a separate folder (`page/play/recording.py`).
PLAYED = "episodes.jsonl"
_STEP = re.compile(r"^step-(\d{1,12})$")
_LABEL = re.compile(r"^[A-Za-z0-9_-]{1,64}$")
_INSERT = f"INSERT OR REPLACE INTO episodes (id, {', '.join(COLUMNS)}) VALUES (?, {', '.join('?' * len(COLUMNS))})"


@dataclass(frozen=True, slots=True)
class IndexProgress:
    """Progress of an index. `ready`: whether the index is complete. `share`: the finished share, in [0, 1].

    `episodes`: number of indexed episodes. `problems`: number of unreadable records. `error`: the reason why indexing
    failed, or "".
    """

    ready: bool
    share: float
    episodes: int
    problems: int
    error: str = ""


def file_kind(name: str) -> FileKind | None:
    """Returns the kind of the file `name`, or None if runs do not write files with such a name."""
    folder, _, rest = name.rpartition("/")
    stem = rest.rpartition(".")[0]
    if folder in (FOLDER, "groups"):
        step = _STEP.match(stem)
        prefix = "t" if folder == FOLDER else "g"
        return FileKind("training", None, int(step[1]), f"{prefix}{int(step[1])}") if step else None
    if not _LABEL.match(stem):
        return None
    if name == PLAYED:
        return FileKind("evaluation", "played", None, "e.played")
    if folder == "episodes":
        return FileKind("evaluation", stem, None, f"e.{stem}")
    return FileKind("demonstrations", stem, None, f"d.{stem}") if not folder else None


class EpisodeIndexer:
    """Indexes the files of one run. Safe for several threads."""

    def __init__(self, files: BoundedFiles, database: RunDatabase) -> None:
        """Read the progress of an existing index."""
        self._files, self._database = files, database
        self._lock = threading.Lock()
        with database.connect() as connection:
            self.progress = IndexProgress(False, 0.0, *self._counts(connection))

    @staticmethod
    def _counts(connection: sqlite3.Connection) -> tuple[int, int]:
        (episodes,) = connection.execute("SELECT count(*) FROM episodes").fetchone()
        (problems,) = connection.execute("SELECT count(*) FROM problems").fetchone()
        return episodes, problems

    def sources(self) -> list[FileState]:
        """Returns the files that contain episodes.

        The files of `records/` come last. Their groups have figures and replace the same groups of `groups/`.
        """
        found = self._files.list("episodes", ".jsonl")
        found += filter(None, map(self._files.state, ("demonstrations.msgpack", "validation.msgpack", PLAYED)))
        plain = self._files.list("groups", ".msgpack")
        recorded = self._files.list(FOLDER, ".records")
        return [*found, *plain, *recorded]

    def refresh(self, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Index the changed files. Returns whether a file has changed. Ends early if `stopped` returns True.

        While another process holds the write lock of the database, indexes nothing.
        """
        with self._lock:
            # Another process may have held the database's write lock, and may have ended since.
            self._database.try_to_write()
            with self._database.connect() as connection:
                return self._refresh(connection, stopped)

    def _refresh(self, connection: sqlite3.Connection, stopped: Callable[[], bool]) -> bool:
        sources = self.sources()
        known = {
            name: (inode, size, mtime)
            for name, inode, size, mtime in connection.execute("SELECT name, inode, size, mtime FROM files")
        }
        changed = [file for file in sources if known.get(file.name) != (file.inode, file.size, file.mtime)]
        gone = known.keys() - {file.name for file in sources}
        total = sum(file.size for file in sources) or 1
        done = total - sum(file.size for file in changed)
        if not self._database.writable:
            self.progress = IndexProgress(not changed, done / total, *self._counts(connection))
            return bool(changed)
        for name in gone:
            self._delete(connection, name)
            connection.execute("DELETE FROM files WHERE name = ?", (name,))
        connection.commit()
        for file in changed:
            if stopped():
                return True
            self._index_file(connection, file, done, total, stopped)
            connection.commit()
            done += file.size
        if changed or gone or not self.progress.ready:
            self.progress = IndexProgress(True, 1.0, *self._counts(connection))
        return bool(changed or gone)

    @staticmethod
    def _delete(connection: sqlite3.Connection, name: str) -> None:
        """Delete the rows of a file. The text index keeps the words of these rows, but searches ignore them."""
        number = connection.execute("SELECT id FROM files WHERE name = ?", (name,)).fetchone()
        if number is not None:
            for table in ("episodes", "transitions", "problems", "heads"):
                connection.execute(f"DELETE FROM {table} WHERE file = ?", number)

    def _index_file(
        self, connection: sqlite3.Connection, file: FileState, done: int, total: int, stopped: Callable[[], bool]
    ) -> None:
        number, start, records = self._open(connection, file)
        kind, batch, last = file_kind(file.name), RowBatch(), start
        try:
            if kind is None:
                raise DamagedFile(file.name, "runs do not write files with such a name")
            for place in self._records(connection, kind, file, number, start, records, batch):
                last, records = place.offset + place.size, place.number + 1
                if len(batch.rows) >= BATCH_EPISODES:
                    self._write(connection, file.name, batch, kind, number, last, records)
                    batch.clear()  # `_records` continues to add to this object
                    connection.commit()
                    self._advance((done + min(last, file.size)) / total, BATCH_EPISODES)
                    if stopped():
                        return
        except DamagedFile as error:  # keep the records before the damaged record
            self._problem(connection, file.name, error.reason, number)
        if kind is not None:
            self._write(connection, file.name, batch, kind, number, last, records)
        state = (file.inode, file.size, file.mtime, number)
        connection.execute("UPDATE files SET inode = ?, size = ?, mtime = ? WHERE id = ?", state)
        self._advance((done + file.size) / total, len(batch.rows))

    def _advance(self, share: float, episodes: int) -> None:
        """Add `episodes` to the progress. Counting all rows of the index after each file would take too long."""
        found = self.progress
        self.progress = IndexProgress(False, min(share, 1.0), found.episodes + episodes, found.problems)

    def _end(self, name: str, size: int) -> bytes | None:
        """Returns the `END_BYTES` bytes before the byte offset `size` of a file, or None if the file is shorter."""
        start = max(0, size - END_BYTES)
        try:
            return self._files.read_at(name, start, size - start)
        except DamagedFile:
            return None

    def _open(self, connection: sqlite3.Connection, file: FileState) -> tuple[int, int, int]:
        """Returns (file number, byte offset, record number). Reading starts at this offset and this record.

        If a file has grown and the last bytes of its indexed part are unchanged, reading starts at the end of this
        part. Otherwise the file is read again from its start.
        """
        query = "SELECT id, inode, done_bytes, done_records, done_end FROM files WHERE name = ?"
        found = connection.execute(query, (file.name,)).fetchone()
        if found and found[1] == file.inode and found[2] and found[4] == self._end(file.name, found[2]):
            return found[0], found[2], found[3]
        self._delete(connection, file.name)
        insert = "INSERT OR REPLACE INTO files (name, inode, size, done_bytes, done_records) VALUES (?, ?, 0, 0, 0)"
        cursor = connection.execute(insert, (file.name, file.inode))
        return int(cursor.lastrowid or 0), 0, 0

    def _records(
        self,
        connection: sqlite3.Connection,
        kind: FileKind,
        file: FileState,
        number: int,
        start: int,
        records: int,
        batch: RowBatch,
    ) -> Iterator[Place]:
        """Add the records of a file to `batch` one by one. Yields the place of each record."""
        if kind.source == "evaluation":
            for place, line in lines(self._files, file.name, start, records):
                try:
                    if line is None:
                        raise DamagedFile(file.name, "the line is longer than the limit")
                    add_line(batch, kind, number, place, episode_line(file.name, line))
                except DamagedFile as error:
                    self._problem(connection, file.name, f"line {place.number + 1}: {error.reason}", number)
                yield place
            return
        figures = file.name.startswith(f"{FOLDER}/")
        for place, data in frames(self._files, file.name, start, records):
            try:
                if figures and place.number == 0:
                    self._head(connection, number, step_record(file.name, data), data)
                elif figures:
                    record = group_record(file.name, data)
                    add_group(batch, kind, number, place, record.group, record)
                else:
                    add_group(batch, kind, number, place, plain_group(file.name, data), None)
            except DamagedFile as error:
                self._problem(connection, file.name, f"record {place.number}: {error.reason}", number)
            yield place

    @staticmethod
    def _head(connection: sqlite3.Connection, file: int, head: StepRecord, data: bytes) -> None:
        connection.execute("INSERT OR REPLACE INTO heads VALUES (?, ?, ?, ?)", (head.step, file, head.complete, data))

    @staticmethod
    def _problem(connection: sqlite3.Connection, name: str, reason: str, file: int) -> None:
        (count,) = connection.execute("SELECT count(*) FROM problems").fetchone()
        if count < MAX_PROBLEMS:
            connection.execute("INSERT INTO problems VALUES (?, ?, ?)", (file, name, reason[:500]))

    def _write(
        self,
        connection: sqlite3.Connection,
        name: str,
        batch: RowBatch,
        kind: FileKind,
        file: int,
        done: int,
        records: int,
    ) -> None:
        used = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'episodes'").fetchone()
        first = used[0] + 1 if used else 1
        connection.executemany(_INSERT, ((first + place, *row) for place, row in enumerate(batch.rows)))
        connection.executemany(
            "INSERT INTO words (rowid, text) VALUES (?, ?)",
            ((first + place, text) for place, text in enumerate(batch.texts)),
        )
        connection.executemany(
            "INSERT INTO transitions VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT DO UPDATE SET count = count + excluded.count",
            (
                (file, kind.source, kind.label, kind.step, success, pair, count)
                for (success, pair), count in batch.transitions.items()
            ),
        )
        if kind.step is not None:
            self._drop_plain_groups(connection, kind.step)
        state = (done, records, self._end(name, done), file)
        connection.execute("UPDATE files SET done_bytes = ?, done_records = ?, done_end = ? WHERE id = ?", state)

    @staticmethod
    def _drop_plain_groups(connection: sqlite3.Connection, step: int) -> None:
        """Delete the episodes of `groups/` whose groups are also in `records/`. Each group is then listed once."""
        connection.execute(
            "DELETE FROM episodes WHERE step = ? AND key GLOB 'g*' AND group_id IN "
            "(SELECT group_id FROM episodes WHERE step = ? AND key GLOB 't*')",
            (step, step),
        )


class IndexThread:
    """A thread that refreshes the indices of several runs until `stop` is called."""

    def __init__(self, indexers: Callable[[], list[EpisodeIndexer]], interval_s: float) -> None:
        """`indexers`: returns the indexer of each run. `interval_s`: pause between two rounds, in seconds."""
        self._indexers, self._interval_s = indexers, interval_s
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._work, name="index", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Stop the thread, and wait until its last transaction has ended."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()

    def _work(self) -> None:
        while not self._stop.is_set():
            for indexer in self._indexers():
                try:
                    indexer.refresh(self._stop.is_set)
                except (sqlite3.Error, OSError, msgspec.MsgspecError) as error:
                    indexer.progress = with_error(indexer.progress, error)
            self._stop.wait(self._interval_s)


def with_error(progress: IndexProgress, error: Exception) -> IndexProgress:
    """Returns `progress` with the error that interrupted the indexing."""
    return IndexProgress(False, progress.share, progress.episodes, progress.problems, str(error))
