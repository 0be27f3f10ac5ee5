"""Controls a headless Chromium with its DevTools protocol."""

from __future__ import annotations

import base64
import contextlib
import itertools
import json
import re
import shutil
import subprocess
import tempfile
import urllib.request

from websockets.sync.client import connect

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
LOAD_S = 30.0


def browser_path():
    """Return the path of the browser's program, or None."""
    return next(filter(None, map(shutil.which, BROWSERS)), None)


class Tab:
    """A tab of the browser."""

    def __init__(self, connection):
        self._connection, self._ids = connection, itertools.count(1)
        self._events = []  # the events since the last wait
        self.call("Page.enable")

    def call(self, method, **parameters):
        """Execute a DevTools command. Return its result."""
        number = next(self._ids)
        self._connection.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._connection.recv(timeout=LOAD_S))
            if message.get("id") == number:
                assert "error" not in message, message["error"]
                return message["result"]
            self._events.append(message)

    @contextlib.contextmanager
    def navigation(self):
        """Run a block that opens another page. Then wait until the page is loaded, or restored from the cache."""
        self._events.clear()
        yield
        while not any(map(_is_shown, self._events)):
            self._events.append(json.loads(self._connection.recv(timeout=LOAD_S)))

    def open(self, url):
        with self.navigation():
            self.call("Page.navigate", url=url)

    def back(self):
        """Press the browser's Back button."""
        history = self.call("Page.getNavigationHistory")
        entry = history["entries"][history["currentIndex"] - 1]
        with self.navigation():
            self.call("Page.navigateToHistoryEntry", entryId=entry["id"])

    def value(self, expression):
        """Return the value of a JavaScript expression on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def press(self, text):
        """Click the first enabled button with `text` in its text. Wait for the next page."""
        find = (
            f"[...document.querySelectorAll('button:enabled')].find(one => one.innerText.includes({json.dumps(text)}))"
        )
        self.value(f"{find}.scrollIntoView({{block: 'center'}})")
        box = self.value(f"(box => [box.x + box.width / 2, box.y + box.height / 2])({find}.getBoundingClientRect())")
        with self.navigation():
            for kind in ("mousePressed", "mouseReleased"):
                self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def search(self, words):
        """Type words into the search box, and press Enter. Wait for the next page."""
        self.value("document.querySelector('input[type=search]').select()")
        self.call("Input.insertText", text=words)
        enter = {"key": "Enter", "code": "Enter", "windowsVirtualKeyCode": 13}
        with self.navigation():
            self.call("Input.dispatchKeyEvent", type="keyDown", text="\r", **enter)
        self.call("Input.dispatchKeyEvent", type="keyUp", **enter)

    def text(self):
        return self.value("document.body.innerText")

    def resize(self, width, height, *, dark=False):
        mobile = width < 500
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        self.call("Emulation.setEmulatedMedia", features=features)

    def screenshot(self, path):
        self.value("scrollTo(0, 0)")
        image = self.call("Page.captureScreenshot", format="png")
        path.write_bytes(base64.b64decode(image["data"]))


def _is_shown(event):
    restored = event.get("params", {}).get("type") == "BackForwardCacheRestore"
    return event.get("method") == "Page.loadEventFired" or (event.get("method") == "Page.frameNavigated" and restored)


@contextlib.contextmanager
def open_tab(url):
    """Start a browser. Yield a tab that shows `url`."""
    with tempfile.TemporaryDirectory(prefix="chromium-", ignore_cleanup_errors=True) as folder:
        command = [
            browser_path(), "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
            "--disable-background-networking", "--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        try:
            port = next(found[1] for line in process.stderr if (found := re.search(r"ws://[^:]+:(\d+)/", line)))
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json", timeout=LOAD_S) as answer:
                target = next(one for one in json.load(answer) if one["type"] == "page")
            with connect(target["webSocketDebuggerUrl"], max_size=None, proxy=None) as connection:
                tab = Tab(connection)
                tab.open(url)
                yield tab
        finally:
            process.kill()
            process.wait()
            process.stderr.close()
