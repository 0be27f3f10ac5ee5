"""An exception in one session's step fails that item of a batch alone."""

from cases.case_support import ODD, call, check, finish, serving, session

with serving("-c", ODD) as at:
    good, bad = session(at, index=0), session(at, index=1)
    items = [
        {"session_id": one, "op": "step", "action": {"text": text}, "step_index": 0}
        for one, text in ((good, "go"), (bad, "raise"))
    ]
    status, body = call(at, "POST", "/v1/batch", {"items": items})
    check("status of the batch", status, 200)
    check("its items", [one["ok"] for one in body.get("results", [])], [True, False])
finish()
