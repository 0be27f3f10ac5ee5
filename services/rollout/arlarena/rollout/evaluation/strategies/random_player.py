"""A player that chooses random actions. Its results are a lower reference for models."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random

from arlarena.rollout.episode import turn_seed
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.strategies.protocol import TurnView
from arlarena.rollout.evaluation.strategies.reply_format import ReplyFormat


@dataclass(frozen=True, slots=True)
class RandomPlayer:
    """Plays a uniformly random admissible action. The turn's seed determines the action."""

    reply_format: ReplyFormat
    name: str = "random"

    async def respond(self, view: TurnView) -> str:
        """See `strategies.protocol.Player`.

        Raises:
            EvaluationError: the environment does not list its admissible actions.
        """
        actions = view.state.observation.admissible_actions
        if not actions:
            raise EvaluationError(
                f"task {view.state.metadata.task_id} lists no admissible actions, so a random player cannot choose; "
                "use another player for this environment"
            )
        return self.reply_format.write(Random(turn_seed(view.seed_key, view.turn)).choice(actions))
