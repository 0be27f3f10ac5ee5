"""What schemathesis is told about our API: names that exist, in two of three requests.

Random names only ever meet a 404. `fuzz.py` has schemathesis load this file, in an environment of its own.
"""

import json
import random
import time
import urllib.request

import schemathesis

LIVES_S = 1.5  # shorter than the session_ttl_s of fuzz.py


class Living:
    """A session and a snapshot that exist. They are replaced before the server ends them."""

    def __init__(self):
        self.random = random.Random(0)
        self._names, self._until = {}, 0.0

    def names(self, base):
        """Return values of path parameters for which a session or snapshot exists."""
        if time.monotonic() > self._until:
            session = self._post(base + "/v1/sessions", {"reset": [{}]})["sessions"][0]["session_id"]
            snapshot = self._post(f"{base}/v1/sessions/{session}/snapshot", {})["snapshot_id"]
            self._names = {"session_id": session, "snapshot_id": snapshot, "env": "sokoban"}
            self._until = time.monotonic() + LIVES_S
        return self._names

    def forget(self):
        """Create a new session and snapshot next time, because a request may have closed the present ones."""
        self._until = 0.0

    @staticmethod
    def _post(url, body):
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.loads(reply.read())


LIVING = Living()


@schemathesis.hook
def before_call(context, case, kwargs):
    """Replace random names in path and body by names that exist."""
    if LIVING.random.random() < 0.33:
        return
    try:
        names = LIVING.names(case.operation.base_url.rstrip("/"))
    except OSError:  # the fuzz itself holds all that a client may have; its sessions end soon
        return
    for name in set(case.path_parameters or {}) & set(names):
        case.path_parameters[name] = names[name]
    items = case.body.get("items") if isinstance(case.body, dict) else None
    for part in [case.body, *(items if isinstance(items, list) else [])]:
        if isinstance(part, dict) and isinstance(part.get("session_id"), str):
            part["session_id"] = names["session_id"]
        if isinstance(part, dict) and isinstance(part.get("split"), str):
            part["split"] = LIVING.random.choice(["train", "validation", "test"])
    if case.method == "DELETE":
        LIVING.forget()
