"""Measures the effect of an attack on a server: the latency of `/health`, and the server's memory."""

import contextlib
import http.client
import threading
import time
from pathlib import Path
from urllib.parse import urlsplit

import psutil

SLOWEST_S = 1.0
MAX_MEMORY_RATIO = 1.5  # relative to the memory before the attack
AFTERWARDS = 3  # number of required responses after an attack


class HealthWatch:
    """A thread that requests `/health` on new connections inside a `with` block.

    At the end of the block, it waits for three more responses. It asserts that each response had status 200 and took
    less than a second, and that the memory of the server and its children grew by less than half.

    Time in which a thread waits for a CPU core does not count, because other processes cause this waiting. The threads
    are this thread and the server's main thread, which runs the event loop.
    """

    def __init__(self, url, pid):
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        # `waited`: seconds of waiting for a core during the slowest request.
        self.slowest, self.waited, self.asked, self.bad = 0.0, 0.0, 0, []

    def __enter__(self):
        self.before = self.peak = self._memory()
        self._thread.start()
        return self

    def __exit__(self, *_):
        enough = self.asked + AFTERWARDS
        while self.asked < enough and not self.bad and self._thread.is_alive():
            time.sleep(0.02)
        self._over.set()
        self._thread.join(30)
        waits = f"and {self.waited:.2f} s for a core"
        print(f"health {self.slowest:.2f} s {waits}, memory {self.peak / self.before:.2f} times")
        assert self.bad == []
        assert self.asked >= enough
        assert self.slowest < SLOWEST_S, f"/health took {self.slowest:.2f} s {waits}"
        assert self.peak < MAX_MEMORY_RATIO * self.before, (
            f"{self.before >> 20} MiB before, {self.peak >> 20} MiB at most"
        )

    def _memory(self):
        total = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += child.memory_info().rss
        return total

    def _waited_s(self):
        """Return the seconds that the server's main thread and this thread have waited for a CPU core.

        The second number of `schedstat` is this time in nanoseconds. Returns 0 if the kernel does not provide it.
        """
        files = (Path(f"/proc/{self._process.pid}/schedstat"), Path("/proc/thread-self/schedstat"))
        with contextlib.suppress(OSError, IndexError):
            return sum(int(file.read_text().split()[1]) for file in files) / 1e9
        return 0.0

    def _status(self):
        connection = http.client.HTTPConnection(*self._address, timeout=60)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except OSError as error:
            return repr(error)
        finally:
            connection.close()

    def _run(self):
        while not self._over.wait(0.02):
            began, waited_before = time.monotonic(), self._waited_s()
            status = self._status()
            waited = self._waited_s() - waited_before
            self.slowest, self.waited = max((self.slowest, self.waited), (time.monotonic() - began - waited, waited))
            self.peak = max(self.peak, self._memory())
            self.asked += 1
            if status != 200:
                self.bad.append(status)
