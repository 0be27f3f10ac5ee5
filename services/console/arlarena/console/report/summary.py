"""`summary.json`: the results of a run."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import msgspec

from arlarena.console.launch.failures import LaunchError
from arlarena.console.report.ending import read_ending
from arlarena.console.rundir import RunDirectory
from arlarena.proto.atomic_files import write_json
from arlarena.proto.text.wording import counted

SCHEMA = 2
OUTCOMES = ("trained", "filtered", "stale", "empty", "skipped", "dead")


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object written by a stage.

    Raises:
        LaunchError: the file is missing or malformed.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.MsgspecError) as error:
        raise LaunchError(f"{path} cannot be read: {error}") from error


def read_records(path: Path) -> list[dict[str, Any]]:
    """Read JSON lines. Skips lines that are not JSON, such as a truncated last line after a crash.

    Returns an empty list if the file is missing.
    """
    try:
        lines = path.read_bytes().splitlines()
    except FileNotFoundError:
        return []
    records = []
    for line in lines:
        try:
            records.append(msgspec.json.decode(line, type=dict[str, Any]))
        except msgspec.MsgspecError:
            continue
    return records


def read_steps(path: Path) -> list[dict[str, Any]]:
    """Returns the records of metrics.jsonl, sorted by step. If a step occurs twice, returns its last record."""
    steps = {record["step"]: record for record in read_records(path) if isinstance(record.get("step"), int)}
    return [steps[step] for step in sorted(steps)]


def _score(eval_set: dict[str, Any], path: Path) -> dict[str, Any]:
    if "success" not in eval_set:
        raise LaunchError(f"{path}: no episode of the evaluation set could be played")
    kept = ("success", "ci95", "format_valid", "action_valid", "errors", "versions", "by_kind")
    score = {key: eval_set[key] for key in kept if key in eval_set}
    for key in ("return", "turns"):
        if isinstance(eval_set.get(key), dict):
            score[key] = eval_set[key].get("mean")
    return score


def _versions() -> dict[str, str]:
    versions = {}
    for name in ("arlarena-console", "torch", "transformers"):
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def summarise(
    run: RunDirectory, environment: str, method: str, seed: int, training_split: str = "train"
) -> dict[str, Any]:
    """Returns the summary of a finished run, from the files of its stages. `training_split`: the split of training.

    `groups` counts the groups by outcome. `trained`: used for training. `filtered`: removed by the filter. `stale`: all
    episodes were too old. `empty`: no episode had a turn. `skipped`: the optimiser update was skipped. `dead`: could
    not be played or read. Groups that were unfinished at the end of training are not counted.

    Raises:
        LaunchError: an evaluation is missing, or the two evaluations used different evaluation sets.
    """
    before, after = read_json(run.eval_set("before")), read_json(run.eval_set("after"))
    tasks, tasks_after = before["eval_set"], after["eval_set"]
    if tasks != tasks_after:
        raise LaunchError(
            f"the evaluation sets before and after differ: {tasks} and {tasks_after}; start the run again with --fresh"
        )
    steps = read_steps(run.metrics)
    last = steps[-1] if steps else {}
    first, second = _score(before, run.eval_set("before")), _score(after, run.eval_set("after"))
    return {
        "schema": SCHEMA,
        "env": environment,
        "method": method,
        "seed": seed,
        "started": run.state.started,
        "command": run.state.command,
        "code": run.state.code,
        "data": after.get("data"),
        "training_split": training_split,
        "eval_set": {**before["eval_set"], "temperature": before.get("temperature")},
        "before": first,
        "after": second,
        "gain": round(second["success"] - first["success"], 4),
        "intervals_overlap": not (second["ci95"][0] > first["ci95"][1] or first["ci95"][0] > second["ci95"][1]),
        "well_formed": {"before": first.get("format_valid"), "after": second.get("format_valid")},
        "wall_s": round(run.state.wall_s, 1),
        "stages_s": {name: round(seconds, 1) for name, seconds in run.state.stages.items()},
        "steps": int(last.get("step", 0)),
        "training": read_ending(run.training),
        "environment_steps": int(last.get("environment_steps", 0)),
        "groups": {outcome: int(last.get(f"total_{outcome}", 0)) for outcome in OUTCOMES},
        "restarts": run.state.restarts,
        "versions": _versions(),
    }


def write_summary(run: RunDirectory, summary: dict[str, Any]) -> None:
    """Write `summary.json` atomically."""
    write_json(run.summary, summary)


def describe_eval_set(summary: dict[str, Any]) -> str:
    """Returns text such as `512 unseen tasks of split test`, or `8 tasks of the training split train`."""
    count, split = summary["eval_set"]["n"], summary["eval_set"].get("split", "?")
    if split == summary.get("training_split"):
        return f"{counted(count, 'task')} of the training split {split}"
    return f"{counted(count, 'unseen task')} of split {split}"


def describe_filtered(groups: int) -> str:
    """Returns text such as `55 groups filtered`. Returns "" for 0 groups."""
    return f"{counted(groups, 'group')} filtered" if groups else ""


def count_unit(record: dict[str, Any]) -> str:
    """Returns the unit of a record's counts: "tasks", or "attempts" if each task has several attempts."""
    return "attempts" if (record.get("eval_set") or {}).get("attempts", 1) > 1 else "tasks"


def data_warning(record: dict[str, Any]) -> str | None:
    """Returns a warning if the tasks are not the official tasks of the benchmark, else None."""
    data = record.get("data") or {}
    return f"Not comparable with published results: {data['description']}" if data.get("official") is False else None
