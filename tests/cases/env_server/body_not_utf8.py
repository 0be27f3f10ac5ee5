"""A body that is not UTF-8, or holds a number of 5,000 digits, is the client's error, and not worth a retry."""

import json

from cases.case_support import call, check, environment, finish

BODIES = (
    ("latin-1 in a reset", "/reset", b'{"split": "caf\xe9"}'),
    ("latin-1 in a step", "/step", b'{"action": {"text": "caf\xe9"}}'),
    ("latin-1 in a batch", "/v1/batch", b'{"items": [{"session_id": "\xff", "op": "state"}]}'),
    ("a number of 5,000 digits", "/reset", json.dumps({"task_id": "sokoban/train/" + "9" * 5000}).encode()),
)

with environment("sokoban") as at:
    for what, path, raw in BODIES:
        status, body = call(at, "POST", path, raw=raw)
        check(what, (status, body.get("blame"), body.get("retryable")), (422, "client", False))
    check("a lone surrogate", call(at, "POST", "/reset", raw=b'{"split": "\\ud800"}')[0], 422)
finish()
