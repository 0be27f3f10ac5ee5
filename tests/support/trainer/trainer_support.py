"""Small synthetic groups and a tiny policy for the tests of the trainer."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from support.trainer.tiny_support import SOKOBAN
from transformers import PreTrainedModel

from arlarena.proto.trajectory import (
    Group,
    PolicyVersion,
    Sampling,
    Task,
    Trajectory,
    Turn,
    VersionSpan,
    pack_floats,
    pack_ids,
)
from arlarena.trainer.batching.packing import TrainingSample
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.model.tiny import create_tiny_policy
from arlarena.trainer.policy_settings import TinyPolicy

SMALL = TinyPolicy(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=64)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    create_tiny_policy(out, SMALL, seed=3, pieces=SOKOBAN)
    return out


@pytest.fixture
def policy(tiny_directory: Path) -> PreTrainedModel:
    return load_policy(tiny_directory)


def make_turn(prompt: list[int], response: list[int], version: PolicyVersion, reward: float, state: str) -> Turn:
    return Turn(
        new_prompt_ids=pack_ids(prompt),
        response_ids=pack_ids(response),
        logprobs=pack_floats([-0.5] * len(response)),
        loss_mask=bytes([1] * len(response)),
        spans=(VersionSpan(0, len(response), version),),
        reward=reward,
        state_key=state,
        observation_key=state,
        action_valid=True,
        format_valid=True,
        finish_reason="stop",
    )


@pytest.fixture(scope="session")
def make_group() -> Callable[..., Group]:
    def make(
        name: str,
        wins: list[bool],
        version: PolicyVersion,
        versions: list[PolicyVersion] | None = None,
        turns: int = 2,
    ) -> Group:
        trajectories = []
        for member, won in enumerate(wins):
            by = versions[member] if versions else version
            played = tuple(
                make_turn(
                    [3, 10 + k, 20, 4],
                    [5, 30 + (member + k) % 3, 6, 2],
                    by,
                    10.9 if won and k == turns - 1 else -0.1,
                    f"{name}-{k}",
                )
                for k in range(turns)
            )
            trajectories.append(Trajectory(f"{name}-{member}", 0, played, won, not won, float(won), won))
        task = Task("sokoban", "train", 0)
        return Group(name, task, len(wins), tuple(trajectories), Sampling(), version, version)

    return make


def random_rows(
    seed: int, count: int = 24, trajectories: int = 6, distinct: int = 9, instructions: int = 0
) -> list[TrainingSample]:
    """Return rows of several lengths with some masked tokens. Many rows are equal or have equal prompts.

    All prompts begin with the same `instructions` tokens.
    """
    generator = np.random.default_rng(seed)
    beginning = generator.integers(5, 90, instructions)
    prompts = [np.concatenate([beginning, generator.integers(5, 90, generator.integers(3, 12))]) for _ in range(5)]
    kinds = [
        (prompts[generator.integers(len(prompts))], generator.integers(5, 90, generator.integers(1, 7)))
        for _ in range(distinct)
    ]
    rows = []
    for number in range(count):
        prompt, response = kinds[generator.integers(distinct)]
        mask = (generator.random(len(response)) < 0.85).astype(np.uint8)
        behaviour = -generator.random(len(response)).astype(np.float32) * 6
        rows.append(
            TrainingSample(
                prompt.astype(np.int32),
                response.astype(np.int32),
                behaviour,
                mask,
                ((len(response), float(generator.normal())),),
                number % trajectories,
            )
        )
    return rows


def growing_rows(seed: int) -> list[TrainingSample]:
    """Return rows that each contain a complete episode: three turns, with tool output between the turns.

    The policy did not sample the tool output, so its tokens are masked.
    """
    generator = np.random.default_rng(seed)
    rows = []
    for number in range(6):
        sizes = [int(n) for n in generator.integers(1, 6, 5)]  # turn, tool, turn, tool, turn
        mask = np.concatenate([np.full(size, place % 2 == 0) for place, size in enumerate(sizes)]).astype(np.uint8)
        turns = ((sizes[0] + sizes[1], 0.7 - number), (sizes[2] + sizes[3], -0.4), (sizes[4], 0.1 * number))
        response = generator.integers(5, 90, len(mask)).astype(np.int32)
        behaviour = -generator.random(len(mask)).astype(np.float32) * 6
        prompt = generator.integers(5, 90, 7).astype(np.int32)
        rows.append(TrainingSample(prompt, response, behaviour, mask, turns, number))
    return rows
