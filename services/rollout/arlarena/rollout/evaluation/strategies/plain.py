"""Plain prompting: the environment's prompt is sent as it is, and the model's reply is played as it is."""

from __future__ import annotations

from arlarena.rollout.evaluation.strategies.protocol import TurnView


class PlainPlayer:
    """Plays the model's replies, as in training."""

    name = "plain"

    async def respond(self, view: TurnView) -> str:
        """See `strategies.protocol.Player`."""
        return (await view.call(view.messages)).text
