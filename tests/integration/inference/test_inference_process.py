"""The process: start-up, what it loads, signals, ports, configuration errors, clients that leave."""

import json
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.inference.inference_support import (
    Http,
    environment,
    label,
    model,
    openai_error,
    running_server,
    save,
    wait_until,
    write_version,
)
from support.processes import forking_support

from arlarena.inference.embedded.serving.routes import load_weights
from arlarena.inference.settings import InferenceSettings
from arlarena.inference.weights.versions import VersionError
from arlarena.proto.telemetry import get_logger


def run(*arguments, timeout=60):
    return forking_support.run(["arlarena.inference", *map(str, arguments)], timeout=timeout, env=environment())


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    return save(model(1), tmp_path_factory.mktemp("model"))


def test_a_restart_loads_the_newest_committed_version_that_is_whole(directory, tmp_path):
    root = tmp_path / "weights"
    root.mkdir()
    write_version(root, model(2), 1)
    good = write_version(root, model(3), 2)
    corrupt = write_version(root, model(4), 3)
    (corrupt / "config.json").write_text("{}")
    uncommitted = write_version(root, model(5), 4)
    (uncommitted / "COMMITTED").unlink()
    config = f'model = "{directory}"\nweights_root = "{root}"\nmax_model_len = 32\n'
    with running_server(tmp_path / "run", config) as server:
        assert server.version() == label(good)
        skipped = [line for line in server.logged() if line["event"] == "version_skipped"]
        assert [line["directory"] for line in skipped] == [str(corrupt)]
        assert len(server.generate([5] * 30, ignore_eos=True)["token_ids"]) == 2
        body = {"token_ids": [5] * 32, "sampling_params": {}}
        assert "maximum context length is 32" in server.refused("/inference/v1/generate", body, 400)


@pytest.fixture(scope="module")
def narrow(directory, tmp_path_factory):
    """A server of one slot and a short queue."""
    folder = tmp_path_factory.mktemp("narrow")
    with running_server(folder, f'model = "{directory}"\nmax_slots = 1\nmax_waiting = 2\n') as server:
        yield server


@pytest.mark.parametrize("extra", [{}, {"stream": True}], ids=["whole", "stream"])
def test_a_client_that_leaves_frees_its_slot(narrow, extra):
    body = {"token_ids": [5], "sampling_params": {"max_tokens": 500, "ignore_eos": True}, **extra}
    data = json.dumps(body).encode()
    head = f"POST /inference/v1/generate HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(narrow.url.rsplit(":", 1)[1]))) as client:
        client.sendall(head.encode() + data)
        wait_until(lambda: narrow.metric("requests_running") == 1, "running")
    began = narrow.metric("generation_tokens_total")
    wait_until(lambda: narrow.metric("requests_running") == 0, "slot freed")
    assert narrow.metric("generation_tokens_total") - began < 450
    assert len(narrow.generate([6], max_tokens=2, ignore_eos=True)["token_ids"]) == 2


def test_a_full_queue_answers_503(narrow):
    """The server can hold three sequences at the same time. Further requests are answered 503."""
    body = {"prompt": [5], "max_tokens": 400, "ignore_eos": True}
    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(lambda _: narrow.http.post("/v1/completions", body), range(12)))
    refused = [answer for answer in answers if answer.status_code != 200]
    assert 3 <= len(answers) - len(refused) < 12
    for answer in refused:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert "max_waiting" in openai_error(answer)["message"]
        assert openai_error(answer)["code"] == "service_unavailable"
    narrow.post("/v1/completions", {"prompt": [[5], [6]], "max_tokens": 1})


def test_more_sequences_than_the_server_holds_are_refused_for_good(narrow):
    answer = narrow.http.post("/v1/completions", {"prompt": [[5], [6]], "n": 2, "max_tokens": 1})
    assert answer.status_code == 400
    assert openai_error(answer)["param"] == "prompt"
    assert (
        "4 sequences, but this server accepts at most 3 (server setting max_waiting" in openai_error(answer)["message"]
    )
    chat = {"messages": [{"role": "user", "content": "x"}], "n": 4}
    assert "4 sequences" in narrow.refused("/v1/chat/completions", chat, 400)


def test_from_start_to_sigterm(directory):
    """While the model loads, the server answers 503. After SIGTERM, the server finishes the request in flight and ends
    with exit code 0.
    """
    command = [sys.executable, "-m", "arlarena.inference", "--model", str(directory), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment())
    try:
        http = Http(f"http://127.0.0.1:{json.loads(process.stdout.readline())['port']}")
        answers = []
        deadline = time.monotonic() + 60
        while 200 not in answers and time.monotonic() < deadline:
            answer = http.get("/health")
            answers.append(answer.status_code)
            if answer.status_code == 503:
                assert (openai_error(answer)["code"], answer.headers["retry-after"]) == ("service_unavailable", "1")
        assert set(answers) == {503, 200}
        body = {"token_ids": [5], "sampling_params": {"max_tokens": 200, "ignore_eos": True}, "stream": True}
        received = 0
        for event in http.events("/inference/v1/generate", body):
            if not received:
                process.send_signal(signal.SIGTERM)
            received += len(event["choices"][0]["token_ids"])
        assert received == 200
        assert process.wait(20) == 0
    finally:
        process.kill()


def test_an_occupied_port_is_exit_3_and_one_line(directory):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("--model", directory, "--port", taken.getsockname()[1])
    assert result.returncode == 3
    assert result.stderr.count("\n") == 1
    assert "in use" in result.stderr


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("[inference]\nmax_slot = 3\n", "max_slots"),
        ("[inferrence]\nport = 3\n", "inference"),
        ("[inference]\nport = 'x'\n", "port"),
        ("[inference\n", "TOML"),
        ('[inference]\nmodel = "/does/not/exist"\n', "no such directory"),
    ],
)
def test_a_bad_configuration_is_exit_2_without_a_stack_trace(tmp_path, text, word):
    path = tmp_path / "run.toml"
    path.write_text(text)
    result = run("--config", path)
    assert result.returncode == 2
    assert word in result.stderr
    assert "Traceback" not in result.stderr


def test_a_model_that_cannot_be_served_is_exit_1_and_one_reason(tmp_path):
    folder = save(model(1), tmp_path / "model")
    (folder / "model.safetensors").write_bytes(b"short")
    result = run("--model", folder, "--port", "0")
    assert result.returncode == 1
    assert "Traceback" not in result.stderr
    failures = [json.loads(line) for line in result.stderr.splitlines() if "cannot_serve" in line]
    assert len(failures) == 1
    assert str(folder) in failures[0]["reason"]


@pytest.mark.parametrize("root", [False, True])
def test_nothing_to_serve_is_said(tmp_path, root):
    settings = InferenceSettings(weights_root=tmp_path if root else None)
    with pytest.raises(VersionError, match="nothing to serve"):
        load_weights(settings, get_logger("inference"))


@pytest.mark.slow  # starts two servers; test_hub.py tests the cache itself
def test_a_model_of_the_hub_is_served_from_the_local_cache(directory, tmp_path, monkeypatch):
    repository = tmp_path / "home" / "hub" / "models--Tiny--Policy-1.0"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    (repository / "snapshots").mkdir()
    (repository / "snapshots" / ("0" * 40)).symlink_to(directory)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    config = 'model = "Tiny/Policy-1.0"\nserved_model_name = "Tiny/Policy-1.0"\n'
    with running_server(tmp_path / "run", config, forked=False) as server:
        chat = {"model": "Tiny/Policy-1.0", "messages": [{"role": "user", "content": "x"}], "max_tokens": 2}
        assert server.post("/v1/chat/completions", chat)["model"] == "Tiny/Policy-1.0"
        assert server.http.get("/v1/models/Tiny/Policy-1.0").json()["id"] == "Tiny/Policy-1.0"
        assert server.http.get("/v1/models/Tiny%2FPolicy-1.0").status_code == 200
        assert openai_error(server.http.get("/v1/models/Policy-1.0"))["code"] == "model_not_found"
    command = [sys.executable, "-m", "arlarena.inference", "--model", "Tiny/Policy-2.0"]
    missing = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment())
    assert (missing.returncode, missing.stdout) == (2, "")
    assert missing.stderr.startswith("error: model 'Tiny/Policy-2.0': no such directory here")
    assert "HF_HUB_OFFLINE" in missing.stderr
    assert "Traceback" not in missing.stderr
