"""Names of models: directories, snapshots in a cache of the Hub, and downloads from a local HTTP server."""

import hashlib
import json
import os
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from arlarena.proto.config import ConfigError
from arlarena.proto.versions.hub import is_hub_name, local_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"
MODEL = {"config.json": b'{"model_type": "qwen3"}', "tokenizer.json": b"{}", "model.safetensors": b"weights"}
SHARDED = {
    "config.json": b"{}",
    "model.safetensors.index.json": json.dumps({"weight_map": {"a": "a.safetensors", "b": "b.safetensors"}}).encode(),
    "a.safetensors": b"",
}
FILES = {**MODEL, "pytorch_model.bin": b"the same weights again", "onnx/model.onnx": b"and again"}
REFUSALS = {"tiny/gated": (403, "GatedRepo"), "tiny/private": (401, "RepoNotFound")}
# huggingface_hub reads the environment when it is imported, so each look-up runs in a new process.
LOOK_UP = """
import sys
from arlarena.proto.config import ConfigError
from arlarena.proto.versions.hub import local_model
for name in sys.argv[1:]:
    try:
        print(local_model(name))
    except ConfigError as error:
        print("ConfigError:", error)
"""


def look_up(home, *names, endpoint="http://127.0.0.1:9", offline=False, cwd=None):
    """The result or error of `local_model` for each name. Nothing listens on the default endpoint."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**clean, "HF_HOME": str(home), "HF_ENDPOINT": endpoint, "HF_HUB_OFFLINE": str(int(offline))}
    command = [sys.executable, "-c", LOOK_UP, *names]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def cached(home, name, files):
    """A snapshot in the layout of huggingface_hub."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    for file, content in files.items():
        (snapshot / file).write_bytes(content)
    return snapshot


class Hub(BaseHTTPRequestHandler):
    """The routes by which huggingface_hub lists and downloads the repository `tiny/policy`."""

    def do_GET(self):
        path = self.path.partition("?")[0].strip("/").removeprefix("api/models/")
        name = "/".join(path.split("/")[:2])
        if name != "tiny/policy":
            status, code = REFUSALS.get(name, (404, "RepoNotFound"))
            return self._send(status, b"{}", {"X-Error-Code": code})
        action, *rest = path.split("/")[2:]
        if action == "resolve":
            content = FILES["/".join(rest[1:])]
            etag = hashlib.sha1(content).hexdigest()
            return self._send(200, content, {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT})
        if action == "tree":
            oids = {file: hashlib.sha1(content).hexdigest() for file, content in FILES.items()}
            listed = [{"type": "file", "path": f, "size": len(c), "oid": oids[f]} for f, c in FILES.items()]
            return self._send(200, json.dumps(listed).encode())
        return self._send(200, json.dumps({"id": name, "sha": COMMIT, "siblings": []}).encode())

    do_HEAD = do_GET

    def _send(self, status, body, headers=None):
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def test_a_directory_is_returned(tmp_path):
    assert local_model(tmp_path) == local_model(str(tmp_path)) == tmp_path


@pytest.mark.parametrize(
    "name", ["gpt", "/no/such/folder", "../x/y", "a/b/c", "a b/c", "./x", "a/.b", "https://hf.co/a/b"]
)
def test_an_invalid_name_is_refused(name):
    assert not is_hub_name(name)
    with pytest.raises(ConfigError, match=r"no such directory.*OWNER/NAME"):
        local_model(name)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "model.gguf").touch()
    with pytest.raises(ConfigError, match="is a file"):
        local_model(tmp_path / "model.gguf")


@pytest.mark.parametrize("offline", [True, False])
def test_a_cached_snapshot_needs_no_network(tmp_path, offline):
    snapshot = cached(tmp_path, "Qwen/Qwen3-0.6B", MODEL)
    assert look_up(tmp_path, "Qwen/Qwen3-0.6B", offline=offline) == [str(snapshot)]


def test_a_directory_of_the_same_name_comes_before_the_cache(tmp_path):
    cached(tmp_path / "home", "tiny/policy", MODEL)
    (tmp_path / "tiny" / "policy").mkdir(parents=True)
    assert look_up(tmp_path / "home", "tiny/policy", cwd=tmp_path) == ["tiny/policy"]


def test_an_incomplete_snapshot_is_not_used_offline(tmp_path):
    cached(tmp_path, "tiny/empty", {})
    cached(tmp_path, "tiny/no-weights", {"config.json": b"{}", "tokenizer.json": b"{}"})
    cached(tmp_path, "tiny/sharded", SHARDED)
    names = ["tiny/absent", "tiny/empty", "tiny/no-weights", "tiny/sharded"]
    for name, answer in zip(names, look_up(tmp_path, *names, offline=True), strict=True):
        assert answer.startswith(f"ConfigError: model {name!r}")
        assert "HF_HUB_OFFLINE" in answer


def test_a_hub_that_does_not_answer_is_named(tmp_path):
    (answer,) = look_up(tmp_path, "tiny/policy")
    assert "'tiny/policy'" in answer
    assert "http://127.0.0.1:9 does not answer" in answer


def test_a_download_leaves_out_other_formats_and_is_cached(tmp_path, hub):
    (results,) = look_up(tmp_path, "tiny/policy", endpoint=hub)
    assert {file.name: file.read_bytes() for file in (tmp_path / "hub" / results).iterdir()} == MODEL
    assert look_up(tmp_path, "tiny/policy", offline=True) == [results]


def test_a_partial_snapshot_is_completed(tmp_path, hub):
    snapshot = cached(tmp_path, "tiny/policy", {"config.json": MODEL["config.json"]})
    assert look_up(tmp_path, "tiny/policy", endpoint=hub) == [str(snapshot)]
    assert (snapshot / "model.safetensors").read_bytes() == b"weights"


def test_an_error_of_the_hub_names_the_repository_and_the_fix(tmp_path, hub):
    gated, private, misspelt = look_up(tmp_path, "tiny/gated", "tiny/private", "tiny/misspelt", endpoint=hub)
    assert gated.startswith("ConfigError: model 'tiny/gated': no such directory here, and the repository is gated")
    assert f"{hub}/tiny/gated" in gated
    for name, answer in (("tiny/private", private), ("tiny/misspelt", misspelt)):
        assert answer.startswith(f"ConfigError: model {name!r}: no such directory here, and {hub} has no repository")
    assert all("HF_TOKEN" in answer for answer in (gated, private, misspelt))
