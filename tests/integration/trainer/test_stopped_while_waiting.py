"""SIGTERM ends a trainer within seconds, also while the trainer retries a push or waits for the environment server."""

import asyncio
import os
import signal

import pytest
from support.trainer.trainer_processes_support import prepare, start_trainer, train_arguments

NOBODY = "http://127.0.0.1:9"  # the discard port: connections are refused


@pytest.mark.parametrize(
    ("option", "event"), [("--inference-url", "push_retry"), ("--environment-url", "environment_unavailable")]
)
async def test_a_trainer_that_waits_for_a_server_stops_on_sigterm(
    option, event, redis_url, run_name, tmp_path, tiny_directory
):
    run = tmp_path / "run"
    prepare(run, 8)
    arguments = train_arguments(run, run_name, tiny_directory, redis_url, option, NOBODY)
    pid, ended = await start_trainer(arguments, run / "log")
    try:
        async with asyncio.timeout(60):
            while f'"{event}"' not in (run / "log").read_text():
                assert not ended.done(), (run / "log").read_text()[-2000:]
                await asyncio.sleep(0.02)
            os.kill(pid, signal.SIGTERM)
            async with asyncio.timeout(10):  # the launcher's `stop_timeout_s`
                assert await asyncio.shield(ended) == 128 + signal.SIGTERM
    finally:
        if not ended.done():
            os.kill(pid, signal.SIGKILL)
    assert '"stopped"' in (run / "log").read_text()
