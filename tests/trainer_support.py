"""Small made-up groups and a tiny policy, for the tests of the trainer."""

from collections.abc import Callable
from pathlib import Path

import pytest
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
    pack_mask,
)
from arlarena.trainer.model import load_policy
from arlarena.trainer.settings import TinyPolicy
from arlarena.trainer.tiny import create_tiny_policy

SMALL = TinyPolicy(hidden=32, layers=2, heads=2, kv_heads=1, head_dim=16, ffn=64)


@pytest.fixture(scope="session")
def tiny_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tiny")
    create_tiny_policy(out, SMALL, seed=3)
    return out


@pytest.fixture
def policy(tiny_directory: Path) -> PreTrainedModel:
    return load_policy(tiny_directory)


def make_turn(prompt: list[int], response: list[int], version: PolicyVersion, reward: float, state: str) -> Turn:
    return Turn(
        prompt_ids=pack_ids(prompt),
        response_ids=pack_ids(response),
        logprobs=pack_floats([-0.5] * len(response)),
        loss_mask=pack_mask([1] * len(response)),
        spans=(VersionSpan(0, len(response), version),),
        reward=reward,
        state_key=state,
        observation_key=state,
        action_valid=True,
        format_valid=True,
        finish_reason="stop",
    )


@pytest.fixture
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
