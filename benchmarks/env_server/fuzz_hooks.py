"""Hooks for schemathesis: in two of three requests, names of existing objects replace random names.

With random session and snapshot ids, almost all replies would have status 404. `fuzz.py` passes this file to
schemathesis, which runs in a separate virtual environment.
"""

import json
import random
import time
import urllib.request
from typing import Any

import schemathesis

LIFETIME_S = 1.5  # seconds; must be less than the session_ttl_s of fuzz.py


class ExistingObjects:
    """A session and a snapshot that exist on the server. They are replaced by new objects before they expire."""

    def __init__(self) -> None:
        self.random = random.Random(0)
        self._names: dict[str, str] = {}
        self._until = 0.0

    def names(self, base: str) -> dict[str, str]:
        """Return the names of an existing session, snapshot and environment: path parameter → name.

        `base`: base URL of the server.
        """
        if time.monotonic() > self._until:
            session = self._post(base + "/v1/sessions", {"reset": [{}]})["sessions"][0]["session_id"]
            snapshot = self._post(f"{base}/v1/sessions/{session}/snapshot", {})["snapshot_id"]
            self._names = {"session_id": session, "snapshot_id": snapshot, "env": "sokoban"}
            self._until = time.monotonic() + LIFETIME_S
        return self._names

    def forget(self) -> None:
        """Let the next call of `names` create new objects. A request may have deleted the session or the snapshot."""
        self._until = 0.0

    @staticmethod
    def _post(url: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.loads(reply.read())


EXISTING = ExistingObjects()


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: dict[str, Any]) -> None:
    """In two of three requests, replace random names by names of existing objects. Schemathesis calls this function.

    The names are in the path and in the body of the request.
    """
    if EXISTING.random.random() < 0.33:
        return
    try:
        names = EXISTING.names(case.operation.base_url.rstrip("/"))
    except OSError:  # the fuzzer has as many sessions as a client may have; they expire soon
        return
    for name in set(case.path_parameters or {}) & set(names):
        case.path_parameters[name] = names[name]
    items = case.body.get("items") if isinstance(case.body, dict) else None
    for part in [case.body, *(items if isinstance(items, list) else [])]:
        if isinstance(part, dict) and isinstance(part.get("session_id"), str):
            part["session_id"] = names["session_id"]
        if isinstance(part, dict) and isinstance(part.get("split"), str):
            part["split"] = EXISTING.random.choice(["train", "validation", "test"])
    if case.method == "DELETE":
        EXISTING.forget()
