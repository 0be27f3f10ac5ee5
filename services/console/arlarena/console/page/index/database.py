"""The database of one run: episodes, problems, counts of transitions, and a full-text index.

The database is a cache. Its file name is a hash of the schema, the run's path and the run's id. If one of these
changes, or if the database cannot be read, a new database is built.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

# Increase this number if a table or the meaning of a column changes.
SCHEMA = 3
BUSY_TIMEOUT_S = 10.0

_TABLES = """
CREATE TABLE about (key TEXT PRIMARY KEY, value TEXT);
CREATE TABLE files (
    id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT UNIQUE, inode INTEGER, size INTEGER, mtime REAL,
    done_bytes INTEGER, done_records INTEGER, done_end BLOB);
CREATE TABLE heads (step INTEGER PRIMARY KEY, file INTEGER, complete INTEGER, head BLOB);
CREATE TABLE episodes (
    id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT UNIQUE, file INTEGER, number INTEGER, offset INTEGER, size INTEGER,
    member INTEGER, source TEXT, label TEXT, step INTEGER, group_id TEXT, task TEXT, environment TEXT, kind TEXT,
    success INTEGER, score REAL, return REAL, turns INTEGER, invalid INTEGER, tokens INTEGER, status TEXT,
    group_status TEXT, outcome TEXT, advantage REAL, first_action TEXT, playable INTEGER);
CREATE INDEX episodes_by_step ON episodes (step, number, member);
CREATE INDEX episodes_by_label ON episodes (label, id);
CREATE INDEX episodes_by_file ON episodes (file, id);
CREATE TABLE transitions (
    file INTEGER, source TEXT, label TEXT, step INTEGER, success INTEGER, pair TEXT, count INTEGER,
    PRIMARY KEY (file, success, pair)) WITHOUT ROWID;
CREATE TABLE problems (file INTEGER, name TEXT, reason TEXT);
CREATE VIRTUAL TABLE words USING fts5(text, content='', columnsize=0, tokenize="unicode61");
"""


class RunDatabase:
    """The index of one run. Only the process that holds the lock may write to it. All processes may read it."""

    def __init__(self, folder: Path, run: Path, run_id: str) -> None:
        """Open the database of a run in `folder`, or create it.

        Raises:
            OSError, sqlite3.Error: the folder or the database cannot be written.
        """
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        name = hashlib.sha256(f"{run}\0{run_id}\0{SCHEMA}".encode()).hexdigest()[:24]
        self.path = folder / f"{name}.sqlite"
        self._run = run
        self._lock = os.open(folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.writable = False
        self.try_to_write()

    def try_to_write(self) -> bool:
        """Lock the database if no other process has locked it. Returns whether this process may write.

        Raises:
            OSError, sqlite3.Error: the database cannot be written.
        """
        if not self.writable:
            try:
                fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            self._create(self._run)
            self.writable = True
        return True

    def _create(self, run: Path) -> None:
        try:
            with self.connect() as connection:
                found = connection.execute("SELECT value FROM about WHERE key = 'run'").fetchone()
            if found == (str(run),):
                return
        except sqlite3.Error:
            pass
        for suffix in ("", "-wal", "-shm"):
            self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)
        with self.connect() as connection:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.executescript(_TABLES)
            connection.execute("INSERT INTO about VALUES ('run', ?)", (str(run),))

    @contextlib.contextmanager
    def connect(self) -> Iterator[sqlite3.Connection]:
        """Open a connection for one thread. Writes in the `with` block form a transaction.

        Raises:
            sqlite3.Error: the database cannot be read or written.
        """
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT_S)
        try:
            # Do not wait for the disk: a power failure may destroy the database, but it is only a cache.
            connection.execute("PRAGMA synchronous = OFF")
            connection.execute("PRAGMA cache_size = -8000")
            with connection:
                yield connection
        finally:
            connection.close()

    def close(self) -> None:
        """Release the write lock."""
        os.close(self._lock)
