"""Plays recorded episodes again, and compares the transcripts."""

from __future__ import annotations

from arlarena.environments.webshop.environment import WebShopEnvironment
from arlarena.environments.webshop.human.record import HumanEpisode, HumanTurn
from arlarena.environments.webshop.human.visit import Visit
from arlarena.proto.env_api import ResetSpec

# Times differ. Earlier releases did not record the admissible actions; these follow from the observation.
NOT_COMPARED = ("seconds", "started_at", "duration_s", "admissible_actions")
ENDING = ("success", "score", "total_reward", "terminated", "truncated", "purchase", "final_observation")


class ReplayMismatch(ValueError):
    """A replay differs from its record. The message names the first difference."""


def replay(environment: WebShopEnvironment, recorded: HumanEpisode) -> HumanEpisode:
    """Play the responses of a recorded episode again. Return the new record. It differs from the old record only in
    times.

    Raises:
        TaskError: the environment has no such task.
        ReplayMismatch: an observation, a reward, a flag or the outcome differs.
    """
    visit = Visit(environment, environment.task(ResetSpec(task_id=recorded.task)), recorded.id)
    for turn in recorded.turns:
        if visit.done:
            raise ReplayMismatch(f"{recorded.id}, turn {turn.turn}: the replay has ended, but the record continues")
        visit.play_response(turn.response)
    played = visit.record()
    for old, new in zip(recorded.turns, played.turns, strict=True):
        _compare(f"{recorded.id}, turn {old.turn}", old, new, old.__struct_fields__)
    _compare(f"{recorded.id}, at the end", recorded, played, ENDING)
    return played


def _compare(where: str, old: HumanTurn | HumanEpisode, new: HumanTurn | HumanEpisode, names: tuple[str, ...]) -> None:
    for name in names:
        before, after = getattr(old, name), getattr(new, name)
        if name not in NOT_COMPARED and before != after:
            raise ReplayMismatch(
                f"{where}: {name} is {str(before)[:200]!r} in the record, but {str(after)[:200]!r} in the replay"
            )
