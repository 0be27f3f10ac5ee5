"""Plays many assignments on a fixed number of session slots. A slot has one session and plays one assignment after
another.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from arlarena.proto.telemetry import Logger
from arlarena.rollout.episode import Assignment, EpisodeRecord, Policy
from arlarena.rollout.runner import InfraFailure, Runner, ServicesDown, SessionSlot

# The minimum time between two progress lines, in seconds.
PROGRESS_EVERY_S = 5.0


@dataclass(slots=True)
class EvalResults:
    """Episodes and errors, by the position of the assignment in the list of assignments. `restarts`: number of times
    that an episode was restarted.

    If a service was down, the remaining assignments were not played. They have no episode and no error.
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
    """Play all `assignments`, at most `concurrency` at a time. Returns the episodes and errors.

    The function calls `progress(finished, total)` after each assignment.

    Raises:
        Refused: a service rejects an assignment, for example because the task's index is outside the split.
        ServicesDown: no session could be opened.
    """
    slots = await runner.open_up_to(min(concurrency, len(assignments)))
    played, waiting = EvalResults(), iter(enumerate(assignments))

    async def play_on(slot: SessionSlot) -> None:
        for position, assignment in waiting:
            try:
                played.episodes[position] = await runner.episode(slot, assignment, policy)
            except InfraFailure as error:
                played.errors[position] = str(error)
                if isinstance(error, ServicesDown):
                    return
            if progress is not None:
                progress(len(played.episodes) + len(played.errors), len(assignments))

    playing = [asyncio.ensure_future(play_on(slot)) for slot in slots]
    try:
        await asyncio.gather(*playing)
    finally:
        for task in playing:
            task.cancel()
        await asyncio.gather(*playing, return_exceptions=True)
        await runner.close(slots)
    played.restarts = sum(slot.restarts for slot in slots)
    return played


def progress_log(log: Logger, event: str, total: int) -> Callable[[int, int], None]:
    """Returns a `progress` callback for `play_all`. It logs `event` every PROGRESS_EVERY_S s, and at the end."""
    log.info(event, finished=0, total=total)
    last = time.monotonic()

    def report(finished: int, total: int) -> None:
        nonlocal last
        if finished == total or time.monotonic() - last >= PROGRESS_EVERY_S:
            last = time.monotonic()
            log.info(event, finished=finished, total=total)

    return report
