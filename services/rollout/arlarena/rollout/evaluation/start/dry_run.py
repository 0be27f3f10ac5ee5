"""What `--dry-run` prints: what would be asked, and an estimate of tokens and cost. Nothing is sent to the model."""

from __future__ import annotations

from collections.abc import Sequence

from arlarena.proto.text.wording import counted
from arlarena.rollout.evaluate import eval_assignment
from arlarena.rollout.evaluation.models.protocol import ModelMessage, TokenUsage
from arlarena.rollout.evaluation.openenv.rules import TEMPLATE
from arlarena.rollout.evaluation.play.caller import REPLY_TOKENS, estimated_tokens
from arlarena.rollout.evaluation.records import EnvironmentPlan, EvaluationPlan
from arlarena.rollout.evaluation.report.cost import dollars, money
from arlarena.rollout.evaluation.report.prices import ModelPrice
from arlarena.rollout.evaluation.start.environments import OpenedEnvironment
from arlarena.rollout.evaluation.start.options import EvaluateOptions
from arlarena.rollout.evaluation.start.players import SCRIPTED

# Templates of environments that keep all turns. OpenEnv environments may keep none, so their bounds may be too high.
CONVERSATIONS = ("conversation", TEMPLATE)
SAMPLED = 8  # tasks whose first prompt is measured
SHOWN_CHARS = 2_000  # of the first prompt


async def describe_requests(
    options: EvaluateOptions, plan: EvaluationPlan, found: Sequence[OpenedEnvironment], price: ModelPrice | None
) -> str:
    """Return the plan as text: tasks, the first prompt, and upper bounds for requests, tokens and cost.

    The bounds assume that every attempt takes all steps. Tokens are estimated with four characters a token.
    """
    lines = [f"{plan.model}, strategy {plan.strategy}, sampling {plan.sampling}"]
    total = TokenUsage(0, 0)
    for one, environment in zip(found, plan.environments, strict=True):
        prompts = await _first_prompts(one, environment, plan)
        usage, requests = _bound(options, one, environment, plan, prompts)
        total += usage
        lines += [
            f"{environment.name} {environment.version}: {counted(len(environment.indices), 'task')} of split "
            f"{environment.split}, {counted(plan.attempts, 'attempt')} each, template {environment.template}, "
            f"at most {one.info.horizon} steps",
            f"  first prompt of task {environment.indices[0]}:\n{prompts[0][:SHOWN_CHARS]}",
        ]
        if plan.model not in SCRIPTED:
            lines.append(f"  at most {requests:,} requests, about {usage.input:,} tokens in, {usage.output:,} out")
    if plan.model not in SCRIPTED:
        cost = dollars(total, price)
        lines.append(f"cost of at most {money(cost)}" if cost is not None else "cost unknown: no price for this model")
    return "\n".join(lines)


async def _first_prompts(one: OpenedEnvironment, environment: EnvironmentPlan, plan: EvaluationPlan) -> list[str]:
    """Return the first prompts of tasks that are spread over the chosen ones."""
    step = max(1, len(environment.indices) // SAMPLED)
    (session,) = await one.client.open(1)
    try:
        prompts = []
        for index in environment.indices[::step][:SAMPLED]:
            task = eval_assignment(environment.name, environment.split, plan.seed, index, 0).task
            state = await session.reset(split=task.split, index=task.index, seed=task.seed)
            message = state.observation.message
            prompts.append(state.prompt if message is None else message)
        return prompts
    finally:
        await session.close()


def _bound(
    options: EvaluateOptions,
    one: OpenedEnvironment,
    environment: EnvironmentPlan,
    plan: EvaluationPlan,
    prompts: Sequence[str],
) -> tuple[TokenUsage, int]:
    """Return the tokens and the number of requests if every attempt takes all steps."""
    reply = min(options.sampling.max_tokens or REPLY_TOKENS, REPLY_TOKENS)
    prompt = sum(estimated_tokens([ModelMessage("user", text)], options.sampling) - reply for text in prompts) // len(
        prompts
    )
    attempts, steps = len(environment.indices) * plan.attempts, one.info.horizon
    calls = _calls_per_turn(plan)
    requests = attempts * steps * calls
    # A conversation repeats what came before: about a prompt's length of observation and a reply in each turn.
    grows = one.info.template.name in CONVERSATIONS or plan.strategy == "react"
    earlier = attempts * calls * steps * (steps - 1) // 2 * reply if grows else 0
    return TokenUsage(requests * prompt + earlier, requests * reply), requests


def _calls_per_turn(plan: EvaluationPlan) -> int:
    """Return the number of requests of a turn."""
    if plan.strategy != "debate":
        return 1
    values = {"agents": 3, "rounds": 2, "judge": False, **plan.strategy_options}
    return int(values["agents"]) * int(values["rounds"]) + bool(values["judge"])
