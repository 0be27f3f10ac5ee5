"""Server-sent events: new steps, states, alarms and the progress of indices.

As long as a page is connected, one task reads the files of all runs every `POLL_S` seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from arlarena.console.page.reading.run_summary import activity
from arlarena.console.page.runs import Catalog, PageRun

POLL_S, KEEP_ALIVE_S = 1.0, 15.0
# Seconds between two searches for new runs. A search lists all folders that were given to `arlarena view`.
SEARCH_S = 5.0
MAX_CLIENTS = 64
# Metrics of the event `step`.
STEP_METRICS = ("success_rate", "return_mean", "loss", "entropy", "grad_norm", "tokens_per_s", "run_seconds")
Snapshot = dict[str, Any]


def snapshot(run: PageRun) -> Snapshot:
    """Returns the current state of a run. `events` compares two snapshots of a run."""
    run.metrics.refresh()
    state = run.phase
    total, alarms = run.alarms(20)
    return {
        "step": run.metrics.last_step,
        "state": state,
        "activity": activity(run.files) if state == "running" else None,
        "metrics": {name: value for name in STEP_METRICS if (value := run.metrics.last(name)) is not None},
        "alarm_count": total,
        "alarms": alarms,
        "index": run.index_state(),
    }


def events(run: str, before: Snapshot | None, now: Snapshot) -> list[tuple[str, dict[str, Any]]]:
    """Returns the changes between two snapshots of the run with the id `run`, as events (name, data).

    If `before` is None, all values are new.
    """
    old = before or {}
    found: list[tuple[str, dict[str, Any]]] = []
    if now["step"] != old.get("step"):
        found.append(("step", {"run": run, "step": now["step"], "state": now["state"], "metrics": now["metrics"]}))
    if (now["state"], now["activity"]) != (old.get("state"), old.get("activity")):
        found.append(("state", {"run": run, "state": now["state"], "activity": now["activity"]}))
    if now["index"] != old.get("index"):
        found.append(("index", {"run": run} | now["index"]))
    if before is not None and now["alarm_count"] > before["alarm_count"]:
        new = now["alarms"][: now["alarm_count"] - before["alarm_count"]]
        found += [("alarm", {"run": run} | alarm) for alarm in reversed(new)]
    return found


def encoded(name: str, data: dict[str, Any]) -> bytes:
    """Returns one event in the format of server-sent events. JSON contains no line breaks."""
    return b"event: %b\ndata: %b\n\n" % (name.encode(), msgspec.json.encode(data))


class LiveRuns:
    """The newest snapshot of each run, for all connected pages."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._snapshots: dict[str, Snapshot] = {}
        self._changed = asyncio.Condition()
        self._clients = 0
        self._searched = -SEARCH_S
        self._task: asyncio.Task[None] | None = None
        self.closing = False

    @property
    def is_full(self) -> bool:
        """Whether the maximum number of pages is connected."""
        return self._clients >= MAX_CLIENTS

    async def stream(self, wanted: list[str] | None) -> AsyncIterator[bytes]:
        """Yield the events of runs until the page disconnects or the server stops.

        `wanted`: the ids of the runs. If it is None, yields the events of all runs.
        """
        self._clients += 1
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._poll())
        sent: dict[str, Snapshot] = {}
        try:
            yield encoded("hello", {"runs": wanted or [run.id for run in self._catalog.runs()]})
            while not self.closing:
                for run, now in list(self._snapshots.items()):
                    if wanted is None or run in wanted:
                        for name, data in events(run, sent.get(run), now):
                            yield encoded(name, data)
                        sent[run] = now
                try:
                    async with self._changed:
                        await asyncio.wait_for(self._changed.wait(), KEEP_ALIVE_S)
                except TimeoutError:
                    yield b": keep-alive\n\n"
        finally:
            self._clients -= 1

    async def _poll(self) -> None:
        while self._clients and not self.closing:
            await asyncio.to_thread(self._update)
            async with self._changed:
                self._changed.notify_all()
            await asyncio.sleep(POLL_S)

    def _update(self) -> None:
        if time.monotonic() - self._searched >= SEARCH_S:
            self._searched = time.monotonic()
            self._catalog.rescan()
        for run in self._catalog.runs():
            with contextlib.suppress(OSError):
                self._snapshots[run.id] = snapshot(run)

    async def close(self) -> None:
        """End all streams."""
        self.closing = True
        async with self._changed:
            self._changed.notify_all()
