"""Writes a small evaluation in the format of a finished evaluation, for the tests of reports."""

import math
import struct
import zlib
from pathlib import Path

import msgspec

from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.records import (
    AttemptKey,
    AttemptRecord,
    EnvironmentPlan,
    EvaluationPlan,
    RequestEvent,
    TurnRecord,
)
from arlarena.rollout.evaluation.report.summary_view import GroupFigures
from arlarena.rollout.evaluation.statistics.intervals import success_rate

HOSTILE = (
    "</pre></details><script>document.title='owned'</script><img src=x onerror=\"document.title='owned'\">"
    "{{ 7*7 }} &lt; \u202eevil\x1b[31m =1+1"
)


def png(width=32, height=32, colour=(42, 111, 208)):
    """Return a picture of one colour as PNG bytes."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    rows = (b"\0" + bytes(colour) * width) * height
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def plan_of(*environments, model="openai/gpt-5", attempts=2, strategy="plain"):
    return EvaluationPlan(1, model, "", strategy, {}, {"temperature": 0.6}, environments, attempts, 7, True)


def environment_of(name="sokoban", indices=range(6), set_name=""):
    return EnvironmentPlan(name, "http://127.0.0.1:1", "1.2", "a1", "b2", {"size": 6}, "test", tuple(indices), set_name)


def turn_of(observation="#####\n#@$.#\n#####", response="<think>push</think><action>right</action>", **changes):
    values = {
        "observation": observation, "response": response, "action": "right", "reward": -0.1, "action_valid": True,
        "format_valid": True, "no_action": False, "state_key": "s", "finish": "stop", "images": (),
    }  # fmt: skip
    return TurnRecord(**(values | changes))


def record_of(name="sokoban", index=0, attempt=0, *, success=True, status="ok", kind="", turns=None, **changes):
    turns = (turn_of(), turn_of()) if turns is None else tuple(turns)
    values = {
        "key": AttemptKey(name, "test", index, attempt), "task_id": f"{name}:test:{index}",
        "content_key": f"content-{name}-{index}", "kind": kind, "status": status, "success": success,
        "score": float(success), "total_reward": 10.0 * success, "steps": len(turns), "terminated": True,
        "truncated": False, "turns": turns, "metrics": {"turns": float(len(turns)), "repeated_actions": 1.0},
        "usage": TokenUsage(1_000, 200, 50, 400), "requests": len(turns), "started": 1_790_000_000.0 + index,
        "seconds": 2.5,
        "error": "" if status in ("ok", "policy_error") else "the server did not answer",
        "final_observation": "done",
    }  # fmt: skip
    return AttemptRecord(**(values | changes))


def write_evaluation(directory, plan, records, images=None):
    """Write plan.json and journal.jsonl.

    The journal has a request before the end of each attempt. Its last line is incomplete, as after a kill.
    """
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "plan.json").write_bytes(msgspec.json.encode(plan))
    lines = []
    for record in records:
        lines.append(msgspec.json.encode(RequestEvent(record.key, 0, 0, 'say "event":"end"', "d", 0.0)))
        lines.append(msgspec.json.encode(record))
    journal = b"\n".join(lines) + b"\n" + msgspec.json.encode(records[-1])[:80] if records else b""
    (directory / "journal.jsonl").write_bytes(journal)
    for name, data in (images or {}).items():
        path = directory / "images" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)
    return Path(directory)


def summarise(records, k):
    """Return the figures of a group. Except for the success rate, they are computed without `evaluation.statistics`."""
    scored = [record for record in records if record.status in ("ok", "policy_error")]
    errors = {}
    for record in records:
        if record not in scored:
            errors[record.status] = errors.get(record.status, 0) + 1
    if not scored:
        return GroupFigures(0, k, 0, errors=errors)
    outcomes = {}
    for record in scored:
        outcomes.setdefault(record.key.index, []).append(record.success)
    found, _ = success_rate(outcomes)
    passes = {
        size: sum(
            1 - math.comb(len(one) - sum(one), size) / math.comb(len(one), size) for one in outcomes.values()
        ) / len(outcomes)
        for size in (1, 2)
        if all(len(one) >= size for one in outcomes.values())
    }  # fmt: skip
    names = sorted({name for record in scored for name in record.metrics})
    return GroupFigures(
        n=len(outcomes),
        k=k,
        attempts=len(scored),
        success=found.mean,
        ci95=(found.low, found.high),
        score=sum(record.score for record in scored) / len(scored),
        turns=sum(record.steps for record in scored) / len(scored),
        pass_at=passes,
        errors=errors,
        behaviour={name: sum(record.metrics.get(name, 0.0) for record in scored) / len(scored) for name in names},
    )


def small_evaluation(directory, model="openai/gpt-5"):
    """Write an evaluation with two environments, four kinds, all outcomes, a picture, and hostile replies."""
    sokoban, house = environment_of("sokoban", range(8), "sokoban-v1"), environment_of("alfworld", range(12))
    picture = png(96, 96)
    records = []
    for index in range(8):
        for attempt in range(2):
            turns = [turn_of(images=("a1.png",)), turn_of(response=HOSTILE, format_valid=False, action_valid=False)]
            records.append(record_of("sokoban", index, attempt, success=(index + attempt) % 3 == 0, turns=turns))
    kinds = ("pick_and_place", "clean", "heat", "look")
    for index in range(12):
        for attempt in range(2):
            status = "infra_error" if (index, attempt) == (11, 1) else "policy_error" if index == 5 else "ok"
            success = status == "ok" and index % 4 != 2
            text = "You are in the middle of a room. Looking quickly around you, you see a cabinet 1, a drawer 2."
            turns = [turn_of(text, "<action>go to cabinet 1</action>", action="go to cabinet 1") for _ in range(3)]
            one = record_of(
                "alfworld", index, attempt, success=success, status=status, kind=kinds[index % 4], turns=turns
            )
            records.append(one)
    plan = plan_of(sokoban, house, model=model)
    return write_evaluation(directory, plan, records, {"a1.png": picture})
