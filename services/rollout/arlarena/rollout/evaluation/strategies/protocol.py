"""The interface of players. A player chooses the reply to the environment in each turn of an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from arlarena.client.environments import Session, StepOutcome
from arlarena.rollout.evaluation.models.protocol import ModelMessage, Reply


class ModelCaller(Protocol):
    """Sends the requests of one attempt. It obeys rate limits, retries failed requests, and records replies."""

    async def __call__(self, messages: Sequence[ModelMessage], *, purpose: str = "answer") -> Reply:
        """Return the model's reply. `purpose`: purpose of the request in the journal, such as "debater 2 round 1".

        Raises:
            TooLong: the messages do not fit the model's context.
            AttemptFailed: the request failed for too long, or the same request would fail again.
            EvaluationStopped: the evaluation ends, for example because a budget is spent. The attempt stays unfinished
                and can be resumed.
            EvaluationError: the evaluation cannot continue.
        """
        ...


class TurnView:
    """The input of a player in one turn.

    Attributes:
        turn: number of the turn, from 0.
        session: the environment's session. Only the expert player may use it.
        state: the environment's observation and metadata.
        messages: the same prompt as in training. It is the conversation so far, or one message with the rendered
            template.
        call: sends a request to the model and returns the reply.
        seed_key: a text. `seed_key` and `turn` determine all random choices in this turn.
        memory: the player's data for this attempt, empty at turn 0. If recorded turns are replayed in a new session,
            the player is not called and the data is kept.
    """

    def __init__(
        self,
        turn: int,
        session: Session,
        state: StepOutcome,
        messages: Sequence[ModelMessage],
        call: ModelCaller,
        seed_key: str,
        memory: dict[str, Any],
    ) -> None:
        self.turn, self.session, self.state = turn, session, state
        self.messages, self.call, self.seed_key, self.memory = tuple(messages), call, seed_key, memory


class Player(Protocol):
    """Chooses replies. A player is an expert, a random player, a person, or a model with a strategy.

    `name`: name in records, such as "plain" or "react".
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    async def respond(self, view: TurnView) -> str:
        """Return the reply in this turn. The environment parses the reply."""
        ...
