"""Small synthetic groups, a tiny policy (see `trainer_support`), and a run without interruptions."""

import asyncio
import uuid

import pytest
from support.trainer.trainer_processes_support import ALONE_STEPS, prepare, recorded, train_with_ends
from support.trainer.trainer_support import make_group, tiny_directory

__all__ = ["make_group", "tiny_directory"]


@pytest.fixture(scope="session")
def alone(redis_url, tmp_path_factory, tiny_directory, make_group):
    """Return the directory of a run of `ALONE_STEPS` steps on recorded groups, without interruptions."""
    run = tmp_path_factory.mktemp("alone") / "run"
    prepare(run, ALONE_STEPS)
    name = f"alone-{uuid.uuid4().hex}"
    assert asyncio.run(train_with_ends(redis_url, name, run, tiny_directory, recorded(run, make_group), [])) == 0
    return run
