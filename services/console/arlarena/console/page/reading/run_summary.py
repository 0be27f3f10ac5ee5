"""Reads the state and the results of a run from its small files. Missing or damaged files count as empty."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any, Literal

import msgspec
import tomli_w

from arlarena.console.page.reading.run_files import BoundedFiles, DamagedFile
from arlarena.proto.text.redaction import masked, redact

# In seconds. A run that is not locked counts as running if one of its `LIVE_FILES` has changed in this time.
ACTIVE_S = 120.0
# Files that a running run changes often.
LIVE_FILES = ("progress/train-step.json", "progress/train.jsonl", "progress/clone.jsonl", "metrics.jsonl", "run.json")
LOG_TAIL_BYTES, MAX_ALARMS = 1 << 20, 10_000

RunPhase = Literal["running", "finished", "stopped", "failed", "inactive"]


def read_object(files: BoundedFiles, name: str) -> dict[str, Any]:
    """Returns the JSON object in a file, or {} if the file is missing, unreadable, too large, or no JSON object."""
    try:
        data = files.read(name)
        return msgspec.json.decode(data, type=dict[str, Any]) if data else {}
    except (DamagedFile, msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return {}


def configuration(files: BoundedFiles) -> dict[str, Any]:
    """Returns the tables of `config.toml`, or {} if the file is missing, unreadable, too large or malformed."""
    try:
        data = files.read("config.toml")
        return tomllib.loads(data.decode()) if data else {}
    except (DamagedFile, tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError):
        return {}


def table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns the table `name`, or {} if it is missing or is not a table."""
    found = tables.get(name)
    return found if isinstance(found, dict) else {}


def is_locked(root: Path) -> bool | None:
    """Returns whether a process holds the lock of the run directory. Returns None if this cannot be known.

    Reads the system's list of locks. If this function locked the file, an `arlarena up` could fail at that moment.
    """
    try:
        inode = (root / ".lock").stat().st_ino
        held = Path("/proc/locks").read_text()
    except OSError:
        return None
    return any(line.split()[1:2] == ["FLOCK"] and f":{inode} " in line for line in held.splitlines())


def phase(files: BoundedFiles, now: float) -> RunPhase:
    """Returns the state of a run at the time `now` (seconds since the epoch).

    "inactive": the run has not finished, shows no activity, and recorded no reason for its end.
    """
    if read_object(files, "run.json").get("finished") is True:
        return "finished"
    if is_locked(files.root):
        return "running"
    changed = [state.mtime for name in LIVE_FILES if (state := files.state(name))]
    ending = read_object(files, "training.json").get("ended_by")
    if changed and now - max(changed) < ACTIVE_S and ending not in ("error", "signal"):
        return "running"
    return "failed" if ending == "error" else "stopped" if ending == "signal" else "inactive"


def activity(files: BoundedFiles) -> dict[str, Any] | None:
    """Returns the trainer's record of its current step (`train-step.json`), or None if there is no record."""
    return read_object(files, "progress/train-step.json") or None


def evaluations(files: BoundedFiles) -> list[dict[str, Any]]:
    """Returns the results of the evaluations, ordered by the modification times of their files."""
    found = sorted(files.list("eval_sets", ".json"), key=lambda file: file.mtime)
    kept = ("success", "ci95", "episodes", "environment", "by_kind", "by_difficulty", "return", "turns", "errors")
    results = []
    for file in found:
        result = read_object(files, file.name)
        label = file.name.rpartition("/")[2].removesuffix(".json")
        results.append({"label": label} | {key: result.get(key) for key in kept})
    return results


def logged_alarms(files: BoundedFiles) -> list[dict[str, Any]]:
    """Returns at most `MAX_ALARMS` warnings and errors from the logs of a run, newest first.

    Reads only the last `LOG_TAIL_BYTES` bytes of each log.
    """
    alarms = []
    for file in files.list("logs", ".log"):
        try:
            tail = files.tail(file.name, LOG_TAIL_BYTES)
        except DamagedFile:
            continue
        alarms += [alarm for line in tail.splitlines() if (alarm := _alarm(line)) is not None]
    alarms.sort(key=lambda alarm: alarm["ts"], reverse=True)
    return alarms[:MAX_ALARMS]


class _LogLine(msgspec.Struct):
    ts: float
    level: str
    event: str
    service: str = ""


def _alarm(line: bytes) -> dict[str, Any] | None:
    if b'"warning"' not in line and b'"error"' not in line:
        return None
    try:
        head = msgspec.json.decode(line, type=_LogLine)
        fields = msgspec.json.decode(line, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    if head.level not in ("warning", "error"):
        return None
    for key in ("ts", "level", "event", "service"):
        fields.pop(key, None)
    step = fields.pop("step", None)
    fields = {key[:100]: redact(value[:2000]) if isinstance(value, str) else value for key, value in fields.items()}
    message = str(fields.get("reason") or ", ".join(f"{key} = {value}" for key, value in fields.items()))
    return {
        "ts": head.ts,
        "level": head.level,
        "service": head.service[:100],
        "event": head.event[:100],
        "step": step if isinstance(step, int) else None,
        "message": message[:2000],
        "fields": fields,
    }


def masked_configuration(files: BoundedFiles) -> str | None:
    """Returns `config.toml` with masked secrets and without comments, or None if the file cannot be read."""
    tables = configuration(files)
    return tomli_w.dumps(masked(tables)) if tables else None
