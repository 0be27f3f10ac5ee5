"""A trainer on two ranks (processes, started by torchrun) gives the result of a trainer on one rank."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file
from support.trainer.recordings_support import Recordings, config_of

from arlarena.proto.streams.queue import Streams

STEPS = 4
LAST = f"checkpoints/step-{STEPS:06d}"


async def train(redis_url, name, run, policy, make_group, launch, *flags):
    """Run a trainer on recorded groups, and return its exit status. `launch`: arguments of `python`, for torchrun."""
    run.mkdir(exist_ok=True)
    (run / "run.toml").write_text(config_of(STEPS, tokens_per_microbatch=64, device="cpu"))
    command = [sys.executable, *launch, "-m", "arlarena.trainer", "train", "--config", run / "run.toml", "--model",
    policy,            "--run-dir", run, "--run-name", name, "--redis-url", redis_url, *flags]  # fmt: skip
    async with await Streams.connect(redis_url, name, retry_delay_s=0.05) as streams:
        feeding = asyncio.create_task(Recordings(streams, run / "weights", make_group).serve())
        with (run / "log").open("w") as log:
            process = subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, stdout=log, stderr=log)
        try:
            return await asyncio.to_thread(process.wait, 100)
        finally:
            process.kill()
            feeding.cancel()
            await asyncio.gather(feeding, return_exceptions=True)


def torchrun(count):
    return ["-m", "arlarena.trainer.torchrun", "--standalone", "--nproc-per-node", str(count)]


# Slow: torchrun starts several processes, each of which imports torch. numerics/trainer/test_two_ranks.py is quick.
@pytest.mark.slow
async def test_two_ranks_give_the_result_of_one(redis_url, run_name, tmp_path, tiny_directory, make_group):
    alone, together = tmp_path / "alone", tmp_path / "together"
    assert await train(redis_url, run_name + "-1", alone, tiny_directory, make_group, []) == 0
    status = await train(redis_url, run_name + "-2", together, tiny_directory, make_group, torchrun(2))
    assert status == 0, (together / "log").read_text()[-3000:]
    first, second = (load_file(run / LAST / "model.safetensors") for run in (alone, together))
    assert first.keys() == second.keys()
    for key, value in first.items():
        torch.testing.assert_close(
            second[key], value, atol=2e-3, rtol=1e-3
        )  # an Adam step can change a weight by the learning rate, even if the gradient is tiny
    files = [(run / "metrics.jsonl").read_text().splitlines() for run in (alone, together)]
    records = [[json.loads(line) for line in lines] for lines in files]
    assert len(records[0]) == len(records[1]) == STEPS
    for one, other in zip(*records, strict=True):
        assert one.keys() == other.keys()
        assert other["loss"] == pytest.approx(one["loss"], rel=0.02, abs=1e-3)
    # The versions are complete Hugging Face directories.
    newest = max((together / "weights").glob("v*"))
    assert load_file(newest / "model.safetensors")["model.embed_tokens.weight"].shape == (
        load_file(max((alone / "weights").glob("v*")) / "model.safetensors")["model.embed_tokens.weight"].shape
    )


# Slow: torchrun starts several processes, each of which imports torch.
@pytest.mark.slow
async def test_a_dead_rank_ends_the_run_and_one_rank_resumes(redis_url, run_name, tmp_path, tiny_directory, make_group):
    """If one rank is killed, the others must not hang. A single rank then resumes from the checkpoint."""
    run = tmp_path / "run"

    async def kill_a_follower():
        while not list(run.glob("checkpoints/step-000001/COMMITTED")):
            await asyncio.sleep(0.01)
        trainers = subprocess.run(["pgrep", "-f", f"arlarena.trainer train .*{run}"], capture_output=True, text=True)
        ranks = [int(pid) for pid in trainers.stdout.split() if rank_of(int(pid)) == "1"]
        assert len(ranks) == 1
        os.kill(ranks[0], signal.SIGKILL)

    killing = asyncio.create_task(kill_a_follower())
    status = await train(redis_url, run_name, run, tiny_directory, make_group, torchrun(2))
    await killing
    assert status != 0
    assert await train(redis_url, run_name, run, tiny_directory, make_group, [], "--resume") == 0
    assert (run / LAST / "COMMITTED").exists()
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))


def rank_of(pid):
    """Return the variable RANK of a process, which torchrun sets; None if the process has ended."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as file:
            variables = dict(part.split(b"=", 1) for part in file.read().split(b"\0") if b"=" in part)
    except OSError:
        return None
    return variables.get(b"RANK", b"").decode()


def node(index, port):
    """The launch arguments of one of two nodes, as in k8s/trainer/job-set/job-set.yaml."""
    address = [f"--node-rank={index}", "--master-addr=127.0.0.1", f"--master-port={port}"]
    return ["-m", "arlarena.trainer.torchrun", "--nnodes=2", "--nproc-per-node=1", *address, "--max-restarts=0"]


async def start_second_node(redis_url, name, run, policy, port):
    """Start the second node of a trainer with an empty run directory of its own. Returns the process."""
    run.mkdir()
    (run / "run.toml").write_text(config_of(STEPS, tokens_per_microbatch=64, device="cpu"))
    launch = [sys.executable, *node(1, port), "-m", "arlarena.trainer", "train", "--config", run / "run.toml"]
    command = [*launch, "--model", policy, "--run-dir", run, "--run-name", name, "--redis-url", redis_url, "--resume"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (run / "log").open("w") as log:
        return subprocess.Popen(command, env=environment, stdout=log, stderr=log)


# Slow: torchrun starts four times, and each process imports torch.
@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nodes_without_a_common_file_system_resume(redis_url, run_name, tmp_path, tiny_directory, make_group):
    """Only the first node has the run directory. The second node fails, and both nodes start again."""
    run = tmp_path / "run"

    async def kill_the_second_rank(folder):
        while not list(run.glob("checkpoints/step-000001/COMMITTED")):
            await asyncio.sleep(0.01)
        found = subprocess.run(["pgrep", "-f", f"arlarena.trainer train .*{folder}"], capture_output=True, text=True)
        (pid,) = [int(pid) for pid in found.stdout.split() if rank_of(int(pid)) == "1"]
        os.kill(pid, signal.SIGKILL)

    for attempt in range(2):
        port, folder = free_port(), tmp_path / f"second-{attempt}"
        second = await start_second_node(redis_url, run_name, folder, tiny_directory, port)
        killing = asyncio.create_task(kill_the_second_rank(folder)) if attempt == 0 else None
        status = await train(redis_url, run_name, run, tiny_directory, make_group, node(0, port), "--resume")
        if killing is not None:
            await killing
        second.wait(60)
        assert (status == 0) == (attempt == 1), (run / "log").read_text()[-3000:]
    assert not list((tmp_path / "second-1").glob("checkpoints*"))
    steps = [json.loads(line)["step"] for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert steps == list(range(1, STEPS + 1))
    assert '"resumed":true' in (run / "log").read_text()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
