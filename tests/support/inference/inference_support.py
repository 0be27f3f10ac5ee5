"""Shared code of the tests of the policy server: a tiny policy, version directories, a server process and a client."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import string
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from support.processes import forking_support
from support.processes.forking_support import Forked
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from arlarena.proto.versions.directory import file_blake3, safetensors_digest, version_directory_name

SPECIAL = ("<pad>", "<unk>", "<end>", "<user>", "<assistant>")
LETTERS = [*SPECIAL, *string.ascii_lowercase, *string.digits, " ", "\n", ".", "é"]
VOCABULARY = len(LETTERS)
EOS = 2
MAX_LENGTH = 512
TEMPLATE = (
    "{% for m in messages %}{{ '<assistant>' if m['role'] == 'assistant' else '<user>' }}{{ m['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer with one token for each character."""
    inner = Tokenizer(models.WordLevel({piece: i for i, piece in enumerate(LETTERS)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Split(Regex("."), behavior="isolated")
    inner.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=inner,
        pad_token="<pad>",
        unk_token="<unk>",
        eos_token="<end>",
        additional_special_tokens=["<user>", "<assistant>"],
        clean_up_tokenization_spaces=False,
    )
    fast.chat_template = TEMPLATE
    return fast


def model(seed: int = 0, **changes: Any) -> Qwen3ForCausalLM:
    """Return a random model. Its norms have gains other than 1, so a missing gain changes the results."""
    torch.manual_seed(seed)
    config = {
        "vocab_size": VOCABULARY,
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "intermediate_size": 128,
        "max_position_embeddings": MAX_LENGTH,
        "tie_word_embeddings": False,
        "initializer_range": 0.15,
        "eos_token_id": EOS,
        "pad_token_id": 0,
        "bos_token_id": None,
    }
    made = Qwen3ForCausalLM(Qwen3Config(**{**config, **changes})).eval()
    vary_norms(made)
    return made


def vary_norms(made: torch.nn.Module) -> None:
    """Give norms and biases random values around 1, so they are not the identity."""
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.normal_(1.0, 0.2)


def save(made: Any, directory: Path) -> Path:
    """Save a model as a Hugging Face directory."""
    made.save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    return directory


def write_version(root: Path, made: Any, step: int, incarnation: str = "run", probe: Any = None) -> Path:
    """Write a committed version directory. The code follows the specification and does not use the trainer's code."""
    partial = save(made, root / f".partial-{step}")
    digest = safetensors_digest(partial / "model.safetensors")
    files = {f.name: {"blake3": file_blake3(f), "bytes": f.stat().st_size} for f in partial.iterdir()}
    version = {"incarnation": incarnation, "step": step, "digest": digest}
    manifest = {"schema": 2, "version": version, "files": files, "probe": probe}
    (partial / "manifest.json").write_text(json.dumps(manifest))
    target = root / version_directory_name(step, digest)
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    (target / "COMMITTED").touch()
    return target


def label(directory: Path) -> str:
    """Return the version string of a version directory."""
    version = json.loads((directory / "manifest.json").read_text())["version"]
    return f"{version['incarnation']}:{version['step']}:{version['digest']}"


def reference_logprobs(made: Any, prompt: list[int], response: list[int], temperature: float = 1.0) -> torch.Tensor:
    """Return the log-probs [len(response)] of the response, from one forward pass of transformers without a cache."""
    with torch.inference_mode():
        logits = made(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
        table = torch.log_softmax(logits / temperature, dim=-1)
        return table.gather(1, torch.tensor(response).unsqueeze(1)).squeeze(1)


@dataclass(frozen=True)
class Answer:
    """Status, body and headers of a response. The names of headers are in lower case."""

    status_code: int
    body: bytes
    headers: dict[str, str]

    @property
    def text(self) -> str:
        """The body as text."""
        return self.body.decode()

    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Http:
    """A client of one server. It returns responses with an error status, and raises no exception for them."""

    url: str
    timeout_s: float = 30.0

    def get(self, path: str) -> Answer:
        """Send a GET."""
        return self._send(urllib.request.Request(self.url + path))

    def post(self, path: str, value: Any = None, *, data: bytes | None = None, headers: Any = None) -> Answer:
        """Send a POST with `value` as JSON, or with raw `data`."""
        body = data if data is not None else _dump(value)
        return self._send(urllib.request.Request(self.url + path, data=body, headers=headers or {}, method="POST"))

    def put(self, path: str, data: bytes, headers: Any = None) -> Answer:
        """Send a PUT with `data`."""
        return self._send(urllib.request.Request(self.url + path, data=data, headers=headers or {}, method="PUT"))

    def events(self, path: str, value: Any, headers: Any = None) -> Iterator[Any]:
        """Yield each server-sent event when it arrives. Assert that the last event is [DONE]."""
        with self.stream(path, value, headers) as (_, events):
            yield from events

    @contextlib.contextmanager
    def stream(self, path: str, value: Any, headers: Any = None) -> Iterator[tuple[dict[str, str], Iterator[Any]]]:
        """Open a stream. Yield its headers and an iterator over its events."""
        request = urllib.request.Request(self.url + path, data=_dump(value), headers=headers or {}, method="POST")
        with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
            assert response.headers["content-type"].startswith("text/event-stream")
            yield _lower(response.headers), _events(response)

    def _send(self, request: urllib.request.Request) -> Answer:
        try:
            with urllib.request.urlopen(request, timeout=self.timeout_s) as response:
                return Answer(response.status, response.read(), _lower(response.headers))
        except urllib.error.HTTPError as error:
            return Answer(error.code, error.read(), _lower(error.headers))


def _events(response: Any) -> Iterator[Any]:
    lines = (line.decode().rstrip("\n") for line in response)
    data = None
    for data in (line.removeprefix("data: ") for line in lines if line):
        if data != "[DONE]":
            yield json.loads(data)
    assert data == "[DONE]"


def _lower(headers: Any) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def _dump(value: Any) -> bytes:
    return b"" if value is None else json.dumps(value).encode()


@dataclass
class ServerProcess:
    """A running server and a client for it."""

    process: Forked | subprocess.Popen[str]
    url: str
    http: Http
    log: Path

    def generate(self, ids: list[int], **params: Any) -> dict[str, Any]:
        """Send a request to `/inference/v1/generate`. Return the first choice."""
        answer = self.http.post("/inference/v1/generate", {"token_ids": ids, "sampling_params": params})
        assert answer.status_code == 200, answer.text
        return answer.json()["choices"][0]

    def post(self, path: str, body: Any = None) -> dict[str, Any]:
        """Send a POST, assert status 200, and return the JSON of the response."""
        answer = self.http.post(path, body)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def refused(self, path: str, body: Any, status: int) -> str:
        """Send a POST, assert an error with this status in OpenAI's format, and return its message."""
        answer = self.http.post(path, body)
        assert answer.status_code == status, answer.text
        return openai_error(answer)["message"]

    def metric(self, name: str) -> float:
        """Return the value of a metric without labels."""
        for line in self.http.get("/metrics").text.splitlines():
            if line.startswith(f"arlarena_inference_{name} "):
                return float(line.split()[1])
        raise AssertionError(f"no metric {name}")

    def version(self) -> str:
        """Return the version that the server serves."""
        return self.http.get("/weight_info").json()["weight_version"]

    def push(self, directory: Path) -> None:
        """Let the server serve a version directory in `weights_root`."""
        assert self.post("/serve_weights", {"version": label(directory)})["version"] == label(directory)

    def logged(self) -> list[dict[str, Any]]:
        """Return the events in the log."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


def openai_error(answer: Answer) -> dict[str, Any]:
    """Assert that a response is an error in OpenAI's format. Return the error."""
    assert answer.headers["content-type"] == "application/json", answer.headers
    (key, error), *more = answer.json().items()
    assert (key, more) == ("error", [])
    assert list(error) == ["message", "type", "param", "code"]
    assert error["type"] == ("server_error" if answer.status_code >= 500 else "invalid_request_error")
    assert error["message"]
    assert all(value is None or isinstance(value, str) for value in error.values())
    return error


def wait_until(condition: Any, what: str, seconds: float = 20.0) -> None:
    """Wait until a condition is true. Fail with `what` after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not: {what}"
        time.sleep(0.01)


def environment() -> dict[str, str]:
    """Return environment variables with one thread, and without ARLArena's settings."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("ARLARENA_")}
    return {**kept, "OMP_NUM_THREADS": "1"}


@contextlib.contextmanager
def running_server(
    folder: Path, config: str, port: int = 0, start_s: float = 180.0, *, forked: bool = True
) -> Iterator[ServerProcess]:
    """Start the service with this `[inference]` table, wait until it is healthy, and stop it with SIGTERM.

    `forked`: fork the server from a process that has already imported Hugging Face's libraries. Without it, start a new
    Python process, because these libraries read environment variables only on import.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path, log = folder / "config.toml", folder / "inference.log"
    path.write_text("[inference]\n" + config)
    command = ["arlarena.inference", "--config", str(path), "--port", str(port)]
    with log.open("w") as file:
        process: Forked | subprocess.Popen[str]
        if forked:
            process = forking_support.popen(command, stdout=subprocess.PIPE, stderr=file, env=environment())
        else:
            command = [sys.executable, "-m", *command]
            process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, env=environment(), text=True)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, log.read_text()
        # Read the rest of stdout, because the server would block if the pipe were full.
        threading.Thread(target=process.stdout.read, daemon=True).start()
        url = f"http://127.0.0.1:{json.loads(line)['port']}"
        http = Http(url)
        wait_until(lambda: process.poll() is not None or http.get("/health").status_code == 200, "healthy", start_s)
        assert process.poll() is None, log.read_text()
        yield ServerProcess(process, url, http, log)
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
        process.wait(20)
