"""The interface of players. A player chooses the reply to the environment in each turn of an attempt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from arlarena.client.environments import Session, StepOutcome
from arlarena.rollout.evaluation.models.protocol import ModelMessage, Reply


class ModelCaller(Protocol):
    """Sends the requests of one attempt: waits for limits, retries failed requests, records and replays replies."""

    async def __call__(self, messages: Sequence[ModelMessage], *, purpose: str = "answer") -> Reply:
        """Return the model's reply. `purpose`: purpose of the request for the record, such as "debater 2".

        Raises:
            TooLong: the messages do not fit the model's context.
            AttemptFailed: the request failed too often, or must not be repeated.
            EvaluationStopped: the evaluation ends, for example because a budget is used up. The attempt stays
                unfinished and can be resumed.
        """
        ...


class TurnView:
    """The input of a player in one turn.

    Attributes:
        turn: number of the turn, from 0.
        state: the environment's observation and metadata. Only the expert may use the session.
        messages: the prompt as in training: the conversation so far, or one message with the rendered template.
        call: sends requests to the model.
        seed_key: the text that, together with `turn`, determines all random choices of this attempt.
        memory: the player's notes of this attempt. Empty at turn 0. A replay of turns does not call the player, and
            keeps the notes.
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
    """Chooses replies: a strategy with a model, an expert, a random player or a person.

    `name`: for records, such as "plain" or "react".
    """

    @property
    def name(self) -> str: ...  # noqa: D102

    async def respond(self, view: TurnView) -> str:
        """Return the text that the environment parses."""
        ...
