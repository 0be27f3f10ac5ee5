"""Reads recorded episodes from all kinds of files. The policy `RecordedReplies` plays their replies again.

groups/*.msgpack, demonstrations.msgpack, validation.msgpack     `trajectory.Group`, with token ids
episodes/*.jsonl                                                 `episode_lines.EpisodeLine`, without token ids
journal.jsonl                                                    `evaluation.records.AttemptRecord`, without token ids
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec

from arlarena.client.environments import Session, StepOutcome
from arlarena.client.errors import PromptTooLong
from arlarena.proto.trajectory import Group, Task, Trajectory, Turn
from arlarena.rollout.conversation import Conversations
from arlarena.rollout.episode import Assignment, Response
from arlarena.rollout.evaluation.records import AttemptRecord
from arlarena.rollout.tokens import Tokens


@dataclass(frozen=True, slots=True)
class RecordedEpisode:
    """An episode from a file.

    Attributes:
        source: the file, relative to the run's directory.
        name: name of the episode within the file, for example "g000003 member 2".
        task: the task, with the seed of its reset.
        trajectory: the recorded trajectory. If token ids are not recorded, all token fields are empty.
        has_tokens: True if the token ids of prompts and replies are recorded.
        has_keys: True if the keys of observations and of images are recorded.
        final_observation: the last observation, or None if it is not recorded.
    """

    source: str
    name: str
    task: Task
    trajectory: Trajectory
    has_tokens: bool = False
    has_keys: bool = False
    final_observation: str | None = None

    def __str__(self) -> str:
        return f"{self.source}: {self.name}, task {self.task.id}"


def group_episodes(source: str, groups: list[Group]) -> Iterator[RecordedEpisode]:
    """Yield the episodes of a file of groups."""
    for group in groups:
        for member, trajectory in enumerate(group.trajectories):
            name = f"{group.id} member {member}"
            yield RecordedEpisode(source, name, group.task, trajectory, has_tokens=True, has_keys=True)


def evaluation_episodes(source: str, path: Path, environment: str, seed: int) -> Iterator[RecordedEpisode]:
    """Yield the episodes of a file that `rollout.evaluate.write_episodes` wrote. `seed`: seed of the resets."""
    for line in path.read_bytes().splitlines():
        record: dict[str, Any] = msgspec.json.decode(line)
        split, index, _ = record["id"].rsplit("-", 2)
        trajectory = Trajectory(
            id=record["id"],
            seed=seed,
            turns=tuple(_turn(turn) for turn in record["turns"]),
            terminated=record["terminated"],
            truncated=record["truncated"],
            score=record["score"],
            success=record["success"],
            outcome=record["outcome"],
            metrics=record["metrics"],
            fault=record["fault"],
        )
        task = Task(environment, split, int(index), seed)
        yield RecordedEpisode(source, record["id"], task, trajectory, final_observation=record["final_observation"])


def attempt_episode(source: str, attempt: AttemptRecord, environment: str, seed: int) -> RecordedEpisode:
    """Converts an attempt to a recorded episode. `environment`: the name of the attempt's environment on the server."""
    turns = [msgspec.to_builtins(turn) | {"finish_reason": _finish(turn.finish)} for turn in attempt.turns]
    trajectory = Trajectory(
        id=str(attempt.key),
        seed=seed,
        turns=tuple(_turn(turn) for turn in turns),
        terminated=attempt.terminated,
        truncated=attempt.truncated,
        score=attempt.score,
        success=attempt.success,
        outcome="ok" if attempt.status == "ok" else "policy_error",
        metrics=attempt.metrics,
        fault=attempt.error,
    )
    task = Task(environment, attempt.key.split, attempt.key.index, seed)
    return RecordedEpisode(source, str(attempt.key), task, trajectory, final_observation=attempt.final_observation)


def _finish(reason: str) -> str:
    return "length" if reason == "length" else "stop"


def _turn(record: Mapping[str, Any]) -> Turn:
    """Returns a turn without token ids."""
    return Turn(
        new_prompt_ids=b"",
        response_ids=b"",
        logprobs=b"",
        loss_mask=b"",
        spans=(),
        reward=float(record["reward"]),
        state_key=record["state_key"],
        observation_key="",
        action_valid=record["action_valid"],
        format_valid=record["format_valid"],
        finish_reason=record["finish_reason"],
        observation=record["observation"],
        response=record["response"],
        action=record["action"],
        images=tuple(record.get("images", ())),
        no_action=record["no_action"],
    )


class RecordedReplies:
    """A policy that returns the recorded replies of each episode.

    After the last recorded reply, the policy raises PromptTooLong. This error ends the episode. With a tokenizer, the
    policy also computes the token ids of each prompt from the new observations.
    """

    def __init__(self, episodes: Mapping[str, RecordedEpisode], tokens: Tokens | None) -> None:
        """`episodes`: the episodes, by the `seed_key` of their assignments."""
        self._episodes, self._tokens = episodes, tokens
        self._conversations = None if tokens is None else Conversations(tokens)

    async def respond(self, session: Session, state: StepOutcome, seed_key: str, turn: int) -> Response:
        """Returns the recorded reply of this turn.

        Raises:
            PromptTooLong: the episode has no further reply.
        """
        recorded = self._episodes[seed_key]
        if turn >= len(recorded.trajectory.turns):
            raise PromptTooLong(NO_MORE_REPLIES, 400)
        reply = recorded.trajectory.turns[turn]
        new: Any = ()
        reset = reply.reset
        if self._conversations is not None and recorded.has_tokens:
            conversation = self._conversations.for_turn(session, state, turn)
            new, reset = conversation.new_prompt_ids, conversation.reset
            conversation.add_response([int(i) for i in reply.tokens()], reply.response)
        ids = [int(i) for i in reply.tokens()]
        finish: Literal["stop", "length"] = "length" if reply.finish_reason == "length" else "stop"
        return Response(new, reset, ids, reply.behaviour_logprobs().tolist(), reply.spans, finish, reply.response)


NO_MORE_REPLIES = "the record has no further reply"


def assignments_of(episodes: list[RecordedEpisode]) -> tuple[list[Assignment], dict[str, RecordedEpisode]]:
    """Returns one assignment for each episode, and the episodes by the seed key of their assignments."""
    keys = [f"recorded/{number}" for number in range(len(episodes))]
    assignments = [
        Assignment(f"recorded-{number}", episode.task, key)
        for number, (episode, key) in enumerate(zip(episodes, keys, strict=True))
    ]
    return assignments, dict(zip(keys, episodes, strict=True))
