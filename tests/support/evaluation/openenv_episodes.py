"""Episodes on our own server and on OpenEnv servers."""

from typing import Any

from arlarena.client.environments import EnvironmentClient, StepOutcome
from arlarena.client.transport import Timeouts

QUICK = Timeouts(2.0, 5.0)


async def solve(url: str, index: int) -> list[str]:
    """The expert's replies for a task."""
    async with EnvironmentClient(url, QUICK) as client:
        (session,) = await client.open(1)
        await session.reset(split="train", index=index, seed=0)
        plan = (await session.expert()).plan
        await session.close()
        return plan


async def play(session: Any, replies: list[str], **task: Any) -> list[StepOutcome]:
    """All states of an episode."""
    states = [await session.reset(**task)]
    for reply in replies:
        states.append(await session.step(reply))
    return states
