"""A real vLLM behind the gateway: pushes by its phases, a push that the probe refuses, a restart, an adapter."""

import contextlib
import json
import os
import signal
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from support.inference.inference_support import (
    VOCABULARY,
    label,
    model,
    reference_logprobs,
    running_server,
    save,
    wait_until,
    write_version,
)

from arlarena.client.weights import PushRefused
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import PolicyVersion
from arlarena.trainer.weights.collective import Broadcaster
from arlarena.trainer.weights.push import Publisher
from arlarena.trainer.weights.transports import Collective, SharedDirectory
from arlarena.trainer.weights.versions import Version

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
PROMPT = [5, 9, 14, 22, 7, 31]
IDS = [(7 * i + 5) % VOCABULARY for i in range(24)]
START_S = 180  # vLLM takes half a minute on an idle machine

pytestmark = pytest.mark.timeout(600)


def tied(seed):
    """A random model with a head size that vLLM's CPU attention supports. Its output head is tied to the embedding,
    because vLLM's reload does not update a tied head.
    """
    return model(seed, head_dim=32, tie_word_embeddings=True)


def version(root, seed, step):
    made = tied(seed)
    probe = {"ids": IDS, "log_probs": reference_logprobs(made, IDS[:1], IDS[1:]).tolist(), "tolerance": 1e-3}
    directory = write_version(root, made, step, probe=probe)
    return Version(PolicyVersion.parse(label(directory)), directory)


@contextlib.contextmanager
def vllm(folder, root, monkeypatch, *arguments, **settings):
    if not PYTHON.exists():
        pytest.skip("VLLM ABSENT: `make setup EXTRA=vllm`, this test did not run")
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    monkeypatch.setenv("PYTHONPATH", path)
    given = {
        "engine": "vllm", "vllm_device": "cpu", "vllm_python": str(PYTHON),
        "model": str(save(tied(0), folder / "first")), "weights_root": str(root), "max_model_len": 128,
        "max_slots": 16, "vllm_arguments": list(arguments), **settings,
    }  # fmt: skip
    config = "".join(f"{key} = {json.dumps(value)}\n" for key, value in given.items())
    with running_server(folder / "run", config, start_s=START_S) as server:
        yield server


@pytest.fixture(scope="module")
def patch():
    with pytest.MonkeyPatch.context() as one:
        yield one


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def server(tmp_path_factory, root, patch):
    with vllm(tmp_path_factory.mktemp("vllm"), root, patch, vllm_lora=True) as running:
        yield running


def publisher(server):
    return Publisher([server.url], SharedDirectory(), token=None, retry_timeout_s=5.0, log=Logger("test", "error"))


def check(server, made):
    choice = server.generate(PROMPT, max_tokens=8, logprobs=0, seed=3, ignore_eos=True)
    found = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
    torch.testing.assert_close(found, reference_logprobs(made, PROMPT, choice["token_ids"]), atol=1e-4, rtol=1e-4)
    return {span["version"] for span in choice["weight_versions"]}


async def test_a_push_reaches_every_weight_and_the_tied_head(server, root):
    for step in (1, 2):
        pushed = version(root, step, step)
        assert (await publisher(server).push(pushed)).difference < 1e-4
        assert check(server, tied(step)) == {str(pushed.version)}


@pytest.fixture
def sender():
    with contextlib.closing(Broadcaster("127.0.0.1", "gloo", torch.device("cpu"), Logger("test", "error"))) as one:
        yield one


async def test_a_broadcast_reaches_vllm_without_files_and_again_after_a_kill(server, sender, tmp_path):
    """The broadcast uses gloo. (Between GPUs it would use NCCL.) The server cannot read the version's directory."""
    push = Publisher(
        [server.url], Collective(sender), token=None, retry_timeout_s=5.0, log=Logger("test", "error")
    ).push
    for step in (11, 12):
        pushed = version(tmp_path, step, step)
        assert (await push(pushed)).difference < 1e-4
        assert check(server, tied(step)) == {str(pushed.version)}
    kill(server)
    wait_until(lambda: server.http.get("/ready").status_code == 200, "back", START_S)
    assert check(server, tied(12)) == {str(pushed.version)}


def kill(server):
    engines = [p for p in psutil.Process(server.process.pid).children(recursive=True) if "api_server" in words(p)]
    assert engines
    for process in engines:
        process.send_signal(signal.SIGKILL)
    wait_until(lambda: server.http.get("/ready").status_code == 503, "noticed", 20)


def words(process):
    with contextlib.suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


def adapter(folder, made):
    """A LoRA of rank 1 on one projection of each layer, and the model with it merged in."""
    folder.mkdir()
    torch.manual_seed(5)
    tensors = {}
    for index, layer in enumerate(made.model.layers):
        weight = layer.mlp.down_proj.weight
        a, b = torch.randn(1, weight.shape[1]), torch.randn(weight.shape[0], 1)
        at = f"base_model.model.model.layers.{index}.mlp.down_proj"
        tensors |= {f"{at}.lora_A.weight": a, f"{at}.lora_B.weight": b}
        with torch.no_grad():
            weight += 0.5 * b @ a
    save_file(tensors, folder / "adapter_model.safetensors")
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 0.5, "target_modules": ["down_proj"], "bias": "none"}
    (folder / "adapter_config.json").write_text(json.dumps(config | {"task_type": "CAUSAL_LM"}))
    return made


async def test_an_adapter_is_loaded_while_vllm_serves(server, root, tmp_path):
    await publisher(server).push(version(root, 4, 4))
    merged = adapter(tmp_path / "lora", tied(4))
    asked = {"lora_name": "extra", "lora_path": str(tmp_path / "lora")}
    assert server.http.post("/v1/load_lora_adapter", asked).status_code == 200
    body = {"model": "extra", "prompt": PROMPT, "max_tokens": 6, "temperature": 0, "logprobs": 0}
    choice = server.post("/v1/completions", {**body, "return_token_ids": True})["choices"][0]
    found, ids = torch.tensor(choice["logprobs"]["token_logprobs"]), choice["token_ids"]
    torch.testing.assert_close(found, reference_logprobs(merged, PROMPT, ids), atol=1e-3, rtol=1e-3)
    assert {card["id"] for card in server.http.get("/v1/models").json()["data"]} == {"policy", "extra"}
    assert server.http.post("/v1/unload_lora_adapter", {"lora_name": "extra"}).status_code == 200
    server.refused("/v1/completions", body, 404)


async def test_a_killed_vllm_returns_with_the_target_version_and_its_adapters(server, root, tmp_path):
    wanted = version(root, 5, 5)
    await publisher(server).push(wanted)
    adapter(tmp_path / "lora", tied(5))
    asked = {"lora_name": "kept", "lora_path": str(tmp_path / "lora")}
    assert server.http.post("/v1/load_lora_adapter", asked).status_code == 200
    kill(server)
    assert server.http.get("/health").status_code == 200
    wait_until(lambda: server.http.get("/ready").status_code == 200, "back", START_S)
    assert check(server, tied(5)) == {str(wanted.version)}
    assert {card["id"] for card in server.http.get("/v1/models").json()["data"]} == {"policy", "kept"}


async def test_a_stale_head_is_refused_by_the_probe(tmp_path, monkeypatch):
    (tmp_path / "weights").mkdir()
    planted = (
        "--worker-extension-cls", "support.inference.stale_extension.Extension",
        "--weight-transfer-config", '{"backend": "stale"}'
    )  # fmt: skip
    with vllm(tmp_path, tmp_path / "weights", monkeypatch, *planted) as server:
        with pytest.raises(PushRefused, match="the weights in use differ from the pushed weights"):
            await publisher(server).push(version(tmp_path / "weights", 1, 1))
        assert server.http.get("/ready").status_code == 503  # no client may receive tokens of this replica
        body = {"token_ids": PROMPT, "sampling_params": {"max_tokens": 1}}
        headers = {"x-request-timeout-s": "1"}
        assert server.http.post("/inference/v1/generate", body, headers=headers).status_code in (503, 504)
