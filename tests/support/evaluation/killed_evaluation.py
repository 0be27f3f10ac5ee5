"""An evaluation in a separate process, which a test kills. Its model sends requests to a server that counts them.

python -m support.evaluation.killed_evaluation DIRECTORY ENVIRONMENT_URL MODEL_URL TASKS
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import aiohttp
from support.evaluation.evaluation_support import Evaluation, ScriptedModel

from arlarena.rollout.evaluation.models.errors import Retryable
from arlarena.rollout.evaluation.models.protocol import ModelMessage, Reply, SamplingRequest, TokenUsage


class RemoteModel(ScriptedModel):
    """A model that sends each request to the counting server. The server replies with a move."""

    def __init__(self, url: str, session: aiohttp.ClientSession) -> None:
        super().__init__(lambda messages, seed: "")
        self._url, self._session = url, session

    async def reply(self, messages: Sequence[ModelMessage], sampling: SamplingRequest, *, seed: int) -> Reply:
        body = {"seed": seed, "prompt": messages[-1].text}
        async with self._session.post(self._url, json=body) as answer:
            if answer.status != 200:
                raise Retryable(f"status {answer.status}")
            text = await answer.text()
        return Reply(text, usage=TokenUsage(1, 1), model="remote")


async def main(directory: Path, environment: str, model: str, tasks: int) -> None:
    async with aiohttp.ClientSession() as session:
        outcome = await Evaluation(directory, RemoteModel(model, session)).run({"sokoban": environment}, tasks)
    print(outcome.remaining, outcome.possibly_charged, flush=True)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])))
