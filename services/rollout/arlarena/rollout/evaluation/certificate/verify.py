"""`arlarena verify RUN`: checks a training run and writes its certificate.

The checks use the files of the run and an environment server, but no policy. By default, the command starts an
environment server with the options in the run's config.toml.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import msgspec

from arlarena.proto.atomic_files import write_json
from arlarena.proto.config import load_part
from arlarena.proto.env_api import Info
from arlarena.proto.served import ServedEnvironment
from arlarena.proto.shared_settings import PolicyKeys
from arlarena.proto.telemetry import Logger
from arlarena.rollout.evaluation.certificate.checks import Certificate, CheckRecord, Evidence, all_passed
from arlarena.rollout.evaluation.certificate.lineage import check_batches, check_lineage
from arlarena.rollout.evaluation.certificate.replay import check_replay, sample
from arlarena.rollout.evaluation.certificate.run_files import RunFiles
from arlarena.rollout.evaluation.certificate.tasks import (
    check_disjoint,
    check_eval_tasks,
    check_starts,
    cloning_tasks,
    first_states,
    missing_reason,
    shared_note,
    training_tasks,
)
from arlarena.rollout.evaluation.certificate.weights import check_evaluated_weights, check_weights
from arlarena.rollout.evaluation.served import connected_runner, environment_process
from arlarena.rollout.runner import Runner
from arlarena.rollout.settings import load_addresses, load_rollout
from arlarena.rollout.splits import differing_options
from arlarena.rollout.tokens import TokenizerError, Tokens

SCHEMA = 1
CERTIFICATE = "certificate.json"
# Default number of episodes that are replayed from each file.
PER_FILE = 64


@dataclass(frozen=True, slots=True)
class VerifyRequest:
    """The arguments of `verify`.

    Attributes:
        run: directory of the run.
        url: URL of a running environment server; None: start a server with the options of the run.
        per_file: number of episodes to replay from each file; 0: all episodes.
        seed: seed of the choice of these episodes.
        out: file of the certificate; None: certificate.json in the run's directory.
    """

    run: Path
    url: str | None = None
    per_file: int = PER_FILE
    seed: int = 0
    out: Path | None = None


async def verify(request: VerifyRequest, log: Logger) -> Certificate:
    """Do all checks and write the certificate.

    Raises:
        ConfigError: the run's configuration is wrong, or the environment server rejects it.
        EvaluationError: the directory is not a run, the environment server does not start, or tasks could not be reset.
        ServicesDown: the environment server is unavailable.
        Refused: the environment server refuses a request.
    """
    run = RunFiles(request.run)
    async with AsyncExitStack() as stack:
        url = request.url or str(await stack.enter_async_context(environment_process(run.config, run.environment.name)))
        # The token in the run's configuration is only for the server that this command starts. It is not sent to
        # `request.url`.
        token = load_addresses({}).environment_token or (None if request.url else run.environment.token)
        runner = await stack.enter_async_context(connected_runner(url, load_rollout(run.config), token, log))
        info = await runner.environments.info()
        checks = [*await _task_checks(run, runner, info, request), *_file_checks(run, info)]
    served = msgspec.to_builtins(ServedEnvironment.of(info))
    records = [CheckRecord.of(check) for check in checks]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    certificate = Certificate(SCHEMA, str(request.run), now, served, all_passed(checks), records)
    write_json(request.out or request.run / CERTIFICATE, certificate)
    return certificate


async def _task_checks(run: RunFiles, runner: Runner, info: Info, request: VerifyRequest) -> list[Evidence]:
    """Do the checks that need the environment."""
    training, cloning, episodes = training_tasks(run), cloning_tasks(run), run.episodes()
    evaluated = list(dict.fromkeys(task for evaluation in run.evaluations for task in evaluation.tasks))
    all_tasks = [*evaluated, *(one.task for one in training + cloning), *(episode.task for episode in episodes)]
    states = await first_states(runner, (task for task in all_tasks if missing_reason(task, info) is None))
    of_training = check_disjoint("evaluation and training tasks are disjoint", evaluated, training, states, info)
    of_cloning = check_disjoint("evaluation and cloning tasks are disjoint", evaluated, cloning, states, info)
    of_cloning.applies = bool(cloning)
    if cloning:
        of_cloning.notes.append(shared_note(cloning, training, states))
    chosen = sample([each for each in episodes if each.task in states], request.per_file, request.seed)
    return [
        check_eval_tasks(run.evaluations, states),
        of_training,
        of_cloning,
        check_starts(episodes, states, evaluated),
        await check_replay(runner, chosen, _tokens(run, info), len(episodes)),
    ]


def _tokens(run: RunFiles, info: Info) -> Tokens | None:
    """Returns the tokenizer of the run's policy, or None if this machine cannot read it."""
    policy = load_part(run.config, "policy", PolicyKeys, "path", "tokenizer")
    try:
        source = policy.tokenizer or policy.path or run.path / "policy"
        return Tokens.load(source).with_tags(info.parser.tags)
    except TokenizerError:
        return None


def _file_checks(run: RunFiles, info: Info) -> list[Evidence]:
    """Do the checks that need only files. The last check reports the files that could not be read."""
    named: Sequence[tuple[str, str, Callable[[], Evidence]]] = (
        ("environment, template and parser are those of the run", "record", partial(check_versions, run, info)),
        ("policy digests are those of the weights", "weights file", partial(check_weights, run)),
        ("evaluations used weights of the run", "evaluation", partial(check_evaluated_weights, run)),
        ("each group has exactly one outcome", "group", partial(check_lineage, run)),
        ("recorded batches agree with the lineage", "group", partial(check_batches, run)),
    )
    done = [_or_damaged(name, unit, check) for name, unit, check in named]
    readable = Evidence("files can be read", "file", checked=_files_read(run))
    readable.failures += [f"{name}: {reason}" for name, reason in run.unreadable.items()]
    return [*done, readable]


def _or_damaged(name: str, unit: str, check: Callable[[], Evidence]) -> Evidence:
    """Do a check. If a file has missing or malformed content, the check fails."""
    try:
        return check()
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return Evidence(name, unit, failures=[f"a file of the run is damaged: {type(error).__name__}: {error}"])


def _files_read(run: RunFiles) -> int:
    return len(run.evaluations) + len(run.cloning) + len(run.recorded) + len(run.checkpoints)


def check_versions(run: RunFiles, info: Info) -> Evidence:
    """Compare the recorded environment, template, parser and options with those of the server."""
    evidence = Evidence("environment, template and parser are those of the run", "record")
    now = ServedEnvironment.of(info)
    for source, recorded in _recorded_environments(run):
        if recorded is None:
            evidence.not_checked.append(f"{source}: written by a release that did not record the versions")
            continue
        then = msgspec.convert(recorded, ServedEnvironment)
        evidence.compare(f"{source}: {text}" for text in then.differences(now))
    for name, values in differing_options(info, run.environment).items():
        evidence.failures.append(f"option {name}: {values['configured']!r} in the run, {values['played']!r} served")
    return evidence


def _recorded_environments(run: RunFiles) -> list[tuple[str, dict[str, Any] | None]]:
    found = [(run.relative(each.path), each.result.get("served")) for each in run.evaluations]
    if run.newest_state is not None:
        path = run.relative(run.checkpoints[-1])
        served = run.newest_state.get("served") or [None]
        found += [(f"{path} (training)", each) for each in served]
    return found
