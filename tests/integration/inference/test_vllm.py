"""A real vLLM, started by our service: token route, weight pushes by its own phases, a push that the probe refuses."""

import contextlib
import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from inference_support import VOCABULARY, label, model, reference_logprobs, save, write_version

from arlarena.client.policy import PolicyClient
from arlarena.client.transport import Timeouts
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import PolicyVersion, Sampling
from arlarena.trainer.publisher import Probe, Publisher, PushError, Version

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
PROMPT = [5, 9, 14, 22, 7, 31]

pytestmark = pytest.mark.timeout(400)


def tied(seed):
    """A head size that vLLM's CPU attention has, and the head tied to the embedding: what a reload gets wrong."""
    return model(seed, head_dim=32, tie_word_embeddings=True)


@contextlib.contextmanager
def vllm(folder, root, *arguments):
    if not PYTHON.exists():
        pytest.skip("VLLM ABSENT: `make setup-vllm`, so this test did not run")
    settings = {
        "engine": "vllm", "vllm_device": "cpu", "vllm_python": str(PYTHON),
        "model": str(save(tied(0), folder / "first")), "weights_root": str(root), "port": 0, "max_model_len": 128,
        "max_slots": 16, "vllm_arguments": list(arguments),
    }  # fmt: skip
    lines = [f"{key} = {json.dumps(value)}" for key, value in settings.items()]
    config = folder / "run.toml"
    config.write_text("\n".join(["[inference]", *lines]) + "\n")
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    log = folder / "log"
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "arlarena.inference", "--config", config], stdout=subprocess.PIPE, stderr=out,
            text=True, env={**os.environ, "PYTHONPATH": path},
        )  # fmt: skip
    try:
        while True:
            line = process.stdout.readline()
            assert line, log.read_text()[-4000:]
            if line.startswith('{"event":"listening"'):
                break
        port = json.loads(line)["port"]
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        assert process.wait(timeout=60) == 0
        process.stdout.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    root = folder / "weights"
    root.mkdir()
    with vllm(folder, root) as url:
        yield url, root


@pytest.fixture
async def client(server):
    async with PolicyClient(server[0], Timeouts(request_s=60.0), retries=0) as connected:
        yield connected


def publisher(url):
    return Publisher(
        [url], Probe.of(VOCABULARY), timeout_s=30.0, patience_s=5.0, tolerance=1e-3, log=Logger("test", "error")
    )


def version_of(directory):
    return Version(PolicyVersion.parse(label(directory)), directory)


def trainers(made):
    return lambda prompt, response: reference_logprobs(made, list(prompt), list(response)).tolist()


@pytest.mark.parametrize("temperature", [1.0, 0.6])
async def test_tokens_in_tokens_out_with_log_probs_of_transformers(client, temperature):
    sampling = Sampling(temperature, max_tokens=8)
    found = await client.generate(PROMPT, sampling, seed=1)
    assert len(found.token_ids) == len(found.logprobs) <= 8
    expected = reference_logprobs(tied(0), PROMPT, found.token_ids, temperature)
    torch.testing.assert_close(torch.tensor(found.logprobs), expected, atol=1e-4, rtol=1e-4)
    again = await client.generate(PROMPT, sampling, seed=1)
    assert again.token_ids == found.token_ids


async def test_a_push_reaches_every_weight_the_tied_head_included(server, client):
    url, root = server
    for seed in (1, 2):
        made = tied(seed)
        directory = write_version(root, made, seed)
        worst = await publisher(url).push(version_of(directory), trainers(made))
        assert worst < 1e-4
        found = await client.generate(PROMPT, Sampling(max_tokens=8), seed=3)
        expected = reference_logprobs(made, PROMPT, found.token_ids)
        torch.testing.assert_close(torch.tensor(found.logprobs), expected, atol=1e-4, rtol=1e-4)
        assert {str(span.version) for span in found.spans} == {label(directory)}


async def test_a_stale_head_is_refused_by_the_probe(tmp_path):
    root = tmp_path / "weights"
    root.mkdir()
    planted = (
        "--worker-extension-cls",
        "stale_extension.Extension",
        "--weight-transfer-config",
        '{"backend": "stale"}',
    )
    with vllm(tmp_path, root, *planted) as url:
        made = tied(1)
        directory = write_version(root, made, 1)
        with pytest.raises(PushError, match="the weights in use are not the ones pushed"):
            await publisher(url).push(version_of(directory), trainers(made))
        with urllib.request.urlopen(url + "/weight_info", timeout=10) as reply:  # and yet it says that it serves them
            assert json.loads(reply.read())["weight_version"] == label(directory)
