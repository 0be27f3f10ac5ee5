"""Plain prompting: the model gets the environment's prompt, and the environment gets the model's reply, unchanged."""

from __future__ import annotations

from arlarena.rollout.evaluation.strategies.protocol import TurnView


class PlainPlayer:
    """Plays the model's replies, as in training."""

    name = "plain"

    async def respond(self, view: TurnView) -> str:
        """See `strategies.protocol.Player`."""
        return (await view.call(view.messages)).text
