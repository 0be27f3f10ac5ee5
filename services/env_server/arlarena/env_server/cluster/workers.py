"""Several worker processes behind one port.

The parent binds one socket a worker to the port (SO_REUSEPORT, so that the kernel deals connections among them),
starts the workers, announces the address once all of them listen, and restarts a worker that has died. Its sockets
stay open, so no connection is refused meanwhile.
"""

from __future__ import annotations

import asyncio
import signal
import socket
import sys
import tempfile
import time
from pathlib import Path

from arlarena.proto.telemetry import Logger, announce

# A worker that dies within this time after its start is restarted with a delay.
SHORT_LIFE_S, PAUSE_S = 2.0, 1.0


class WorkerError(RuntimeError):
    """A worker ended before it could serve."""


class Workers:
    """`count` processes that run `argv` with their part in addition, and serve on `sockets`."""

    def __init__(self, argv: list[str], sockets: list[socket.socket], log: Logger) -> None:
        self._argv, self._sockets, self._log = argv, sockets, log
        self._stopping = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def run(self) -> int:
        """Serve until a signal; the exit code.

        Raises:
            WorkerError: a worker did not come up.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        with tempfile.TemporaryDirectory(prefix="arlarena-env-") as folder:
            try:
                await asyncio.gather(*(self._start(worker, Path(folder)) for worker in range(len(self._sockets))))
                host, port = self._sockets[0].getsockname()[:2]
                self._log.info("listening", host=host, port=port, workers=len(self._sockets))
                announce(host, port)
                await asyncio.gather(*(self._keep(worker, Path(folder)) for worker in range(len(self._sockets))))
            finally:
                await self._end_all()
        self._log.info("stopped")
        return 0

    async def _start(self, worker: int, folder: Path) -> None:
        """Start a worker and wait until it listens."""
        listener = self._sockets[worker]
        part = ["--worker", str(worker), "--of", str(len(self._sockets)), "--peers", str(folder)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "arlarena.env_server", *self._argv, *part, "--listener", str(listener.fileno()),
            stdout=asyncio.subprocess.PIPE, pass_fds=(listener.fileno(),), start_new_session=True,
        )  # fmt: skip
        self._processes[worker] = process
        assert process.stdout is not None
        if not await process.stdout.readline():
            raise WorkerError(f"worker {worker} ended with exit status {await process.wait()} before it could serve")

    async def _keep(self, worker: int, folder: Path) -> None:
        """Start the worker again whenever it dies, until the stop."""
        while True:
            began = time.monotonic()
            code = await self._processes[worker].wait()
            if self._stopping.is_set():
                return
            self._log.error("worker_died", worker=worker, code=code)
            if time.monotonic() - began < SHORT_LIFE_S:
                await asyncio.sleep(PAUSE_S)
            try:
                await self._start(worker, folder)
            except WorkerError as error:
                self._log.error("worker_failed", worker=worker, error=str(error))

    def _stop(self) -> None:
        self._stopping.set()
        for process in self._processes.values():
            if process.returncode is None:
                process.terminate()

    async def _end_all(self) -> None:
        self._stop()
        await asyncio.gather(*(process.wait() for process in self._processes.values()))
