"""The command and environment of vLLM. tests/integration/inference/test_vllm.py starts vLLM itself."""

import os
import sys
from pathlib import Path

import pytest

from arlarena.inference.settings import InferenceSettings
from arlarena.inference.vllm.server import check, command, model_to_serve, variables
from arlarena.proto.config import ConfigError

SOCKET = Path("/tmp/x.sock")


def settings(**changes):
    return InferenceSettings(engine="vllm", vllm_python=Path(sys.executable), model=Path("/m"), **changes)


def option(words, name):
    return words[words.index(name) + 1]


def test_the_command_has_the_transfer_engine_and_the_users_options_last():
    given = settings(max_slots=7, max_model_len=300, vllm_arguments=("--tensor-parallel-size", "2"))
    words = command(given, SOCKET)
    assert [option(words, name) for name in ("--model", "--uds", "--max-num-seqs")] == [
        "/m",
        str(SOCKET),
        "8",
    ]  # one more than max_slots, for the probe of new weights
    assert "--enable-lora" not in words
    assert "--port" not in words  # clients must not reach vLLM's weight routes, so vLLM listens only on the socket
    assert option(words, "--weight-transfer-config") == '{"backend": "safetensors"}'
    assert words[-2:] == ["--tensor-parallel-size", "2"]
    assert "--enforce-eager" not in words


def test_on_a_cpu_vllm_uses_float32_and_no_chunked_prefill():
    words = command(settings(vllm_device="cpu", max_model_len=9000), SOCKET)
    assert option(words, "--dtype") == "float32"
    assert "--no-enable-chunked-prefill" in words
    assert int(option(words, "--max-num-batched-tokens")) >= 9000
    assert variables(settings(vllm_device="cpu", threads=3))["OMP_NUM_THREADS"] == "3"


def test_a_missing_vllm_or_model_is_named(tmp_path):
    with pytest.raises(ConfigError, match="make setup EXTRA=vllm"):
        check(InferenceSettings(engine="vllm", vllm_python=tmp_path / "python"))
    with pytest.raises(ConfigError, match="no intact version in weights_root: set model"):
        model_to_serve(InferenceSettings(engine="vllm", weights_root=tmp_path))


def test_vllm_lora_enables_adapters():
    given = settings(vllm_lora=True)
    assert "--enable-lora" in command(given, SOCKET)
    assert variables(given)["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] == "1"


def test_the_engines_environment_has_no_secrets(monkeypatch):
    for name, value in (
        ("ARLARENA_INFERENCE_ADMIN_TOKEN", "a" * 16),
        ("HF_TOKEN", "hf_x"),
        ("AWS_SECRET_ACCESS_KEY", "k"),
        ("HTTPS_PROXY", "http://me:word@proxy:3128"),
        ("VLLM_LOGGING_LEVEL", "DEBUG"),
    ):
        monkeypatch.setenv(name, value)
    given = variables(settings())
    assert given["VLLM_LOGGING_LEVEL"] == "DEBUG"
    assert given["PATH"] == os.environ["PATH"]
    kept = {"ARLARENA_INFERENCE_ADMIN_TOKEN", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY", "HTTPS_PROXY"} & set(given)
    assert kept == set()
