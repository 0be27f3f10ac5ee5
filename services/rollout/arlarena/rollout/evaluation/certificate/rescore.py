"""`arlarena rescore DIR`: judges recorded episodes again, without inference.

The recorded replies are played on the current environment, for example after a correction of its judge or its rewards.
Prompts are not used, so a changed template has no effect. If an observation differs from the record, the later replies
do not fit the new observations. Such an episode is marked as `diverged`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from pydantic import SecretStr

from arlarena.proto.atomic_files import write_json
from arlarena.proto.env_api import Info
from arlarena.proto.served import ServedEnvironment
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import Trajectory
from arlarena.rollout.episode import EpisodeRecord
from arlarena.rollout.evaluation.certificate.recorded import NO_MORE_REPLIES, RecordedEpisode, attempt_episode
from arlarena.rollout.evaluation.certificate.replay import play_recorded
from arlarena.rollout.evaluation.certificate.run_files import RunFiles
from arlarena.rollout.evaluation.certificate.tasks import missing_reason
from arlarena.rollout.evaluation.directory import JOURNAL, PLAN, read_evaluation
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.openenv.rules import PARSER_VERSION
from arlarena.rollout.evaluation.records import EnvironmentPlan
from arlarena.rollout.evaluation.served import configured_process, connected_runner, environment_process
from arlarena.rollout.evaluation.sets.standard import find_set
from arlarena.rollout.settings import RolloutSettings, load_addresses, load_rollout

SCHEMA = 1
RESCORED = "rescored.json"


class Judgement(msgspec.Struct, frozen=True):
    """How an episode ended. `total_reward`: the undiscounted sum of its rewards. `score`: in [0, 1]."""

    success: bool
    score: float
    total_reward: float


class RescoredEpisode(msgspec.Struct, frozen=True):
    """One episode of `rescored.json`.

    Attributes:
        source: the file of the episode.
        episode: name of the episode within the file.
        task: id of the task.
        old: the recorded judgement.
        new: the judgement of the current environment, or None if the episode could not be played.
        diverged: True if an observation differs from the record.
        unfinished: True if the episode continues after the last recorded reply. `new` then judges the last state.
        problem: the reason why the episode could not be played; "" if it was played.
    """

    source: str
    episode: str
    task: str
    old: Judgement
    new: Judgement | None
    diverged: bool = False
    unfinished: bool = False
    problem: str = ""

    @property
    def changed(self) -> bool:
        """True if the new success, score or total reward differs from the recorded value."""
        return self.new is not None and self.new != self.old


class RescoredFile(msgspec.Struct, frozen=True):
    """Counts of the episodes of one file.

    `judged`: number of episodes with a new judgement. `success_old`, `success_new`: the recorded and the new success
    rate of these episodes, in [0, 1]. Both are None if `judged` is 0.
    """

    source: str
    episodes: int
    judged: int
    changed: int
    diverged: int
    unfinished: int
    success_old: float | None
    success_new: float | None


class Rescored(msgspec.Struct, frozen=True):
    """`rescored.json`. `changed`: ids of tasks with a changed judgement. `environments`: the current environments."""

    schema: int
    directory: str
    written: str
    environments: list[dict[str, str]]
    files: list[RescoredFile]
    changed: list[str]
    episodes: list[RescoredEpisode]


@dataclass(frozen=True, slots=True)
class RescoreRequest:
    """The arguments of `rescore`.

    Attributes:
        directory: directory of a training run or of an evaluation.
        url: URL of a running environment server; None: start a server with the recorded options.
        out: the result file; None: rescored.json in the directory.
    """

    directory: Path
    url: str | None = None
    out: Path | None = None


async def rescore(request: RescoreRequest, log: Logger) -> Rescored:
    """Judge all recorded episodes again, and write the result.

    Raises:
        EvaluationError: the directory cannot be judged (the message says why), or an environment server does not start.
        ServicesDown: an environment server is unavailable.
        Refused: an environment server refuses a request.
    """
    folder = request.directory
    if (folder / PLAN).is_file():
        served, episodes = await _rescore_evaluation(request, log)
    else:
        served, episodes = await _rescore_run(request, log)
    if not episodes:
        raise EvaluationError(f"{folder} has no recorded episodes")
    now = datetime.now(UTC).isoformat(timespec="seconds")
    changed = list(dict.fromkeys(each.task for each in episodes if each.changed))
    result = Rescored(SCHEMA, str(folder), now, served, summaries(episodes), changed, episodes)
    write_json(request.out or folder / RESCORED, result)
    return result


async def _rescore_run(request: RescoreRequest, log: Logger) -> tuple[list[dict[str, str]], list[RescoredEpisode]]:
    run = RunFiles(request.directory)
    recorded = run.episodes()
    if run.unreadable:
        name, reason = next(iter(run.unreadable.items()))
        raise EvaluationError(f"{request.directory / name} cannot be read: {reason}")
    async with AsyncExitStack() as stack:
        url = request.url or str(await stack.enter_async_context(environment_process(run.config, run.environment.name)))
        token = None if request.url else run.environment.token  # the run's token is not sent to `request.url`
        served, episodes = await _judge(url, load_rollout(run.config), token, recorded, log)
    return [served], episodes


async def _rescore_evaluation(
    request: RescoreRequest, log: Logger
) -> tuple[list[dict[str, str]], list[RescoredEpisode]]:
    results = read_evaluation(request.directory)
    plan = results.plan
    if foreign := [one.name for one in plan.environments if one.parser == PARSER_VERSION]:
        raise EvaluationError(
            f"{request.directory}: {foreign[0]} is an OpenEnv environment; only environments of ARLArena can be judged "
            f"again"
        )
    if request.url is not None and len(plan.environments) > 1:
        raise EvaluationError(
            "--environment-url is the URL of one environment, but the evaluation has several environments: leave out "
            "--environment-url"
        )
    served, episodes = [], []
    for planned in plan.environments:
        name = environment_name(planned)
        chosen = [attempt for attempt in results.of(planned.name) if attempt.scored]
        recorded = [attempt_episode(f"{JOURNAL} {planned.name}", attempt, name, plan.seed) for attempt in chosen]
        async with AsyncExitStack() as stack:
            url = request.url or str(await stack.enter_async_context(configured_process(name, planned.options)))
            found, judged = await _judge(url, load_rollout(None), None, recorded, log)
        served.append(found)
        episodes += judged
    return served, episodes


def environment_name(planned: EnvironmentPlan) -> str:
    """Returns the name of the planned environment on the server.

    If the plan has a standard set, this is the environment of the set. Otherwise, it is the name in the plan without
    the final number (`sokoban-2` becomes `sokoban`).
    """
    return find_set(planned.set).environment if planned.set else re.sub(r"-\d+$", "", planned.name)


async def _judge(
    url: str, settings: RolloutSettings, token: SecretStr | None, recorded: Sequence[RecordedEpisode], log: Logger
) -> tuple[dict[str, str], list[RescoredEpisode]]:
    token = load_addresses({}).environment_token or token
    async with connected_runner(url, settings, token, log) as runner:
        info = await runner.environments.info()
        missing = {number: why for number, each in enumerate(recorded) if (why := missing_reason(each.task, info))}
        playable = [number for number in range(len(recorded)) if number not in missing]
        played = await play_recorded(runner, [recorded[number] for number in playable], None)
    again = {number: played.episodes.get(position) for position, number in enumerate(playable)}
    problems = missing | {number: played.errors.get(position, "") for position, number in enumerate(playable)}
    results = [_rescored(each, again.get(number), problems.get(number, "")) for number, each in enumerate(recorded)]
    return _served(info), results


def _served(info: Info) -> dict[str, str]:
    fields: dict[str, str] = msgspec.to_builtins(ServedEnvironment.of(info))
    return fields


def _rescored(recorded: RecordedEpisode, again: EpisodeRecord | None, problem: str) -> RescoredEpisode:
    old = recorded.trajectory
    judgement = _judgement(old)
    where = (recorded.source, recorded.name, recorded.task.id)
    if again is None:
        return RescoredEpisode(*where, judgement, None, problem=problem or "the server is down")
    new = again.trajectory
    unfinished = new.fault.endswith(NO_MORE_REPLIES) and old.outcome == "ok"
    # If the record ends before the episode, `play` counts the missing reply as a fault. Judge the last state instead.
    last = again.last.metadata
    now = Judgement(last.success, last.score, new.total_reward) if unfinished else _judgement(new)
    seen = [turn.observation for turn in new.turns]
    diverged = seen != [turn.observation for turn in old.turns][: len(seen)]
    return RescoredEpisode(*where, judgement, now, diverged, unfinished)


def _judgement(trajectory: Trajectory) -> Judgement:
    return Judgement(trajectory.success, trajectory.score, trajectory.total_reward)


def summaries(episodes: Sequence[RescoredEpisode]) -> list[RescoredFile]:
    """Returns one summary for each file, in the order of the episodes."""
    found = []
    for source in dict.fromkeys(each.source for each in episodes):
        members = [each for each in episodes if each.source == source]
        pairs = [(each.old.success, each.new.success) for each in members if each.new is not None]
        found.append(
            RescoredFile(
                source,
                len(members),
                len(pairs),
                sum(each.changed for each in members),
                sum(each.diverged for each in members),
                sum(each.unfinished for each in members),
                sum(old for old, _ in pairs) / len(pairs) if pairs else None,
                sum(new for _, new in pairs) / len(pairs) if pairs else None,
            )
        )
    return found
