"""Creates the text of `--dry-run`: tasks, first prompt, and estimates of requests, tokens and cost.

To get first prompts, it resets up to `SAMPLED` tasks of each environment. It sends no request to a model.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from arlarena.proto.env_api import Info
from arlarena.proto.text.wording import counted
from arlarena.rollout.evaluate import eval_assignment
from arlarena.rollout.evaluation.models.protocol import NO_TOKENS, TokenUsage
from arlarena.rollout.evaluation.openenv.rules import TEMPLATE
from arlarena.rollout.evaluation.play.caller import CHARS_PER_TOKEN, IMAGE_TOKENS, REPLY_TOKENS
from arlarena.rollout.evaluation.records import EnvironmentPlan, EvaluationPlan
from arlarena.rollout.evaluation.report.cost import dollars, money
from arlarena.rollout.evaluation.report.prices import ModelPrice
from arlarena.rollout.evaluation.start.environments import OpenedEnvironment
from arlarena.rollout.evaluation.start.options import EvaluateOptions
from arlarena.rollout.evaluation.start.players import SCRIPTED

# Names of templates whose prompts contain all earlier turns. The prompts of some OpenEnv environments contain no
# earlier turns. For these environments, the bounds are too high.
CONVERSATIONS = ("conversation", TEMPLATE)
SAMPLED = 8  # maximum number of tasks whose first prompt is measured
SHOWN_CHARS = 2_000  # the dry run prints at most this number of characters of the first prompt
# Number of earlier turns in a prompt if the template has `{history}`, but the environment has no option `history`. The
# text games of the environment SDK have this default.
HISTORY = 2


@dataclass(frozen=True, slots=True)
class MeasuredPrompt:
    """The first prompt of a task.

    Attributes:
        text: text of the prompt.
        tokens: estimated number of tokens of the prompt, including images.
        observed: estimated number of tokens of the observation alone, including images.
    """

    text: str
    tokens: int
    observed: int


async def describe_requests(
    options: EvaluateOptions, plan: EvaluationPlan, found: Sequence[OpenedEnvironment], price: ModelPrice | None
) -> str:
    """Return a text with the tasks, the first prompt, and estimated upper bounds of requests, tokens and cost.

    The bounds assume that every attempt takes all steps, and that a token has four characters. They also assume that
    each reply has `--max-tokens` tokens, or `REPLY_TOKENS` tokens without this option.

    Raises:
        ServiceError: an environment server failed.
    """
    chosen = [f"{name} {value}" for name, value in plan.sampling.items() if value not in (None, (), {})]
    sampling = ", ".join(chosen) or "defaults of the model"
    lines = [f"{plan.model}, strategy {plan.strategy}" + ("" if plan.model in SCRIPTED else f", sampling: {sampling}")]
    total = NO_TOKENS
    for one, environment in zip(found, plan.environments, strict=True):
        prompts = await _first_prompts(one, environment, plan)
        usage, requests = bound(plan, environment, one.info, prompts, options.sampling.max_tokens or REPLY_TOKENS)
        total += usage
        lines += [
            f"{environment.name} {environment.version}: {counted(len(environment.indices), 'task')} of split "
            f"{environment.split}, {counted(plan.attempts, 'attempt')} each, template {environment.template}, "
            f"at most {one.info.horizon} steps",
            f"  first prompt of task {environment.indices[0]}:\n{prompts[0].text[:SHOWN_CHARS]}",
        ]
        if plan.model not in SCRIPTED:
            lines.append(f"  at most {requests:,} requests, about {usage.input:,} tokens in, {usage.output:,} out")
    if plan.model not in SCRIPTED:
        cost = dollars(total, price)
        lines.append(f"cost of at most {money(cost)}" if cost is not None else "cost unknown: no price for this model")
    return "\n".join(lines)


async def _first_prompts(
    one: OpenedEnvironment, environment: EnvironmentPlan, plan: EvaluationPlan
) -> list[MeasuredPrompt]:
    """Measure the first prompts of at most `SAMPLED` tasks of an environment. See `evenly_spread`."""
    (session,) = await one.client.open(1)
    try:
        found = []
        for index in evenly_spread(environment.indices, SAMPLED):
            task = eval_assignment(environment.name, environment.split, plan.seed, index, 0).task
            state = await session.reset(split=task.split, index=task.index, seed=task.seed)
            message, text = state.observation.message, state.observation.text
            prompt = state.prompt if message is None else message
            images = IMAGE_TOKENS * len(state.observation.images) if plan.images else 0
            found.append(
                MeasuredPrompt(prompt, len(prompt) // CHARS_PER_TOKEN + images, len(text) // CHARS_PER_TOKEN + images)
            )
        return found
    finally:
        await session.close()


def evenly_spread(indices: Sequence[int], count: int) -> list[int]:
    """Return at most `count` indices. They are evenly spread over `indices`, and include its first index."""
    kept = min(count, len(indices))
    return [indices[number * len(indices) // kept] for number in range(kept)]


def bound(
    plan: EvaluationPlan, environment: EnvironmentPlan, info: Info, prompts: Sequence[MeasuredPrompt], reply: int
) -> tuple[TokenUsage, int]:
    """Return upper bounds for one environment: the token usage, and the number of requests.

    The bounds assume that every attempt takes all steps. `reply`: number of tokens per reply.
    """
    prompt = math.ceil(fmean(each.tokens for each in prompts))
    observed = math.ceil(fmean(each.observed for each in prompts))
    attempts, steps = len(environment.indices) * plan.attempts, info.horizon
    calls, shown_replies = _calls_per_turn(plan)
    requests = attempts * steps * calls
    earlier = attempts * calls * _earlier_turns(plan, info) * (observed + reply)
    read = requests * prompt + earlier + attempts * steps * shown_replies * reply
    return TokenUsage(read, requests * reply, 0, 0), requests


def _earlier_turns(plan: EvaluationPlan, info: Info) -> int:
    """Return the number of earlier turns in a prompt, summed over all prompts of an attempt.

    In a conversation, and with the strategy `react`, a prompt contains all earlier turns. Otherwise, the environment's
    option `history` is the maximum number of earlier turns in a prompt.
    """
    given = info.options.get("history")
    shown = given if isinstance(given, int) else HISTORY if "{history}" in info.template.text else 0
    if info.template.name in CONVERSATIONS or plan.strategy == "react":
        shown = info.horizon
    return sum(min(turn, shown) for turn in range(info.horizon))


def _calls_per_turn(plan: EvaluationPlan) -> tuple[int, int]:
    """Return (requests, replies) for one turn.

    `requests`: number of requests in the turn. `replies`: number of earlier replies that these requests contain in
    total. Replies of earlier turns do not count. Only a debate has several requests in a turn.
    """
    if plan.strategy != "debate":
        return 1, 0
    values = {"agents": 3, "rounds": 2, "judge": False, **plan.strategy_options}
    agents, rounds, judge = int(values["agents"]), int(values["rounds"]), bool(values["judge"])
    # From the second round on, each agent gets all answers of the previous round. The judge gets all answers of the
    # last round.
    return agents * rounds + judge, agents * agents * (rounds - 1) + judge * agents
