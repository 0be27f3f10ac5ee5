"""Plays one episode: prompt, response and step, until the environment is done or a prompt exceeds the context.

    state = reset(task)
    while not done:   response = policy(state);   state = step(response.text);   record the turn

If the policy's response contains no action, the environment's state does not change and the episode continues. If a
service fails, an exception is raised and the episode is discarded. The module `runner` then plays the episode again.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from arlarena.client.environments import Session, StepOutcome
from arlarena.client.errors import PolicyFault, PromptTooLong
from arlarena.proto.trajectory import Task, Trajectory, Turn, VersionSpan, pack_floats, pack_ids, prompt_lengths

# A policy fault ends an episode: the environment refused the response, or the prompt was too long. The episode then has
# a metric with the name FAULT + code of the fault.
FAULT = "fault:"
# Fault code: the prompt leaves no room for a response in the policy's context.
PROMPT_TOO_LONG = "prompt_too_long"


@dataclass(frozen=True, slots=True)
class Response:
    """A policy's response to one prompt.

    `new_prompt_ids`: the prompt tokens that no earlier turn recorded. `reset`: True if the prompt does not continue the
    earlier turns. `token_ids`: the sampled ids. `logprobs`: the log-probability of each id, in nats. `spans`: ranges of
    `token_ids`, each with the weight version that sampled it. `text`: the decoded response for the environment.
    `learn`: False if the response is excluded from the loss.
    """

    new_prompt_ids: Sequence[int]
    reset: bool
    token_ids: Sequence[int]
    logprobs: Sequence[float]
    spans: tuple[VersionSpan, ...]
    finish_reason: Literal["stop", "length"]
    text: str
    learn: bool = True


class Policy(Protocol):
    """Responds to the prompts of an episode."""

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        """Returns the response at `turn`. The first turn is 0.

        The sampling seed is computed from the episode's `seed_key` and `turn`.

        The prompt is `state.prompt`. If the environment sends messages (`state.observation.message`), the prompt is the
        conversation so far.

        Raises:
            PromptTooLong: the prompt leaves no room for a response.
            ServiceError: a service that computes the response is unavailable or refuses the request.
        """
        ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """An episode to play. The sampling seeds are computed from `seed_key`.

    Two episodes with the same task, `seed_key` and weights are equal.
    """

    id: str
    task: Task
    seed_key: str


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """An episode's trajectory, the state after the reset (`first`), and the state after the last step (`last`)."""

    trajectory: Trajectory
    first: StepOutcome
    last: StepOutcome

    @property
    def content_key(self) -> str:
        """Key of the task's content: `content_key` of the first state, else `state_key` of the first state."""
        return self.first.metadata.content_key or self.first.metadata.state_key


def turn_seed(seed_key: str, turn: int) -> int:
    """Returns the sampling seed of one turn, in [0, 2^63). The seed is the same on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{seed_key}/{turn}".encode(), digest_size=8).digest(), "little") >> 1


@dataclass(slots=True)
class ActionPatterns:
    """Counts of action patterns in one episode.

    `repeated_actions`: turns with the same state and action as an earlier turn. `back_and_forth`: turns that return to
    the state before the previous turn. `invalid_actions`: turns whose action the environment did not accept.
    `idle_turns`: turns that do not change the state. `no_action_turns`: turns whose response contains no action. If the
    environment has no state keys, `back_and_forth` and `idle_turns` are 0.
    """

    repeated_actions: int = 0
    back_and_forth: int = 0
    invalid_actions: int = 0
    idle_turns: int = 0
    no_action_turns: int = 0
    _tried: set[tuple[str, str]] = field(default_factory=set)
    _keys: list[str] = field(default_factory=list)

    def observe(self, before: StepOutcome, after: StepOutcome) -> None:
        """Count one step. `before`: the state before the step. `after`: the state after the step."""
        self.count(
            before.metadata.state_key,
            after.metadata.state_key,
            after.metadata.action,
            action_valid=after.observation.action_valid,
            no_action=after.metadata.no_action,
        )

    def count(self, here: str, there: str, action: str, *, action_valid: bool, no_action: bool) -> None:
        """Count one step. `here`, `there`: keys of the states before and after the step; "" if a key is unknown."""
        self.invalid_actions += not action_valid
        self.no_action_turns += no_action
        self.repeated_actions += (here, action) in self._tried
        self._tried.add((here, action))
        if here and here == there:
            self.idle_turns += 1
        elif there and self._keys and self._keys[-1] == there:
            self.back_and_forth += 1
        self._keys.append(here)

    def counts(self) -> dict[str, float]:
        """Returns the counts by name."""
        return {
            "repeated_actions": float(self.repeated_actions),
            "back_and_forth": float(self.back_and_forth),
            "invalid_actions": float(self.invalid_actions),
            "idle_turns": float(self.idle_turns),
            "no_action_turns": float(self.no_action_turns),
        }

    def metrics(self, turns: list[Turn]) -> dict[str, float]:
        """Returns the values for `Trajectory.metrics`."""
        return {
            "turns": float(len(turns)),
            **self.counts(),
            "episode_prompt_tokens": float(sum(prompt_lengths(turns))),
            "episode_response_tokens": float(sum(len(turn.response_ids) // 4 for turn in turns)),  # int32
        }


def _turn(before: StepOutcome, response: Response, after: StepOutcome | None) -> Turn:
    """Returns the record of one turn. `after` is None if the environment rejected the response."""
    return Turn(
        new_prompt_ids=pack_ids(response.new_prompt_ids),
        response_ids=pack_ids(response.token_ids),
        logprobs=pack_floats(response.logprobs),
        # The policy sampled all tokens of the response, so the loss includes either all of them or none.
        loss_mask=(b"\x01" if response.learn else b"\x00") * len(response.token_ids),
        spans=response.spans,
        reward=after.reward if after else 0.0,
        state_key=before.metadata.state_key,
        observation_key=before.metadata.observation_key,
        action_valid=after.observation.action_valid if after else False,
        format_valid=after.observation.format_valid if after else False,
        finish_reason=response.finish_reason,
        observation=before.observation.text,
        response=response.text,
        action=after.metadata.action if after else "",
        images=before.images,
        no_action=after.metadata.no_action if after else False,
        reset=response.reset,
        admissible_actions=tuple(before.observation.admissible_actions or ()),
    )


async def play(session: Session, assignment: Assignment, policy: Policy) -> EpisodeRecord:
    """Reset `session` and play one episode. Returns the record of the episode.

    Raises:
        ServiceError: the environment server or the policy server failed. The episode is discarded.
    """
    started, task = time.monotonic(), assignment.task
    first = state = await session.reset(split=task.split, index=task.index, seed=task.seed, episode_id=assignment.id)
    turns: list[Turn] = []
    patterns = ActionPatterns()
    code = fault = ""
    while not state.done:
        before = state
        try:
            response = await policy.respond(session, before, assignment.seed_key, len(turns))
        except PromptTooLong as error:
            code, fault = PROMPT_TOO_LONG, str(error)
            break
        try:
            state = await session.step(response.text)
        except PolicyFault as error:
            code, fault = error.code, str(error)
            turns.append(_turn(before, response, None))
            break
        patterns.observe(before, state)
        turns.append(_turn(before, response, state))
    metrics = patterns.metrics(turns) | ({FAULT + code: 1.0} if code else {})
    trajectory = Trajectory(
        id=assignment.id,
        seed=task.seed,
        turns=tuple(turns),
        terminated=state.observation.terminated,
        truncated=state.observation.truncated or bool(code),
        score=0.0 if code else state.metadata.score,
        success=not code and state.metadata.success,
        outcome="policy_error" if code else "ok",
        duration_s=time.monotonic() - started,
        metrics=metrics,
        fault=fault,
        kind=first.metadata.kind,
    )
    return EpisodeRecord(trajectory, first, state)
