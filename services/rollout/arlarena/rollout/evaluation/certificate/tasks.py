"""Checks the tasks of a run by their content.

Evaluation tasks must not be used for training or for behaviour cloning. A recorded episode must start at its task.

A run does not record the content of its training tasks. Environments are deterministic, so the content can be computed
again: each task is reset once, and the environment reports the hash of the task's content.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from arlarena.proto.env_api import Info
from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Task
from arlarena.rollout.evaluation.certificate.checks import Evidence
from arlarena.rollout.evaluation.certificate.recorded import RecordedEpisode
from arlarena.rollout.evaluation.certificate.run_files import EvaluationFile, RunFiles
from arlarena.rollout.evaluation.served import reset_tasks
from arlarena.rollout.evaluation.sets.digest import tasks_digest
from arlarena.rollout.runner import Runner

# Maximum number of tasks in one call of `reset_tasks`. It limits memory: `reset_tasks` returns complete episodes, but
# only the `FirstState` of each episode is kept.
CHUNK = 1024


@dataclass(frozen=True, slots=True)
class FirstState:
    """The state of a task after its reset. `content_key` is "" if the environment has no content keys."""

    content_key: str
    state_key: str
    observation: str
    images: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class UsedTask:
    """A task of training or of behaviour cloning. `used_by`: name of the group or the demonstration, for messages."""

    task: Task
    used_by: str


FirstStates = Mapping[Task, FirstState]


def training_tasks(run: RunFiles) -> list[UsedTask]:
    """Returns the tasks of all issued groups (from the task order) and of all recorded groups (from the records)."""
    used = [UsedTask(task, f"training group {group}") for group, task in run.issued_tasks().items()]
    used += [
        UsedTask(group.task, f"training group {group.id} of {source}")
        for source, groups in run.recorded.items()
        for group in groups
    ]
    return used


def cloning_tasks(run: RunFiles) -> list[UsedTask]:
    """Returns the tasks of all demonstrations, for training and for early stopping."""
    return [
        UsedTask(group.task, f"{group.id} of {source}") for source, groups in run.cloning.items() for group in groups
    ]


def missing_reason(task: Task, info: Info) -> str | None:
    """Returns the reason why the served environment `info` lacks the task. Returns None if it has the task."""
    split = next((split for split in info.splits if split.name == task.split), None)
    if task.environment != info.name:
        return f"the environment is {info.name}"
    if split is None:
        return f"there is no split {task.split}"
    if split.size is not None and task.index >= split.size:
        return f"split {split.name} has only {counted(split.size, 'task')}"
    return None


async def first_states(runner: Runner, tasks: Iterable[Task]) -> dict[Task, FirstState]:
    """Reset each distinct task once. Returns the first state of each task.

    Raises:
        EvaluationError, ServicesDown, Refused: as in `reset_tasks`.
    """
    found: dict[Task, FirstState] = {}
    different = list(dict.fromkeys(tasks))
    for start in range(0, len(different), CHUNK):
        chunk = different[start : start + CHUNK]
        for task, episode in zip(chunk, await reset_tasks(runner, chunk), strict=True):
            first = episode.first
            found[task] = FirstState(
                first.metadata.content_key, first.metadata.state_key, first.observation.text, first.images
            )
    return found


def check_eval_tasks(evaluations: Sequence[EvaluationFile], states: FirstStates) -> Evidence:
    """Compare the recorded digest of each evaluation's tasks with the digest of these tasks on the server."""
    evidence = Evidence("evaluation tasks are those of the record", "evaluation")
    for evaluation in evaluations:
        played = evaluation.played
        if missing := [task for task in played if task not in states]:
            evidence.compare([f"{evaluation.label}: task {missing[0].id} does not exist on the environment"])
        elif not played:
            evidence.not_checked.append(f"{evaluation.label}: no episode was played")
        else:
            names = ((task.id, states[task].content_key or states[task].state_key) for task in played)
            digest, recorded = tasks_digest(names), evaluation.result["eval_set"]["digest"]
            same = digest == recorded
            evidence.compare([] if same else [f"{evaluation.label}: digest {digest} now, {recorded} in the record"])
    return evidence


def check_disjoint(
    name: str, evaluated: Sequence[Task], used: Sequence[UsedTask], states: FirstStates, info: Info
) -> Evidence:
    """Check that no task in `used` is an evaluation task: it must have another index and another content.

    `evaluated`: the evaluation tasks. `used`: the tasks of training or of behaviour cloning. `Evidence.checked` is the
    number of distinct tasks in `used` with a content key. It is 0 if no evaluation task has a content key.
    """
    evidence = Evidence(name, "task")
    held_out = {states[task].content_key: task for task in evaluated if task in states and states[task].content_key}
    same_task = {(task.split, task.index): task for task in evaluated}
    without_key: set[Task] = set()
    compared: set[Task] = set()
    for one in used:
        task, state = one.task, states.get(one.task)
        if leaked := same_task.get((task.split, task.index)):
            evidence.failures.append(f"{one.used_by} uses the evaluation task {leaked.id}")
        elif state is None:
            evidence.failures.append(f"{one.used_by}: task {task.id} cannot be reset: {missing_reason(task, info)}")
        elif leaked := held_out.get(state.content_key):
            text = f"{one.used_by}: task {task.id} has the content of the evaluation task {leaked.id}"
            evidence.failures.append(f"{text} ({state.content_key})")
        if state is not None:
            (compared if state.content_key else without_key).add(task)
    evidence.checked = len(compared) if held_out else 0
    if without_key:
        evidence.not_checked.append(f"{counted(len(without_key), 'task')}: the environment reports no content key")
    if not held_out:
        evidence.not_checked.append("no evaluation task has a content key")
    return evidence


def shared_note(cloning: Sequence[UsedTask], training: Sequence[UsedTask], states: FirstStates) -> str:
    """Returns a sentence with the number of distinct content keys that behaviour cloning and training share.

    Tasks without a content key are ignored. A shared task is not a failure: behaviour cloning and training may use the
    same tasks.
    """
    trained = {states[one.task].content_key for one in training if one.task in states}
    shared = {key for one in cloning if one.task in states and (key := states[one.task].content_key) and key in trained}
    return f"{counted(len(shared), 'task')} of cloning also used for training (this is permitted)"


def check_starts(episodes: Sequence[RecordedEpisode], states: FirstStates, evaluated: Sequence[Task]) -> Evidence:
    """Check that the first recorded state of every episode is the state of its task after a reset.

    This check finds episodes that were recorded under the name of another task. If the first observation belongs to an
    evaluation task, the failure names this evaluation task.
    """
    evidence = Evidence("recorded episodes start at their tasks", "episode")
    seen = {states[task].observation: task for task in evaluated if task in states}
    for episode in episodes:
        state = states.get(episode.task)
        if state is None or not episode.trajectory.turns:
            reason = "it has no turn" if state else "its task does not exist on the environment"
            evidence.not_checked.append(f"{episode}: {reason}")
            continue
        turn = episode.trajectory.turns[0]
        same = (turn.observation, turn.state_key) == (state.observation, state.state_key)
        same = same and (not episode.has_keys or turn.images == state.images)
        failure = f"{episode}: its first state is not the state after the reset"
        if (leaked := seen.get(turn.observation)) and leaked != episode.task:
            failure += f"; its first observation belongs to the evaluation task {leaked.id}"
        evidence.compare([] if same else [failure])
    return evidence
