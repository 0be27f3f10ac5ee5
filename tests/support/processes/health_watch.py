"""What an attack does to a server: how slowly `/health` answers, and how much memory the server takes."""

import contextlib
import http.client
import os
import threading
import time
from urllib.parse import urlsplit

import psutil

SLOWEST_S = 1.0
MOST_MEMORY = 1.5  # times the level before
AFTERWARDS = 3  # answers that have to follow an attack


class HealthWatch:
    """A thread that asks `/health` on new connections while the context is open.

    The context ends after three further answers. It fails if an answer was no 200, took longer than a second (more
    where several processes share a core), or the memory of the server and its children grew by more than half.
    """

    def __init__(self, url, pid):
        self._address = (urlsplit(url).hostname, urlsplit(url).port)
        self._process = psutil.Process(pid)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.slowest, self.asked, self.bad = 0.0, 0, []

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
        sharing = os.getloadavg()[0] / (os.cpu_count() or 1)  # processes for each core
        allowed = SLOWEST_S * max(1.0, 2 * sharing - 1)
        print(f"health {self.slowest:.2f} s of {allowed:.2f} s, memory {self.peak / self.before:.2f} times")
        assert self.bad == []
        assert self.asked >= enough
        assert self.slowest < allowed
        assert self.peak < MOST_MEMORY * self.before, f"{self.before >> 20} MiB before, {self.peak >> 20} MiB at most"

    def _memory(self):
        total = self._process.memory_info().rss
        for child in self._process.children(recursive=True):
            with contextlib.suppress(psutil.NoSuchProcess):
                total += child.memory_info().rss
        return total

    def _status(self):
        connection = http.client.HTTPConnection(*self._address, timeout=20)
        try:
            connection.request("GET", "/health")
            return connection.getresponse().status
        except OSError as error:
            return repr(error)
        finally:
            connection.close()

    def _run(self):
        while not self._over.wait(0.02):
            began = time.monotonic()
            status = self._status()
            self.slowest = max(self.slowest, time.monotonic() - began)
            self.peak = max(self.peak, self._memory())
            self.asked += 1
            if status != 200:
                self.bad.append(status)
