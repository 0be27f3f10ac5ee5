"""Demonstrations of real environments, recorded through a real server."""

import asyncio
import hashlib

import pytest
from support.environments.conversation_support import serving

from arlarena.client.environments import EnvironmentClient
from arlarena.environment.registry import load
from arlarena.proto.telemetry import get_logger
from arlarena.rollout.demonstrate import demonstration_assignments
from arlarena.rollout.play_all import play_all
from arlarena.rollout.policies import ExpertPolicy
from arlarena.rollout.runner import Runner
from arlarena.rollout.settings import RolloutSettings
from arlarena.rollout.tokens import Tokens

TASKS = 12


async def recorded(
    url: str, tokens: Tokens, expert_noise: float, *, train_on_noise: bool
) -> list[tuple[str, bytes, bytes]]:
    """Response, token ids and loss mask of each turn."""
    async with EnvironmentClient(url) as environments:
        info = await environments.info()
        runner = Runner(environments, None, RolloutSettings(), get_logger("test"))
        assignments = demonstration_assignments(info.name, "train", range(TASKS), seed=0)
        expert = ExpertPolicy(tokens, expert_noise, train_on_noise=train_on_noise, action=info.parser.action)
        played = await play_all(runner, assignments, expert, concurrency=TASKS)
    episodes = [played.episodes[position].trajectory for position in range(TASKS)]
    return [(turn.response, bytes(turn.response_ids), bytes(turn.loss_mask)) for one in episodes for turn in one.turns]


@pytest.mark.parametrize(
    ("name", "expert_noise", "train_on_noise", "expected"),
    [
        ("sokoban", 0.4, False, "c278d18d3bc24b0d"),
        ("sokoban", 0.15, True, "4ac19c6c074daf9b"),
        ("alfworld", 0.4, False, "c27b764e06a00ebb"),
    ],
)
def test_demonstrations_of_a_seed_stay_the_same(
    tokens: Tokens, name: str, expert_noise: float, train_on_noise: bool, expected: str
) -> None:
    with serving(load("test", name, {})) as url:
        turns = asyncio.run(recorded(url, tokens, expert_noise, train_on_noise=train_on_noise))
    assert hashlib.sha256(repr(turns).encode()).hexdigest()[:16] == expected
