"""Validates received groups before training. Groups come from other processes, and can therefore be invalid."""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import Group, GroupTask, Sampling, Trajectory, Turn, prompt_lengths
from arlarena.trainer.batching.scoring import rewards_fit
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.objectives.advantages import ADVANTAGES

# A log-prob is at most 0. If an engine computes in 16 bits, rounding may make the log-prob slightly larger than 0.
LOG_PROB_TOLERANCE = 1e-3
# Tokens with a lower log-prob are never sampled. Differences between much lower log-probs could overflow.
MIN_LOG_PROB = -1e4
# The largest sum of the prompt lengths of an episode. A message stores only the new tokens of each prompt. A small
# message of N tokens can therefore describe prompts of about N² tokens in total. The limit allows 100 turns with a
# context of 160,000 tokens.
MAX_PROMPT_TOKENS = 1 << 24
# vLLM raises lower temperatures to 0.01, and decodes greedily below 1e-5.
MIN_TEMPERATURE = 0.01


def refusal_reason(group: Group, *, vocabulary: int, recipe: Recipe, task: GroupTask | None = None) -> str | None:
    """Return the reason why `group` must not be trained on; None if the group is valid.

    If one turn is invalid, the reason names the member (episode) and the turn. A turn without response tokens is valid,
    because a policy may sample an empty response. The reward of this turn counts in the mean and standard deviation of
    the group.

    Args:
        group: the received group.
        vocabulary: number of token ids of the policy.
        recipe: the method. If the method compares turns by an anchor (a field such as `state_key`), this field must
            not be empty in any turn.
        task: the issued task, to compare with the group; None: no comparison.
    """
    return next(_reasons(group, vocabulary, _anchor(recipe), task), None)


def _reasons(group: Group, vocabulary: int, anchor: str | None, task: GroupTask | None) -> Iterator[str]:
    """Yield the reasons to refuse the group. `refusal_reason` reads only the first, so the later checks do not run."""
    if task is not None:
        yield from _differences(group, task)
    if not group.trajectories:
        yield "it has no members"
    if len(group.trajectories) != group.size:
        yield f"it has {counted(len(group.trajectories), 'member')}, but its size field is {group.size}"
    yield from _sampling_reasons(group.sampling)
    for number, trajectory in enumerate(group.trajectories):
        for reason in _trajectory_reasons(trajectory, vocabulary, anchor):
            yield f"member {number}{reason}"
    if not rewards_fit(group):
        yield "its rewards are so large that the sum of their squares overflows"


def _differences(group: Group, task: GroupTask) -> Iterator[str]:
    """Yield a reason for each field in which the group differs from the issued `task`."""
    pairs = [("id", group.id, task.group_id), ("size", group.size, task.size)]
    pairs += [
        (name, getattr(group.task, name), getattr(task.task, name))
        for name in ("environment", "split", "index", "seed")
    ]
    for name, received, issued in pairs:
        if received != issued:
            yield f"its {name} is {received!r}, but {issued!r} was issued"


def _sampling_reasons(sampling: Sampling) -> Iterator[str]:
    temperature, top_p, top_k = sampling.temperature, sampling.top_p, sampling.top_k
    if not math.isfinite(temperature):
        yield f"it was sampled at temperature {temperature}, which is not finite"
    elif temperature < MIN_TEMPERATURE:
        yield (
            f"it was sampled at temperature {temperature:g}: only {MIN_TEMPERATURE:g} and above can be trained on, "
            f"because lower temperatures mean greedy decoding, and greedy decoding has no log-probs to compare"
        )
    if not top_p >= 1.0 or top_k > 0:
        yield (
            f"it was sampled at top_p {top_p:g} and top_k {top_k}: only the full distribution (top_p 1, top_k 0) "
            f"can be trained on, because the trainer's log-probs are those of the full distribution"
        )


def _trajectory_reasons(trajectory: Trajectory, vocabulary: int, anchor: str | None) -> Iterator[str]:
    """Yield the reasons to refuse one member (trajectory) of a group. Each reason continues the text "member N"."""
    if not math.isfinite(trajectory.score):
        yield f": its score is {trajectory.score}"
    if trajectory.turns and not trajectory.turns[0].reset:
        yield ", turn 0: the first turn must have `reset` set to true"
    if (tokens := sum(prompt_lengths(trajectory.turns))) > MAX_PROMPT_TOKENS:
        yield f": its prompts have {tokens} tokens in total, more than {MAX_PROMPT_TOKENS}"
    for place, turn in enumerate(trajectory.turns):
        for reason in _turn_reasons(turn, vocabulary, anchor):
            yield f", turn {place}: {reason}"


def _turn_reasons(turn: Turn, vocabulary: int, anchor: str | None) -> Iterator[str]:
    tokens = len(turn.loss_mask)
    if len(turn.response_ids) != 4 * tokens or len(turn.logprobs) != 4 * tokens or len(turn.new_prompt_ids) % 4:
        yield "token ids, log-probs and loss mask have different lengths"
        return
    if turn.reset and not turn.new_prompt_ids:
        yield "its prompt is empty, so nothing predicts the first token of the response"
    for ids in (turn.new_prompt_ids, turn.response_ids):
        # A negative id is a large unsigned number, so one comparison checks both bounds.
        if ids and (largest := int(np.frombuffer(ids, "<u4").max())) >= vocabulary:
            token = largest if largest < 1 << 31 else largest - (1 << 32)
            yield f"token id {token} is outside [0, {vocabulary})"
    if tokens:
        log_probs = turn.behaviour_logprobs()
        low, high = float(log_probs.min()), float(log_probs.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            yield "a log-prob is not finite"
        elif high > LOG_PROB_TOLERANCE:
            yield f"log-prob {high:g} is above 0"
        elif low < MIN_LOG_PROB:
            yield f"log-prob {low:g} is below {MIN_LOG_PROB:g}"
    yield from _span_reasons(turn, tokens)
    if not math.isfinite(turn.reward):
        yield f"its reward is {turn.reward}"
    if anchor is not None and not getattr(turn, anchor):
        yield f"its {anchor} is empty, but the method compares turns by this key; choose another anchor"


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
    """Return the field of `Turn` by which the method compares turns, such as `state_key`; None if there is none."""
    if not ADVANTAGES[recipe.advantage].uses_anchors:
        return None
    return {"state": "state_key", "observation": "observation_key", "similar": "observation"}[recipe.anchor]
