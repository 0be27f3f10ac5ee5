"""Many assignments, a fixed number of seats: each seat takes the next assignment as soon as it is free."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arlarena.rollout.episode import Assignment, EpisodeRecord, Policy
from arlarena.rollout.runner import InfraFailure, Runner, ServicesDown, SessionSlot


@dataclass(slots=True)
class EvalResults:
    """What became of the assignments, by their position. Those in neither were not played, because the services went
    away.
    """

    episodes: dict[int, EpisodeRecord] = field(default_factory=dict)
    errors: dict[int, str] = field(default_factory=dict)
    restarts: int = 0


async def play_all(
    runner: Runner,
    assignments: Sequence[Assignment],
    policy: Policy,
    *,
    concurrency: int,
    progress: Callable[[int, int], None] | None = None,
) -> EvalResults:
    """Play all of `assignments`, at most `concurrency` at a time; `progress` hears (finished, all) after each.

    Raises:
        Refused: a service says that an assignment is wrong, for example an index beyond the split.
        ServicesDown: there was no session to begin with.
    """
    seats = await runner.open_up_to(min(concurrency, len(assignments)))
    played, waiting = EvalResults(), iter(enumerate(assignments))

    async def serve(seat: SessionSlot) -> None:
        for position, assignment in waiting:
            try:
                played.episodes[position] = await runner.episode(seat, assignment, policy)
            except InfraFailure as error:
                played.errors[position] = str(error)
                if isinstance(error, ServicesDown):
                    return
            if progress is not None:
                progress(len(played.episodes) + len(played.errors), len(assignments))

    serving = [asyncio.ensure_future(serve(seat)) for seat in seats]
    try:
        await asyncio.gather(*serving)
    finally:
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
        await runner.close(seats)
    played.restarts = sum(seat.restarts for seat in seats)
    return played
