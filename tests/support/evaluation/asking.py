"""A model that sends its requests to an imitation server."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from support.evaluation.imitation import Imitation, Kind, serve
from support.evaluation.sdks import needs_sdk

from arlarena.rollout.evaluation.models.connection import ApiLimits
from arlarena.rollout.evaluation.models.protocol import ChatModel, ModelMessage, Reply, SamplingRequest
from arlarena.rollout.evaluation.models.registry import open_model

ASK = (ModelMessage("user", "Which way?"),)
LIMITS = ApiLimits(request_s=10.0, connect_s=2.0, reply_bytes=1 << 20)
SEED = 2**63 - 1


@asynccontextmanager
async def running(kind: Kind, *, limits: ApiLimits = LIMITS, name: str = "m-1", **options: Any) -> AsyncIterator[Any]:
    """Yield an imitation server, and a model that sends its requests to this server."""
    needs_sdk(kind)
    async with serve(Imitation(kind, **options)) as server:
        model = open_model(f"{kind}/{name}", base_url=server.url, limits=limits)
        try:
            yield server, model
        finally:
            await model.close()


async def ask(model: ChatModel, *messages: ModelMessage, **sampling: Any) -> Reply:
    return await model.reply(messages or ASK, SamplingRequest(**sampling), seed=SEED)
