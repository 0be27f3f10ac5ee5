"""Checks the lineage of groups: each issued group has exactly one outcome, and no group is trained on twice."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import msgspec

from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Group, Task, encode
from arlarena.rollout.evaluation.certificate.checks import Evidence
from arlarena.rollout.evaluation.certificate.run_files import RepeatedKeys, RunFiles

# Outcomes of groups in the batch of a step. `skipped`: the loss or the gradient was not finite, so no update was made.
IN_BATCH = frozenset({"trained", "skipped"})

Lineage = dict[str, tuple[str, int]]


def check_lineage(run: RunFiles) -> Evidence:
    """Check the ledger of the newest checkpoint. Compare it with the older ledgers, and with metrics.jsonl.

    A ledger lists the outcome of each group.
    """
    evidence = Evidence("each group has exactly one outcome", "group")
    state = run.newest_state
    if state is None:
        evidence.not_checked.append("the run has no checkpoint")
        return evidence
    lineage = _lineage(state)
    evidence.compare(_repeated(run), 0)
    evidence.compare(_ledger_faults(run, state, lineage), state["ledger"]["next_index"])
    for path in run.checkpoints[:-1]:
        evidence.compare(
            _changed_outcomes(run, path.name, _lineage(json.loads((path / "state.json").read_text())), lineage), 0
        )
    evidence.compare(_metric_faults(run, lineage), 0)
    return evidence


def _lineage(state: dict[str, Any]) -> Lineage:
    return {group: (outcome, step) for group, (outcome, step) in state["ledger"]["lineage"].items()}


def _repeated(run: RunFiles) -> Iterator[str]:
    for path in run.checkpoints:
        try:
            run.state(path)
        except RepeatedKeys as error:
            yield f"{run.relative(path)}: more than one outcome of {error}"


def _ledger_faults(run: RunFiles, state: dict[str, Any], lineage: Lineage) -> Iterator[str]:
    still_open = state["ledger"]["open"]
    issued = run.issued_tasks()
    for group in issued:
        if group not in still_open and group not in lineage:
            yield f"{group} was issued, but has no outcome"
        elif group in still_open and group in lineage:
            yield f"{group} is open, but was {lineage[group][0]} in step {lineage[group][1] + 1}"
    for group in sorted((still_open.keys() | lineage.keys()) - issued.keys()):
        yield f"{group} is in the ledger, but was never issued"
    finished = json.loads((run.path / "run.json").read_text()).get("finished", False)
    if finished and still_open:
        yield f"the run is finished, but {counted(len(still_open), 'group')} have no outcome: {min(still_open)}, …"
    for group, (outcome, step) in lineage.items():
        if step > state["step"] or (outcome in IN_BATCH and step >= state["step"]):
            yield f"{group} was {outcome} in step {step + 1}, after the checkpoint of step {state['step']}"


def _changed_outcomes(run: RunFiles, name: str, older: Lineage, newest: Lineage) -> Iterator[str]:
    for group, outcome in older.items():
        if newest.get(group) != outcome:
            yield f"{name} has {group} {_text(outcome)}, but the newest checkpoint has it {_text(newest.get(group))}"


def _text(outcome: tuple[str, int] | None) -> str:
    return "without an outcome" if outcome is None else f"{outcome[0]} in step {outcome[1] + 1}"


def _metric_faults(run: RunFiles, lineage: Lineage) -> Iterator[str]:
    """Compare the number of groups in each step's batch with metrics.jsonl. Yield one text for each difference."""
    path = run.path / "metrics.jsonl"
    if not path.is_file():
        return
    batches = Counter(step for outcome, step in lineage.values() if outcome in IN_BATCH)
    records: list[dict[str, Any]] = [json.loads(line) for line in path.read_text().splitlines()]
    steps = [record["step"] for record in records]
    for step, count in Counter(steps).items():
        if count > 1:
            yield f"metrics.jsonl has {count} records of step {step}"
    last = (run.newest_state or {}).get("step", 0)
    for record in records:
        wanted, found = record["groups_kept"] + record["groups_backfilled"], batches[record["step"] - 1]
        if record["step"] <= last and found != wanted:
            ledger = f"step {record['step']} trained on {found} groups according to the ledger"
            yield f"{ledger}, but on {wanted:g} groups according to metrics.jsonl"


def check_batches(run: RunFiles) -> Evidence:
    """Check each recorded batch of a step.

    The step must have trained on each group of the batch, and no other step may have done so. Each group must have the
    task that the task order gives to the group. The weights that sampled the group must be versions of the run.
    """
    evidence = Evidence("recorded batches agree with the lineage", "group")
    state = run.newest_state
    if not run.recorded or state is None:
        evidence.not_checked.append("no batch is recorded ([trainer] record_groups_every)")
        return evidence
    lineage, tasks = _lineage(state), run.issued_tasks()
    known: dict[str, int] = state["versions"]
    places: dict[str, str] = {}
    contents: dict[bytes, str] = {}
    for source, groups in run.recorded.items():
        step = int(source.rpartition("-")[2].partition(".")[0])
        for group in groups:
            evidence.compare(f"{source}: {reason}" for reason in _group_faults(group, step, lineage, tasks, known))
            if group.id in places:
                evidence.failures.append(f"{group.id} was trained twice: in {places[group.id]} and in {source}")
            elif (content := _content(group)) in contents:
                evidence.failures.append(f"{source}: {group.id} has the episodes of {contents[content]}: trained twice")
            places.setdefault(group.id, source)
            contents.setdefault(_content(group), group.id)
    steps = len({step for outcome, step in lineage.values() if outcome in IN_BATCH})
    evidence.notes.append(f"{len(run.recorded)} of {counted(steps, 'step')} recorded")
    return evidence


def _content(group: Group) -> bytes:
    """Returns a hash of the group without the ids of the group and its episodes.

    The hash includes measured durations. Two groups with the same hash are therefore copies of each other.
    """
    episodes = tuple(msgspec.structs.replace(trajectory, id="") for trajectory in group.trajectories)
    return hashlib.blake2b(
        encode(msgspec.structs.replace(group, id="", trajectories=episodes)), digest_size=16
    ).digest()


def _group_faults(
    group: Group, step: int, lineage: Lineage, tasks: dict[str, Task], known: dict[str, int]
) -> Iterator[str]:
    outcome = lineage.get(group.id)
    if outcome is None:
        yield f"{group.id} has no outcome"
    elif outcome[0] not in IN_BATCH:
        yield f"{group.id} is in the batch, but its outcome is {outcome[0]}"
    elif outcome[1] != step - 1:
        yield f"{group.id} is in the batch of step {step}, but was {outcome[0]} in step {outcome[1] + 1}"
    if group.id in tasks and group.task != tasks[group.id]:
        yield f"{group.id} plays {group.task.id}, but {tasks[group.id].id} was issued"
    if len(group.trajectories) != group.size:
        yield f"{group.id} has {len(group.trajectories)} of {group.size} episodes"
    spans = {span.version for each in group.trajectories for turn in each.turns for span in turn.spans}
    for version in sorted(spans, key=str):
        if known.get(version.digest) != version.step:
            yield f"{group.id} was sampled by {version}, which is not a version of the run"
