"""The lines of an episodes file (`RUN/episodes/LABEL.jsonl`). Each line is one episode in JSON, without tokens.

Files of earlier releases may lack some keys. These keys have defaults.
"""

from __future__ import annotations

import msgspec

from arlarena.proto.trajectory import PolicyVersion, Task, Trajectory, Turn, VersionSpan

SCHEMA = 2


class TurnLine(msgspec.Struct):
    """A turn of an episode in an episodes file.

    `turn`: the turn's number, from 0. `logprob`: sum of the log-probs of the reply's tokens, in nats. `version`: text
    of the weight version that sampled the reply's first token. `response_tokens`: number of the reply's tokens.
    `trajectory.Turn` describes the other keys.
    """

    turn: int = 0
    observation: str = ""
    response: str = ""
    action: str = ""
    reward: float = 0.0
    action_valid: bool = True
    format_valid: bool = True
    no_action: bool = False
    finish_reason: str = "stop"
    state_key: str = ""
    admissible_actions: tuple[str, ...] = ()
    version: str = ""
    response_tokens: int = 0
    logprob: float = 0.0

    @classmethod
    def of(cls, number: int, turn: Turn) -> TurnLine:
        """Returns the `TurnLine` of the turn with this number. Values are rounded, and tokens are left out."""
        return cls(
            turn=number,
            observation=turn.observation,
            response=turn.response,
            action=turn.action,
            reward=turn.reward,
            action_valid=turn.action_valid,
            format_valid=turn.format_valid,
            no_action=turn.no_action,
            finish_reason=turn.finish_reason,
            state_key=turn.state_key,
            admissible_actions=turn.admissible_actions,
            version=str(turn.spans[0].version) if turn.spans else "",
            response_tokens=len(turn.loss_mask),
            logprob=round(float(turn.behaviour_logprobs().sum()), 4),
        )

    def to_turn(self) -> Turn:
        """Returns the turn. It has no tokens, because the line has none. An invalid `version` is left out."""
        try:
            version = PolicyVersion.parse(self.version) if self.version else None
        except ValueError:
            version = None
        return Turn(
            new_prompt_ids=b"",
            response_ids=b"",
            logprobs=b"",
            loss_mask=b"",
            spans=() if version is None else (VersionSpan(0, self.response_tokens, version),),
            reward=self.reward,
            state_key=self.state_key,
            observation_key="",
            action_valid=self.action_valid,
            format_valid=self.format_valid,
            finish_reason="length" if self.finish_reason == "length" else "stop",
            observation=self.observation,
            response=self.response,
            action=self.action,
            no_action=self.no_action,
            admissible_actions=self.admissible_actions,
        )


class EpisodeLine(msgspec.Struct):
    """One episode: a line of an episodes file. `return_`: sum of the rewards, without discount.

    `trajectory.Task`, `trajectory.Trajectory` and `env_api.Metadata` describe the other keys.
    """

    id: str
    task: str
    turns: tuple[TurnLine, ...]
    schema: int = SCHEMA
    split: str | None = None
    index: int | None = None
    seed: int | None = None
    kind: str = ""
    success: bool = False
    score: float = 0.0
    return_: float = msgspec.field(default=0.0, name="return")
    outcome: str = "ok"
    fault: str = ""
    terminated: bool = False
    truncated: bool = False
    optimal_moves: int | None = None
    metrics: dict[str, float] = {}
    final_observation: str | None = None
    duration_s: float = 0.0

    @classmethod
    def of(
        cls, task: Task, trajectory: Trajectory, *, optimal_moves: int | None, final_observation: str
    ) -> EpisodeLine:
        """Returns the `EpisodeLine` of the episode `trajectory` of `task`. `final_observation`: after the last turn."""
        return cls(
            id=trajectory.id,
            task=task.id,
            turns=tuple(TurnLine.of(number, turn) for number, turn in enumerate(trajectory.turns)),
            split=task.split,
            index=task.index,
            seed=task.seed,
            kind=trajectory.kind,
            success=trajectory.success,
            score=trajectory.score,
            return_=round(trajectory.total_reward, 4),
            outcome=trajectory.outcome,
            fault=trajectory.fault,
            terminated=trajectory.terminated,
            truncated=trajectory.truncated,
            optimal_moves=optimal_moves,
            metrics=trajectory.metrics,
            final_observation=final_observation,
            duration_s=round(trajectory.duration_s, 3),
        )

    def to_task(self, seed: int) -> Task:
        """Returns the episode's task. `seed`: replaces a missing seed. An unknown index becomes -1."""
        environment, _, rest = self.task.partition("/")
        split, _, index = rest.partition("/")
        number = int(index) if index.isascii() and index.isdigit() and len(index) < 19 else -1
        chosen = self.index if self.index is not None else number
        name = "" if index == str(chosen) else index
        return Task(environment, self.split or split, chosen, self.seed if self.seed is not None else seed, name)

    def to_trajectory(self) -> Trajectory:
        """Returns the episode. Its turns have no tokens, because the line has none."""
        return Trajectory(
            id=self.id,
            seed=self.seed or 0,
            turns=tuple(turn.to_turn() for turn in self.turns),
            terminated=self.terminated,
            truncated=self.truncated,
            score=self.score,
            success=self.success,
            outcome="policy_error" if self.outcome == "policy_error" else "ok",
            duration_s=self.duration_s,
            metrics=self.metrics,
            fault=self.fault,
            kind=self.kind,
        )
