"""A player that uses the environment's expert. Its results are an upper reference for models."""

from __future__ import annotations

from collections import deque

from arlarena.client.errors import Refused
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.strategies.protocol import TurnView


class ExpertPlayer:
    """Plays the replies of the environment's expert."""

    name = "expert"

    async def respond(self, view: TurnView) -> str:
        """See `strategies.protocol.Player`.

        Raises:
            EvaluationError: the environment has no expert, or the server does not allow the expert for this split.
        """
        session, plan = view.memory.get("expert", ("", deque()))
        if session != view.session.id or not plan:
            try:
                plan = deque((await view.session.expert()).plan)
            except Refused as error:
                raise EvaluationError(
                    f"the expert cannot play: {error}; if this is an evaluation split, add the split to the key "
                    "`expert_splits` of the table [environment], and restart the environment server"
                ) from error
            view.memory["expert"] = (view.session.id, plan)
        return str(plan.popleft())
