"""Records the games of people.

episodes.jsonl          episodes in the format of an evaluation
conversations.jsonl     conversations for behaviour cloning
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from arlarena.client.environments import StepOutcome
from arlarena.proto.records.episode_lines import EpisodeLine, TurnLine
from arlarena.proto.text.redaction import masked
from arlarena.proto.trajectory import Task


class PersonTurn(TurnLine):
    """A turn of a person's episode. `seconds`: time since the previous action; None for a replayed turn."""

    seconds: float | None = None


class PersonEpisode(EpisodeLine):
    """A finished game of a person. `options`: the environment's options, which a continued game needs again."""

    turns: tuple[PersonTurn, ...] = ()
    player: str = "human"
    options: dict[str, Any] = msgspec.field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class GameTurn:
    """One turn of a game. `by_person`: False for replayed turns of a recorded episode."""

    before: StepOutcome
    reply: str
    after: StepOutcome
    seconds: float
    by_person: bool

    def line(self, number: int) -> PersonTurn:
        """Returns the turn as a record for episodes.jsonl. `number`: the turn's number, from 0."""
        return PersonTurn(
            turn=number,
            observation=self.before.observation.text,
            response=self.reply,
            action=self.after.metadata.action,
            reward=self.after.reward,
            action_valid=self.after.observation.action_valid,
            format_valid=self.after.observation.format_valid,
            no_action=self.after.metadata.no_action,
            state_key=self.before.metadata.state_key,
            admissible_actions=tuple(self.before.observation.admissible_actions or ()),
            seconds=round(self.seconds, 3) if self.by_person else None,
        )


def played_line(
    id: str, task: Task, options: dict[str, Any], first: StepOutcome, turns: Sequence[GameTurn], started: float
) -> PersonEpisode:
    """Returns the line of a finished game. `options`: the environment's options. Masks secrets in these options."""
    last = turns[-1].after
    lines = tuple(turn.line(number) for number, turn in enumerate(turns))
    return PersonEpisode(
        id=id,
        task=task.id,
        turns=lines,
        options=masked(options),
        split=task.split,
        index=task.index,
        seed=task.seed,
        kind=first.metadata.kind,
        success=last.metadata.success,
        score=last.metadata.score,
        return_=round(sum(turn.reward for turn in lines), 4),
        terminated=last.observation.terminated,
        truncated=last.observation.truncated,
        optimal_moves=first.metadata.optimal_moves,
        metrics={"turns": float(len(lines))} | _counts(lines),
        final_observation=last.observation.text,
        duration_s=round(time.time() - started, 3),
    )


def _counts(lines: Sequence[TurnLine]) -> dict[str, float]:
    tried = Counter((line.state_key, line.action) for line in lines)
    return {
        "repeated_actions": float(sum(count - 1 for count in tried.values())),
        "invalid_actions": float(sum(not line.action_valid for line in lines)),
        "no_action_turns": float(sum(line.no_action for line in lines)),
    }


def conversations(turns: Sequence[GameTurn], score: float) -> list[dict[str, Any]]:
    """Returns the conversations for cloning.

    If the environment sends a message per turn, the context grows, and all turns are one conversation. Otherwise every
    prompt is complete, and each turn of the person is one conversation.
    """
    if turns[0].before.observation.message is not None:
        # Cloning trains on every reply of a conversation. If a game continues a model's episode, its conversation also
        # contains replies of the model. Such a game is left out.
        if not all(turn.by_person for turn in turns):
            return []
        messages: list[dict[str, str]] = []
        for turn in turns:
            message = turn.before.observation.message or turn.before.prompt
            messages += [{"role": "user", "content": message}, {"role": "assistant", "content": turn.reply}]
        return [{"messages": messages, "score": score}]
    return [
        {
            "messages": [
                {"role": "user", "content": turn.before.prompt},
                {"role": "assistant", "content": turn.reply},
            ],
            "score": score,
        }
        for turn in turns
        if turn.by_person
    ]


def append_lines(path: Path, values: Sequence[Any]) -> None:
    """Append JSON lines to a file with one write. For a concurrent reader, at most the last line is incomplete.

    Raises:
        OSError: the file cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    data = b"".join(msgspec.json.encode(value) + b"\n" for value in values)
    with path.open("ab", buffering=0) as file:
        file.write(data)
