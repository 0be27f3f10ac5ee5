"""The journal of an evaluation: an append-only file. Its events survive a kill of the process and a power failure.

    journal = Journal(directory)
    journal.append(request)          # writes the event to the file: it survives a kill of this process
    await journal.commit(reply)      # also syncs the file to the disk: the event survives a power failure

Many attempts commit at the same time. While a sync runs, attempts may write more lines. The next sync then covers all
these lines. One sync therefore serves many attempts.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from arlarena.proto.atomic_files import fsync_path
from arlarena.rollout.evaluation.directory import JOURNAL
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.records import Event

LOCK = "journal.lock"
# Bytes of one read in the search for the end of the last complete line.
BLOCK = 1 << 16


class DirectoryLock:
    """A lock on an evaluation's directory. Only one process can have the lock. The lock ends with the process."""

    def __init__(self, directory: Path) -> None:
        """Take the lock.

        Raises:
            EvaluationError: another process has the lock. The message contains the id of that process.
            OSError: the directory is not writable.
        """
        self._handle = os.open(directory / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(self._handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.read(self._handle, 32).decode(errors="replace").strip() or "unknown"
            os.close(self._handle)
            raise EvaluationError(
                f"another process (id {holder}) writes the evaluation in {directory}; either wait until that process "
                "ends, or choose another directory"
            ) from None
        os.ftruncate(self._handle, 0)
        os.pwrite(self._handle, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Release the lock."""
        os.close(self._handle)


class Journal:
    """Writes the journal of one evaluation, from one event loop. The directory is locked until `close`."""

    def __init__(self, directory: Path) -> None:
        """Lock the directory, and open or create the journal. If the last line is incomplete, remove the line.

        Raises:
            EvaluationError: another process writes this evaluation.
            OSError: the directory does not exist or is not writable.
        """
        self.path = directory / JOURNAL
        self._lock = DirectoryLock(directory)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        end = _end_of_last_line(self._handle)
        os.ftruncate(self._handle, end)
        os.lseek(self._handle, end, os.SEEK_SET)
        fsync_path(directory)
        self._encoder = msgspec.json.Encoder()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="journal")
        self._waiting: list[asyncio.Future[None]] = []
        self._syncing: asyncio.Task[None] | None = None
        self._failure: str | None = None
        self.syncs = 0

    def append(self, event: Event) -> None:
        """Write one line. The line survives a kill of this process. After the next sync, it survives a power failure.

        Raises:
            EvaluationError: the file cannot be written. All later calls raise this error, too.
        """
        self._check()
        line = memoryview(self._encoder.encode(event) + b"\n")
        try:
            while line:
                line = line[os.write(self._handle, line) :]
        except OSError as error:
            self._failure = str(error)
            self._check()

    async def commit(self, event: Event) -> None:
        """Write one line and wait until it is on the disk. Raises the errors of `append`."""
        self.append(event)
        await self.sync()

    async def sync(self) -> None:
        """Wait until all lines written so far are on the disk. Raises the errors of `append`."""
        written = asyncio.get_running_loop().create_future()
        self._waiting.append(written)
        if self._syncing is None:
            self._syncing = asyncio.get_running_loop().create_task(self._sync())
        await written
        self._check()

    async def close(self) -> None:
        """Sync the lines, close the file and release the lock."""
        while self._syncing is not None:
            await self._syncing
        if self._failure is None:
            os.fdatasync(self._handle)
        self._thread.shutdown()
        os.close(self._handle)
        self._lock.release()

    async def _sync(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting, []
            try:
                await loop.run_in_executor(self._thread, os.fdatasync, self._handle)
                self.syncs += 1
            except OSError as error:
                # This failure is final: Linux may drop the unwritten pages, and report success for the next sync.
                self._failure = str(error)
            for written in batch:
                if not written.done():
                    written.set_result(None)
        self._syncing = None

    def _check(self) -> None:
        if self._failure is not None:
            raise EvaluationError(
                f"{self.path} cannot be written: {self._failure}; correct the cause, then resume the evaluation"
            )


def _end_of_last_line(handle: int) -> int:
    """Return the position in bytes after the last line end of a file, or 0."""
    end = os.fstat(handle).st_size
    while end:
        start = max(0, end - BLOCK)
        found = os.pread(handle, end - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
