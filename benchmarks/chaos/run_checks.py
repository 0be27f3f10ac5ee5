"""Checks a run whose containers were killed: groups, staleness, records, rewards, `arlarena verify`."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

from arlarena.proto.trajectory import Group, read_groups
from benchmarks.demo.chaos_checks import json_lines, lineage_problems, reward_problems
from benchmarks.support.paths import ROOT

SHOWN = 20  # maximum number of problems of one kind in the result


def check_run(run: Path, *, verify: bool = True) -> dict[str, Any]:
    """Check a finished run. Return the results of the checks.

    The key `problems` of the result is a list of descriptions. It is empty if the run has no problem.

    Args:
        run: a copy of the run directory.
        verify: also execute `arlarena verify`, which starts an environment server.
    """
    trainer = tomllib.loads((run / "config.toml").read_text())["trainer"]
    problems, outcomes = lineage_problems(run, trainer["steps"])
    wrong_rewards, played = reward_problems(run)
    age, too_old = staleness(run, trainer.get("staleness", 1))
    problems += wrong_rewards[:SHOWN] + too_old[:SHOWN]
    if outcomes["dead"]:
        problems.append(f"{outcomes['dead']} groups became dead letters")
    status = arlarena("status", str(run), "--json")
    if status.returncode:
        problems.append(f"arlarena status: exit status {status.returncode}: {status.stdout}{status.stderr}")
    found = {
        "problems": problems,
        "steps": trainer["steps"],
        "groups": {"issued": sum(outcomes.values()), **outcomes},
        "age_max": age,
        "staleness": trainer.get("staleness", 1),
        "played_again": dict(played),
        "status": json.loads(status.stdout).get("state") if not status.returncode else None,
    }
    if verify:
        verified = arlarena("verify", str(run))
        found["verify"] = verified.returncode
        if verified.returncode:
            problems.append(f"arlarena verify: exit status {verified.returncode}: {verified.stdout[-3000:]}")
    return found


def staleness(run: Path, bound: int) -> tuple[int, list[str]]:
    """Return (largest age of a trained sample, descriptions of samples and groups that are older than `bound`).

    The age of an episode is the number of training steps since the oldest version that sampled one of its tokens. The
    largest age comes from the trainer's metrics. The recorded groups allow an independent check: at least one episode
    of each group must not be older than `bound`.
    """
    records = json_lines(run / "metrics.jsonl")
    ages = {record["step"]: int(record["age_max"]) for record in records}
    problems = [
        f"step {step}: a sample of age {age}, the bound is {bound}" for step, age in ages.items() if age > bound
    ]
    for file in sorted(run.glob("groups/step-*.msgpack")):
        step = int(file.stem.removeprefix("step-")) - 1
        for group in read_groups(file):
            if (age := youngest_age(group, step)) > bound:
                problems.append(f"{file.name}: all episodes of {group.id} are at least {age} steps old")
    return max(ages.values(), default=0), problems


def youngest_age(group: Group, step: int) -> int:
    """Return the smallest age of an episode of the group, in training steps. `step`: the group's training step."""
    oldest = [
        min(span.version.step for turn in episode.turns for span in turn.spans)
        for episode in group.trajectories
        if any(turn.spans for turn in episode.turns)
    ]
    return step - max(oldest, default=step)


def arlarena(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Execute the command `arlarena` of this checkout with these arguments. Return its exit status and output."""
    command = [sys.executable, "-m", "arlarena.console", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
