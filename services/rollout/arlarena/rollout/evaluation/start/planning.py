"""Creates the plan of an evaluation from the options and the opened environments."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from arlarena.proto.config import ConfigError
from arlarena.proto.telemetry import get_logger
from arlarena.rollout.evaluation.records import SCHEMA, EnvironmentPlan, EvaluationPlan
from arlarena.rollout.evaluation.sets.standard import check_set, environment_plan, find_set
from arlarena.rollout.evaluation.start.environments import OpenedEnvironment
from arlarena.rollout.evaluation.start.options import EvaluateOptions
from arlarena.rollout.runner import Runner
from arlarena.rollout.settings import RolloutSettings


async def plan_of(
    options: EvaluateOptions, model: str, found: Sequence[OpenedEnvironment], settings: RolloutSettings
) -> EvaluationPlan:
    """Return the plan. If the options name a standard set, check the tasks against the set's digest.

    `model`: name of the model in records.

    Raises:
        ConfigError: the split or a task does not exist, or a standard set is used with an OpenEnv server.
        EvaluationError: the server's tasks differ from the tasks of the standard set.
        ServiceError: an environment server failed.
    """
    if options.set_name is None:
        environments = [_environment(options, one) for one in found]
        seed = options.seed
    else:
        standard = find_set(options.set_name)
        client = found[0].own_client
        if client is None:
            raise ConfigError(
                f"--set {options.set_name}: {found[0].url} is an OpenEnv server, and standard sets need an ARLArena "
                "server: either leave out --env, or leave out --set and choose tasks with --split and --count"
            )
        runner = Runner(client, None, settings, get_logger("evaluation"))
        checked = await check_set(runner, standard)
        environments, seed = [environment_plan(standard, checked, found[0].url, found[0].name)], standard.seed
    sampling = msgspec.to_builtins(options.sampling)
    return EvaluationPlan(
        schema=SCHEMA,
        model=model,
        base_url=options.base_url or "",
        strategy=options.strategy,
        strategy_options=dict(options.strategy_options),
        sampling=sampling,
        environments=tuple(environments),
        attempts=options.attempts,
        seed=seed,
        images=options.images,
    )


def _environment(options: EvaluateOptions, one: OpenedEnvironment) -> EnvironmentPlan:
    info = one.info
    return EnvironmentPlan(
        name=one.name,
        url=one.url,
        version=info.version,
        template=f"{info.template.name} {info.template.version}",
        parser=info.parser.version,
        options=msgspec.to_builtins(info.options),
        split=options.tasks.split_of(info).name,
        indices=options.tasks.indices(info),
    )
