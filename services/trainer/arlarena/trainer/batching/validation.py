"""Which received groups may be learnt from. Everything here comes from other processes, and is checked before use."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Trajectory, Turn, prompt_lengths
from arlarena.trainer.batching.scoring import rewards_fit
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.objectives.advantages import ADVANTAGES

# A log-prob is at most 0; engines that compute in 16 bits round a little above it.
LOG_PROB_TOLERANCE = 1e-3
# Below it no token is ever sampled, and differences of log-probs overflow.
LOWEST_LOG_PROB = -1e4
# Tokens of all prompts of an episode, each prompt whole. A message of N tokens can describe prompts of N² tokens; this
# bound is 100 turns with a context of 160,000 tokens.
MOST_PROMPT_TOKENS = 1 << 24
# vLLM samples at 0.01 where less is asked for, and takes the likeliest token below 1e-5.
LOWEST_TEMPERATURE = 0.01


def refusal(group: Group, *, vocabulary: int, recipe: Recipe, task: GroupTask | None = None) -> str | None:
    """Why `group` must not be learnt from, with the member and turn at fault; None if it may be.

    A turn without a response token is no reason: a policy may say nothing, and workers record it so. The group's
    statistics need the turn, and its row has no token to train on.

    Args:
        group: as it was received.
        vocabulary: how many token ids the policy knows.
        recipe: the method, which decides what step groups are keyed by.
        task: what was issued, where the group has to be the answer to it.
    """
    return next(_reasons(group, vocabulary, _anchor(recipe), task), None)


def _reasons(group: Group, vocabulary: int, anchor: str | None, task: GroupTask | None) -> Iterator[str]:
    """Every reason, in the order of their cost."""
    if task is not None:
        yield from _differences(group, task)
    if not group.trajectories:
        yield "it has no member"
    if len(group.trajectories) != group.size:
        yield f"it has {counted(len(group.trajectories), 'member')}, and says it has {group.size}"
    yield from _sampling_reasons(group.sampling)
    for number, trajectory in enumerate(group.trajectories):
        for reason in _trajectory_reasons(trajectory, vocabulary, anchor):
            yield f"member {number}{reason}"
    if not rewards_fit(group):
        yield "its rewards are so large that the sum of their squares overflows"


def _differences(group: Group, task: GroupTask) -> Iterator[str]:
    """Where the group is not the answer to `task`."""
    pairs = [("id", group.id, task.group_id), ("size", group.size, task.size)]
    pairs += [
        (name, getattr(group.task, name), getattr(task.task, name))
        for name in ("environment", "split", "index", "seed")
    ]
    for name, found, issued in pairs:
        if found != issued:
            yield f"its {name} is {found!r}, and {issued!r} was issued"


def _sampling_reasons(sampling: Sampling) -> Iterator[str]:
    temperature, top_p, top_k = sampling.temperature, sampling.top_p, sampling.top_k
    if not math.isfinite(temperature):
        yield f"it was sampled at temperature {temperature}, which is not finite"
    elif temperature < LOWEST_TEMPERATURE:
        yield (
            f"it was sampled at temperature {temperature:g}: only {LOWEST_TEMPERATURE:g} and above can be trained on, "
            f"since less is greedy decoding, which has no log-probs to compare"
        )
    if not top_p >= 1.0 or top_k > 0:
        yield (
            f"it was sampled at top_p {top_p:g} and top_k {top_k}: only the whole distribution (top_p 1, top_k 0) "
            f"can be trained on, since its log-probs are those of the whole distribution"
        )


def _trajectory_reasons(trajectory: Trajectory, vocabulary: int, anchor: str | None) -> Iterator[str]:
    """Each begins with what follows the member's number."""
    if not math.isfinite(trajectory.score):
        yield f": its score is {trajectory.score}"
    if trajectory.turns and not trajectory.turns[0].reset:
        yield ", turn 0: it has no `reset`, and no turn comes before it"
    if (tokens := sum(prompt_lengths(trajectory.turns))) > MOST_PROMPT_TOKENS:
        yield f": its prompts have {tokens} tokens in all, more than {MOST_PROMPT_TOKENS}"
    for place, turn in enumerate(trajectory.turns):
        for reason in _turn_reasons(turn, vocabulary, anchor):
            yield f", turn {place}: {reason}"


def _turn_reasons(turn: Turn, vocabulary: int, anchor: str | None) -> Iterator[str]:
    tokens = len(turn.loss_mask)
    if len(turn.response_ids) != 4 * tokens or len(turn.logprobs) != 4 * tokens or len(turn.new_prompt_ids) % 4:
        yield "token ids, log-probs and loss mask are of different lengths"
        return
    if turn.reset and not turn.new_prompt_ids:
        yield "its prompt is empty, so nothing predicts the first token of the response"
    for ids in (turn.new_prompt_ids, turn.response_ids):
        # As unsigned numbers, negative ids are large ones.
        if ids and (largest := int(np.frombuffer(ids, "<u4").max())) >= vocabulary:
            found = largest if largest < 1 << 31 else largest - (1 << 32)
            yield f"token id {found} is outside [0, {vocabulary})"
    if tokens:
        log_probs = turn.behaviour_logprobs()
        low, high = float(log_probs.min()), float(log_probs.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            yield "a log-prob is not finite"
        elif high > LOG_PROB_TOLERANCE:
            yield f"log-prob {high:g} is above 0"
        elif low < LOWEST_LOG_PROB:
            yield f"log-prob {low:g} is below {LOWEST_LOG_PROB:g}"
    yield from _span_reasons(turn, tokens)
    if not math.isfinite(turn.reward):
        yield f"its reward is {turn.reward}"
    if anchor is not None and not getattr(turn, anchor):
        yield f"its {anchor} is empty, which the method compares states by; choose another anchor"


def _span_reasons(turn: Turn, tokens: int) -> Iterator[str]:
    end = 0
    for span in turn.spans:
        if span.start != end or span.end < span.start:
            break
        end = span.end
    else:
        if end == tokens:
            return
    shown = ", ".join(f"[{span.start}, {span.end})" for span in turn.spans[:8]) or "none"
    yield f"its spans of versions ({shown}) do not cover its {tokens} response tokens in order"


def _anchor(recipe: Recipe) -> str | None:
    """The field of a turn that step groups are keyed by, where the method has step groups."""
    if not ADVANTAGES[recipe.advantage].uses_anchors:
        return None
    return {"state": "state_key", "observation": "observation_key", "similar": "observation"}[recipe.anchor]
