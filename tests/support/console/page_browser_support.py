"""The run page in headless Chromium, and runs to show. A tab records errors and requests to other hosts."""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec
from support.console.page_support import group, make_run, record, turn, write_step

from arlarena.proto.trajectory import Trajectory

ROOM = "#######\n#_____#\n#_P___#\n#__X__#\n#___O_#\n#_____#\n#######"
# A text that an agent or a web page could write to attack the run page.
ATTACK = (
    "<script>window.attacked = 1</script><img src=x onerror='window.attacked = 1'>"
    "<a href='javascript:window.attacked=1'>x</a><style>body{display:none}</style>\x00\x1b[31m\u202ereversed\u202c"
)
MEGABYTE = 1_000_000
READY_S = 60.0
# Chromium aborts all requests if the network addresses of the machine change. Tests with containers change them.
NETWORK_CHANGED = "Failed to load resource: net::ERR_NETWORK_CHANGED"


class PageTab:
    """A tab. `errors`: messages of the console and uncaught exceptions. `outside`: addresses of other hosts."""

    def __init__(self, tab: Any, address: str) -> None:
        self.tab, self.address = tab, address
        self.errors: list[str] = []
        self.outside: list[str] = []
        tab.on("console", lambda message: message.type in ("error", "warning") and self.errors.append(message.text))
        tab.on("pageerror", lambda error: self.errors.append(str(error)))
        tab.on("request", self._request)

    def _request(self, request: Any) -> None:
        if urlsplit(request.url).netloc != urlsplit(self.address).netloc and not request.url.startswith("data:"):
            self.outside.append(request.url)

    def open(self, route: str, ready: str) -> Any:
        """Open a route, such as `runs`, and wait for an element. Returns the tab of Playwright."""
        self._load(route)
        end = time.monotonic() + READY_S
        while self.tab.locator(ready).count() == 0 and time.monotonic() < end:
            if NETWORK_CHANGED in self.errors:  # a module of the page can be missing, so load the page again
                self.errors = [error for error in self.errors if error != NETWORK_CHANGED]
                self._load(route)
            self.tab.wait_for_timeout(20)
        try:
            self.tab.wait_for_selector(ready)
        except Exception as error:
            seen = self.tab.evaluate("document.body.innerText.slice(0, 2000)")
            raise AssertionError(f"{route} shows no {ready}; errors: {self.errors}; text: {seen}") from error
        return self.tab

    def _load(self, route: str) -> None:
        self.tab.goto("about:blank")
        self.tab.goto(f"{self.address}/#/{route}")

    @property
    def route(self) -> str:
        """The part of the address after `#/`."""
        return str(self.tab.evaluate("decodeURIComponent(location.hash).replace('#/', '')"))

    def wait_for(self, expression: str, limit_s: float = 60.0) -> None:
        """Wait until a JavaScript expression is true. (Playwright's own function needs `eval`. The page forbids it.)"""
        end = time.monotonic() + limit_s
        while not self.tab.evaluate(expression):
            assert time.monotonic() < end, expression
            self.tab.wait_for_timeout(20)


@contextmanager
def checked_tab(browser: Any, address: str, **options: Any) -> Iterator[PageTab]:
    """Yield a tab. At the end of the block, assert that there was no error and no request to another host."""
    context = browser.new_context(viewport={"width": 1440, "height": 900}, **options)
    context.set_default_timeout(60_000)  # the machine can be busy
    try:
        tab = PageTab(context.new_page(), address)
        yield tab
        assert tab.errors == []
        assert tab.outside == []
    finally:
        context.close()


def _trajectory(member: int, texts: list[tuple[str, str]], words: tuple[str, ...], kind: str = "") -> Trajectory:
    turns = tuple(
        turn(member, number, word, observation=seen, response=reply, action=word, state_key=f"state-{number}")
        for number, ((seen, reply), word) in enumerate(zip(texts, words, strict=True))
    )
    return Trajectory(f"x-{member}", 0, turns, member == 0, member > 0, float(member == 0), member == 0, kind=kind)


def add_room_and_attack(run: Path) -> None:
    """Add step 12 to a run: a group with rooms (group 0), and a group with hostile and long texts (group 1)."""
    shown = [(ROOM, "<think>push</think><action>down</action>"), (ROOM.replace("_P", "P_"), "down</action> and more")]
    rooms = msgspec.structs.replace(
        group("rooms", [True, False]), trajectories=tuple(_trajectory(n, shown, ("down", "right")) for n in range(2))
    )
    hostile = [(ATTACK, f"<think>{ATTACK}</think><action>{ATTACK}</action>"), ("<b>" * (MEGABYTE // 3), "A" * MEGABYTE)]
    attack = msgspec.structs.replace(
        group("attack", [True, False]),
        trajectories=tuple(_trajectory(n, hostile, (ATTACK, "up"), "<b>kind</b>") for n in range(2)),
    )
    write_step(run, 12, [record(rooms, 12), record(attack, 12)])


def make_viewed_runs(folder: Path) -> list[Path]:
    """Write two finished runs with different curves. The first run also has rooms, hostile texts and an alarm."""
    runs = [make_run(folder / name) for name in ("first", "second")]
    add_room_and_attack(runs[0])
    (runs[0] / "logs").mkdir()
    alarm = {"ts": 1796008999.1, "level": "warning", "event": "mismatch", "step": 12, "mean_k3": 0.02}
    (runs[0] / "logs" / "trainer.log").write_text(json.dumps(alarm) + "\n")
    more = runs[1] / "metrics.jsonl"
    lines = [json.loads(line) for line in more.read_text().splitlines()]
    more.write_text("".join(json.dumps(line | {"entropy": 1 / line["step"]}) + "\n" for line in lines))
    return runs
