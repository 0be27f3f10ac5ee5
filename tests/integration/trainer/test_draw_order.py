"""The trainer asks a real environment server for the size of its split."""

import json

import pytest
from support.environments.environment_support import environment_server

from arlarena.client.errors import ServiceError
from arlarena.proto.config import ConfigError
from arlarena.proto.telemetry import Logger
from arlarena.trainer.collector import Interrupted
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import CheckpointError, TrainerState
from arlarena.trainer.state.tasks import draw_order

LOG = Logger("test", "error")


def listed(folder, count):
    """Start a TIR Math server with `count` training problems."""
    folder.mkdir()
    problems = [{"problem": f"What is {i} + {i}?", "answer": str(2 * i)} for i in range(count)]
    (folder / "train.jsonl").write_text("".join(json.dumps(problem) + "\n" for problem in problems))
    options = f'[environment.options]\nvalidation_share = 0.0\ntrain = "{folder}/train.jsonl"\n'
    return environment_server(folder, "tir_math", extra=options)


@pytest.mark.slow  # eleven seconds: two trainers and a server; tests/unit/proto/test_task_order.py is quick
async def test_a_finite_split_is_drawn_in_epochs_and_a_resumed_run_keeps_the_order(tmp_path):
    settings, state = TrainerSettings(), TrainerState()
    with listed(tmp_path / "five", 5) as (url, _):
        order = await draw_order(url, "tir_math", settings, 3, state, LOG)
        assert (order.size, order.seed) == (5, 3)
        assert sorted(order.index(position) for position in range(5)) == list(range(5))
        resumed = TrainerState.from_json(json.loads(json.dumps(state.to_json())))
        assert await draw_order(url, "tir_math", settings, 3, resumed, LOG) == order
        (served,) = resumed.served  # the second trainer met the same environment
        assert served["name"] == "tir_math"
        assert served["template"].startswith("full ")
        with pytest.raises(CheckpointError, match=r"'seed': 3.* but the settings give .*'seed': 4"):
            await draw_order(url, "tir_math", settings, 4, resumed, LOG)
        with pytest.raises(CheckpointError, match=r"'group_size': 8.* but the settings give .*'group_size': 4"):
            await draw_order(url, "tir_math", TrainerSettings(group_size=4), 3, resumed, LOG)
        with pytest.raises(CheckpointError, match=r"'tir_math'.* but the settings give .*'environment': 'guess'"):
            await draw_order(None, "guess", settings, 3, resumed, LOG)
        with pytest.raises(ConfigError, match="task_split = 'rain': tir_math has no such split; known: train"):
            await draw_order(url, "tir_math", TrainerSettings(task_split="rain"), 3, TrainerState(), LOG)
        with pytest.raises(ConfigError, match=r"name = 'sokoban', but the server at .* plays tir_math; give"):
            await draw_order(url, "sokoban", settings, 3, TrainerState(), LOG)
    with (
        listed(tmp_path / "six", 6) as (url, _),
        pytest.raises(CheckpointError, match=r"'size': 5.* but the settings give .*'size': 6"),
    ):
        await draw_order(url, "tir_math", settings, 3, resumed, LOG)


async def test_without_a_server_the_split_is_endless(tmp_path):
    order = await draw_order(None, "sokoban", TrainerSettings(), 1, TrainerState(), LOG)
    assert (order.size, order.index(2)) == (None, 2_000_002)


async def test_an_unreachable_server_is_named_after_the_wait():
    with pytest.raises(ServiceError, match=r"environment server at http://127.0.0.1:9 did not answer within 0 s"):
        await draw_order("http://127.0.0.1:9", "sokoban", TrainerSettings(service_wait_s=0.2), 1, TrainerState(), LOG)


async def test_a_stop_request_ends_the_wait_for_the_server():
    def guard():
        raise Interrupted("asked to stop")

    with pytest.raises(Interrupted):
        await draw_order("http://127.0.0.1:9", "sokoban", TrainerSettings(), 1, TrainerState(), LOG, guard)
