"""Several worker processes behind one port.

The parent process binds one socket per worker to the port. With SO_REUSEPORT the kernel distributes connections among
these sockets. The parent starts the workers and announces the address when all workers listen. If a worker dies, the
parent restarts it. The parent keeps the sockets open, so new connections wait during a restart and are not refused.
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

# Both in seconds. If a worker dies within SHORT_LIFE_S after its start, it is restarted after a pause of PAUSE_S.
SHORT_LIFE_S, PAUSE_S = 2.0, 1.0


class WorkerError(RuntimeError):
    """A worker process ended before it could serve requests."""


class Workers:
    """The worker processes of one server, one per socket. `argv`: the arguments of `python -m arlarena.env_server`."""

    def __init__(self, argv: list[str], sockets: list[socket.socket], log: Logger) -> None:
        self._argv, self._sockets, self._log = argv, sockets, log
        self._stopping = asyncio.Event()
        self._processes: dict[int, asyncio.subprocess.Process] = {}

    async def run(self) -> int:
        """Run the workers until SIGTERM or SIGINT. Returns the exit status 0.

        Raises:
            WorkerError: a worker ended before it could serve requests.
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
                await asyncio.gather(
                    *(self._keep_running(worker, Path(folder)) for worker in range(len(self._sockets)))
                )
            finally:
                await self._end_all()
        self._log.info("stopped")
        return 0

    async def _start(self, worker: int, folder: Path) -> None:
        """Start a worker and wait until it listens.

        Raises:
            WorkerError: the worker ended before it could serve requests.
        """
        listener = self._sockets[worker]
        options = ["--worker", str(worker), "--of", str(len(self._sockets)), "--peers", str(folder)]
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "arlarena.env_server", *self._argv, *options, "--listener", str(listener.fileno()),
            stdout=asyncio.subprocess.PIPE, pass_fds=(listener.fileno(),), start_new_session=True,
        )  # fmt: skip
        self._processes[worker] = process
        assert process.stdout is not None
        if not await process.stdout.readline():
            status = await process.wait()
            raise WorkerError(f"worker {worker} ended with exit status {status} before it could serve requests")

    async def _keep_running(self, worker: int, folder: Path) -> None:
        """Restart a worker each time that it dies. Returns when the server is stopping and the worker has ended."""
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
