"""Make the pictures of the run page for the documentation, in docs/images/page.

    .venv/bin/python scripts/screenshots/run_page.py RUN... [--turn demo=t7.1.7/12] [--only VIEW...]

RUN: finished runs with recorded groups, including at least one run of Sokoban. The script starts `arlarena view` on
these runs, and opens each view in headless Chromium. Each view has four pictures: 1440 and 390 pixels wide, light and
dark. The file name of a picture is VIEW-WIDTH-THEME.png.

- A view of a single run shows the first Sokoban run. The curves show all Sokoban runs.
- The view `behaviour` shows the first run of WebShop, if there is one. Otherwise it shows the first Sokoban run.
- The views `episode-ENVIRONMENT` show one turn for each environment. `--turn` chooses the turn. By default, the script
  chooses the turn with the highest `interest`.

The script needs `make setup EXTRA=page` and Chromium.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote
from urllib.request import urlopen

import numpy as np
from PIL import Image
from playwright.sync_api import TimeoutError, ViewportSize, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
OPTIONS = ("--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars")
THEMES: tuple[Literal["light", "dark"], ...] = ("light", "dark")
# Window width → maximum height of a picture, in pixels. The picture of a shorter page is shorter.
HEIGHTS = {1440: 1150, 390: 1500}
# A palette has two parts of these sizes. The first part has the most frequent colours, so large areas keep their exact
# colour. The colours of the second part cover the complete colour range, so small marks keep their hue.
FREQUENT, RARE = 96, 128
TIMEOUT_MS = 120_000
ATTEMPTS = 4
# A view is complete if two pictures with this pause between them are equal.
PAUSE_MS = 300
INDEX_TIMEOUT_S = 600.0
EPISODES = 200
# Environment → pattern. A turn is suitable for a picture if its action matches the pattern. In TIR Math, every turn
# before the last is suitable, because a program ran in this turn.
ACTIONS = {"sokoban": r".", "webshop": r"click\[(?!b0|buy|back|next|<)", "alfworld": r"(take|move|heat|clean|cool) ",
           "tir_math": r""}  # fmt: skip
# The player walks to the box and pushes it once.
GAME = "play?environment=sokoban&split=test&index=2"
MOVES = ("ArrowLeft", "ArrowUp", "ArrowUp")


@dataclass(frozen=True, slots=True)
class Shot:
    """A view of the page.

    Attributes:
        name: name of the view in the names of the files.
        route: part of the address after `#/`.
        ready: CSS selector of an element that exists when the view is shown.
        keys: keys to press after the start of a game, in order.
    """

    name: str
    route: str
    ready: str
    keys: Sequence[str] = ()


class Server:
    """A running `arlarena view`."""

    def __init__(self, runs: Sequence[Path], folder: Path) -> None:
        command = (sys.executable, "-m", "arlarena.console", "view", *runs, "--port", "0",
                   "--cache-dir", folder / "cache", "--play-dir", folder / "played")  # fmt: skip
        self.process = subprocess.Popen(list(map(str, command)), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise SystemExit(f"`arlarena view` ended with status {self.process.wait()}: are all RUNs run directories?")
        self.address = f"http://127.0.0.1:{json.loads(line)['port']}"

    def get(self, path: str) -> Any:
        """Return the JSON of a route below /api."""
        with urlopen(f"{self.address}/api/{path}", timeout=60) as reply:
            return json.load(reply)

    def runs(self) -> list[dict[str, Any]]:
        """Wait until the page has indexed all episodes. Return the runs, as in the JSON of `/api/runs`."""
        end = time.monotonic() + INDEX_TIMEOUT_S
        while True:
            runs: list[dict[str, Any]] = self.get("runs")["runs"]
            if runs and all(run["index"]["ready"] for run in runs):
                return runs
            if time.monotonic() > end:
                raise SystemExit(f"the runs are not indexed after {INDEX_TIMEOUT_S:.0f} s")
            time.sleep(0.2)


@contextlib.contextmanager
def serve(runs: Sequence[Path]) -> Iterator[Server]:
    """Start `arlarena view` on these runs, and stop it at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as folder:
        server = Server(runs, Path(folder))
        try:
            yield server
        finally:
            server.process.terminate()
            server.process.wait(30)


def informative_turn(server: Server, runs: Sequence[str], environment: str) -> tuple[str, str]:
    """Return (run, EPISODE/TURN) of the suitable turn with the highest `interest`.

    A turn is suitable if it is not the last of its episode and its action matches `ACTIONS`. The search begins with
    trained episodes. If no turn is suitable, it continues with all training episodes, then with evaluation episodes.

    Raises:
        SystemExit: no recorded episode has a suitable turn.
    """
    for choice in ("source=training&status=trained", "source=training", "source=evaluation"):
        for run in runs:
            found = server.get(f"runs/{quote(run)}/episodes?{choice}&turns_min=2&limit={EPISODES}")["episodes"]
            details = (server.get(f"runs/{quote(run)}/episodes/{quote(each['id'])}") for each in found)
            turns = [(interest(turn), f"{each['id']}/{turn['turn']}")
                     for each in details for turn in each["turn_list"][:-1]
                     if re.match(ACTIONS[environment], turn["action"])]  # fmt: skip
            if turns:
                return run, max(turns)[1]
    raise SystemExit(f"{', '.join(runs)}: no recorded episode has a suitable turn")


def interest(turn: dict[str, Any]) -> float:
    """Return a score: how much a picture of this turn shows.

    These figures of the turn increase the score: the share of tokens outside the clip range, the entropy, the absolute
    advantage, and the visits of the turn's state.
    """
    figures = 5 * (turn["outside"] or 0.0) + (turn["mean_entropy"] or 0.0) + abs(turn["step_advantage"] or 0.0)
    return float(figures + min(turn["visits"] or 0, 6) / 6)


def shots(server: Server, turns: dict[str, str]) -> list[Shot]:
    """Return the views to photograph. There is one view of an episode per environment of the runs.

    `turns`: run → EPISODE/TURN to show in the view of an episode.
    """
    by_environment: dict[str, list[str]] = {}
    for found in sorted(server.runs(), key=lambda one: str(one["id"])):
        by_environment.setdefault(found["environment"], []).append(found["id"])
    if "sokoban" not in by_environment:
        raise SystemExit("no RUN is a run of Sokoban: add one, for example a run of configs/demo.toml")
    same, others = by_environment["sokoban"], [names[0] for name, names in by_environment.items() if name != "sokoban"]
    run = quote(same[0])
    acting = quote(by_environment.get("webshop", same)[0])  # actions in WebShop differ more than moves in Sokoban
    result = [
        Shot("runs", f"runs?selected={','.join(same)}", ".spark path"),
        Shot("run", f"run/{run}", "#summary"),
        Shot("curves", f"curves?runs={','.join(same)}&smooth=0.6", ".plot path.line"),
        Shot("environments", f"curves?runs={','.join([same[0], *others])}&smooth=0.6", ".plot path.line"),
        Shot("groups", f"groups/{run}", ".group"),
        Shot("episodes", f"episodes/{run}?source=training&sort=turns&order=desc", "tbody tr"),
        Shot("behaviour", f"behaviour/{acting}", ".flow"),
        Shot("play", GAME, ".play-form", MOVES),
    ]
    for name, names in by_environment.items():
        if name in ACTIONS:
            given = [(run, turns[run]) for run in names if run in turns]
            shown, turn = given[0] if given else informative_turn(server, names, name)
            ready = ".visit-list, .visits-panel .note"
            result.append(Shot(f"episode-{name.replace('_', '-')}", f"episode/{quote(shown)}/{turn}", ready))
    return result


def take(tab: Any, server: Server, shot: Shot, width: int) -> Image.Image:
    """Open a view in the browser tab. Return a picture that is `width` pixels wide."""
    load(tab, f"{server.address}/#/{shot.route}", shot.ready)
    if shot.keys:
        tab.get_by_role("button", name="Start").click()
        tab.wait_for_selector(".board")
        for number, key in enumerate(shot.keys):
            tab.keyboard.press(key)
            tab.wait_for_selector(f".log li:nth-child({number + 1})")
    tall = min(round(tab.evaluate("document.getElementById('main').getBoundingClientRect().bottom")), HEIGHTS[width])
    clip = {"x": 0, "y": 0, "width": width, "height": tall}
    return Image.open(io.BytesIO(settled(tab, clip))).convert("RGB")


def load(tab: Any, address: str, ready: str) -> None:
    """Open an address, and wait until the element with the CSS selector `ready` exists. Try at most `ATTEMPTS` times.

    Requests can fail if the network addresses of the machine change.

    Raises:
        SystemExit: the element did not exist after any attempt.
    """
    for _ in range(ATTEMPTS):
        tab.goto("about:blank")
        tab.goto(address)
        with contextlib.suppress(TimeoutError):
            tab.wait_for_selector(ready, timeout=TIMEOUT_MS / ATTEMPTS)
            return
    raise SystemExit(f"{address} shows no {ready}")


def settled(tab: Any, clip: dict[str, int]) -> bytes:
    """Take pictures of the window until two successive pictures are equal. Return the last picture."""
    before: bytes = tab.screenshot(clip=clip)
    while True:
        tab.wait_for_timeout(PAUSE_MS)
        now: bytes = tab.screenshot(clip=clip)
        if now == before:
            return now
        before = now


def write(picture: Image.Image, path: Path) -> None:
    """Write a picture as a PNG with a palette. The palette halves the size of the file."""
    colours: list[Any] = sorted(picture.getcolors(1 << 24) or [], reverse=True)  # (count, (red, green, blue))
    rare = picture.quantize(RARE, method=Image.Quantize.MAXCOVERAGE).getpalette() or []
    listed = [part for _, colour in colours[:FREQUENT] for part in colour] + rare[: 3 * RARE]
    palette = np.array(listed, dtype=np.int32).reshape(-1, 3)
    parts = np.asarray(picture, dtype=np.int32)
    found, places = np.unique(parts @ (65536, 256, 1), return_inverse=True)
    found = np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)
    nearest = np.array([np.square(palette - colour).sum(1).argmin() for colour in found], dtype=np.uint8)
    few = Image.fromarray(nearest[places].reshape(picture.height, picture.width), mode="P")
    few.putpalette(listed)
    few.save(path, optimize=True)
    print(f"{path}  {path.stat().st_size / 1000:.0f} kB", flush=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Make the pictures of all views, or of the views in `--only`."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run directory")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "images" / "page", help="folder of the pictures")
    parser.add_argument("--turn", action="append", default=[], metavar="RUN=EPISODE/TURN", help="turn of RUN to show")
    parser.add_argument("--only", nargs="+", default=(), metavar="VIEW", help="views to make; default: all")
    given = parser.parse_args(arguments)
    given.out.mkdir(parents=True, exist_ok=True)
    with serve(given.runs) as server, sync_playwright() as playwright:
        wanted = [
            shot
            for shot in shots(server, dict(each.split("=", 1) for each in given.turn))
            if not given.only or shot.name in given.only
        ]
        path = next(filter(None, map(shutil.which, BROWSERS)), None)
        browser = playwright.chromium.launch(executable_path=path, args=OPTIONS)
        for width in HEIGHTS:
            for theme in THEMES:
                window: ViewportSize = {"width": width, "height": HEIGHTS[width]}
                context = browser.new_context(viewport=window, color_scheme=theme, reduced_motion="reduce")
                context.set_default_timeout(TIMEOUT_MS)
                tab = context.new_page()
                for shot in wanted:
                    write(take(tab, server, shot, width), given.out / f"{shot.name}-{width}-{theme}.png")
                context.close()
        browser.close()


if __name__ == "__main__":
    main()
