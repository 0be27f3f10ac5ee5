"""One episode: prompt, response, step, until the environment ends it or the policy can no longer answer.

    state = reset(task)
    while not done:   response = policy(state);   state = step(response.text);   record the turn

What the policy does wrong is marked and played on: a reply without an action is a no-op in the environment. What a
*service* does wrong is an exception, never a reward: the caller decides whether to play again (see `runner`).
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

# Metrics that begin so name a fault of the policy that ended its episode.
FAULT = "fault:"
# The name of the fault where a prompt leaves no room for a response.
PROMPT_TOO_LONG = "prompt_too_long"


@dataclass(frozen=True, slots=True)
class Response:
    """A policy's answer to one prompt: exact ids, log-probs in nats (one per id), who sampled which, and the text
    without markers. `learn` False: nobody is to learn from it. `new_prompt_ids` and `reset`: the prompt, as in `Turn`.
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
    """Who plays."""

    async def respond(self, session: Session, state: StepOutcome, key: str, turn: int) -> Response:
        """The answer at `turn` (from 0) of the episode `key`, which fixes all randomness: to `state.prompt`, or to all
        that was said so far where the environment keeps a conversation (`state.observation.message`).

        Raises:
            PromptTooLong: the prompt leaves no room for an answer.
            ServiceError: whoever answers is not available.
        """
        ...


@dataclass(frozen=True, slots=True)
class Assignment:
    """What to play and under which name. `key` seeds the sampling: the same key and weights give the same episode."""

    id: str
    task: Task
    key: str


@dataclass(frozen=True, slots=True)
class EpisodeRecord:
    """An episode's record, and what the environment said of the task at the start and of the outcome at the end."""

    trajectory: Trajectory
    first: StepOutcome
    last: StepOutcome

    @property
    def content_key(self) -> str:
        """Names the task's content, however it is indexed: the environment's own key, else that of the first state."""
        return self.first.metadata.content_key or self.first.metadata.state_key


def turn_seed(key: str, turn: int) -> int:
    """The sampling seed of one turn: 63 bits, alike on every machine."""
    return int.from_bytes(hashlib.blake2b(f"{key}/{turn}".encode(), digest_size=8).digest(), "little") >> 1


@dataclass(slots=True)
class Behaviour:
    """Counts of what an episode's player did.

    `repeated_actions`: an action tried again in a state where it had been tried before. `back_and_forth`: a step that
    returns to the state before the previous one. `idle_turns`: a step that leaves the state as it was. These two need
    state keys. `no_action_turns`: a step that the environment calls no_action.
    """

    repeated_actions: int = 0
    back_and_forth: int = 0
    invalid_actions: int = 0
    idle_turns: int = 0
    no_action_turns: int = 0
    _tried: set[tuple[str, str]] = field(default_factory=set)
    _keys: list[str] = field(default_factory=list)

    def observe(self, before: StepOutcome, after: StepOutcome) -> None:
        """Count one step."""
        here, there = before.metadata.state_key, after.metadata.state_key
        self.invalid_actions += not after.observation.action_valid
        self.no_action_turns += after.metadata.no_action
        tried = (here, after.metadata.action)
        self.repeated_actions += tried in self._tried
        self._tried.add(tried)
        if here and here == there:
            self.idle_turns += 1
        elif there and self._keys and self._keys[-1] == there:
            self.back_and_forth += 1
        self._keys.append(here)

    def metrics(self, turns: list[Turn]) -> dict[str, float]:
        """The figures of `Trajectory.metrics`."""
        return {
            "turns": float(len(turns)),
            "repeated_actions": float(self.repeated_actions),
            "back_and_forth": float(self.back_and_forth),
            "invalid_actions": float(self.invalid_actions),
            "idle_turns": float(self.idle_turns),
            "no_action_turns": float(self.no_action_turns),
            "episode_prompt_tokens": float(sum(prompt_lengths(turns))),
            "episode_response_tokens": float(sum(len(turn.response_ids) // 4 for turn in turns)),
        }


def _turn(before: StepOutcome, response: Response, after: StepOutcome | None) -> Turn:
    """The record of one turn; `after` is None where the environment could make nothing of the reply."""
    return Turn(
        new_prompt_ids=pack_ids(response.new_prompt_ids),
        response_ids=pack_ids(response.token_ids),
        logprobs=pack_floats(response.logprobs),
        # Every token was sampled, an end-of-sequence token included; none was appended.
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
    )


async def play(session: Session, assignment: Assignment, policy: Policy) -> EpisodeRecord:
    """Play one episode on `session`, from the reset on.

    Raises:
        ServiceError: environment or policy server failed; nothing of the episode counts.
    """
    started, task = time.monotonic(), assignment.task
    first = state = await session.reset(split=task.split, index=task.index, seed=task.seed, episode_id=assignment.id)
    turns: list[Turn] = []
    behaviour = Behaviour()
    code = fault = ""
    while not state.done:
        before = state
        try:
            response = await policy.respond(session, before, assignment.key, len(turns))
        except PromptTooLong as error:
            code, fault = PROMPT_TOO_LONG, str(error)
            break
        try:
            state = await session.step(response.text)
        except PolicyFault as error:
            code, fault = error.code, str(error)
            turns.append(_turn(before, response, None))
            break
        behaviour.observe(before, state)
        turns.append(_turn(before, response, state))
    metrics = behaviour.metrics(turns) | ({FAULT + code: 1.0} if code else {})
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
    )
    return EpisodeRecord(trajectory, first, state)
