"""What the programs below this folder share. Each is one public bug report, or one of its kind, tried on this project.

    export PYTHONPATH=tests
    python -m cases.inference.think_prefilled            # exit code 0: as expected; 1: not
    python -m cases.inference.think_prefilled --busy     # the same while every core computes something else

They use the interpreter that runs them, and the project that is installed there.
"""

import atexit
import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PYTHON = sys.executable
WRONG: list[str] = []

# An environment whose rewards break the contract, and one of whose actions fails.
ODD = """
from arlarena.env_server.__main__ import main
from arlarena.environment.prompts import PromptTemplate
from arlarena.environment.text_game import TextEnvironment, TextGame
from arlarena.proto.env_api import Split
import sys

class Odd(TextGame):
    score = 0.0
    def text(self): return "say something"
    def state(self): return "only"
    def play(self, action):
        if action == "raise":
            raise ZeroDivisionError("a fault of this game")
        return {"nan": float("nan"), "inf": float("inf"), "none": None}.get(action, 1.0)

class OddEnvironment(TextEnvironment):
    name, version, description, horizon, expert = "odd", "1", "rewards that are no numbers, and a fault", 8, False
    template = PromptTemplate("full", "1", "{observation}")
    splits = (Split("train", "train", None, False),)
    rewards = {"any": 1.0}
    def game(self, task): return Odd()

def load(where, options): return OddEnvironment()

if __name__ == "__main__":
    sys.modules["odd"] = sys.modules["__main__"]
    sys.exit(main(["odd", "--host", "127.0.0.1", "--port", "0"]))
"""

_MODEL = r"""
import sys, torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM
alphabet = {c: i for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
inner = Tokenizer(models.BPE(alphabet, []))
inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
inner.decoder = decoders.ByteLevel()
inner.add_special_tokens([AddedToken(t, special=True) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>")
tokenizer.chat_template = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
tokenizer.save_pretrained(sys.argv[1])
torch.manual_seed(0)
config = Qwen3Config(
    vocab_size=len(tokenizer), hidden_size=32, intermediate_size=64, num_hidden_layers=1, num_attention_heads=2,
    num_key_value_heads=1, head_dim=16, max_position_embeddings=1024, tie_word_embeddings=False,
    eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, bos_token_id=None,
)
Qwen3ForCausalLM(config).save_pretrained(sys.argv[1])
"""


def check(what: str, observed: object, expected: object) -> None:
    """Note one observation; `finish` then exits with 1 if any differed."""
    right = observed == expected
    print(f"{'ok   ' if right else 'WRONG'} {what}: {observed!r}" + ("" if right else f", expected {expected!r}"))
    if not right:
        WRONG.append(what)


def finish() -> None:
    """Exit with 1 if an observation was wrong."""
    print("FAILS" if WRONG else "RIGHT")
    raise SystemExit(1 if WRONG else 0)


def run(code: str, *arguments: str, **options: Any) -> str:
    """Standard output of a Python program."""
    done = subprocess.run([PYTHON, "-c", code, *arguments], capture_output=True, text=True, **options)
    if done.returncode:
        raise SystemExit(f"the helper program failed:\n{done.stderr}")
    return done.stdout


@contextlib.contextmanager
def busy_cores(each: int = 1, core: int | None = None) -> Iterator[None]:
    """`each` other computations for every core, or on one core alone, for the length of the block. Each has a session
    of its own: kernels with autogroups share the time of the cores between sessions first.
    """
    count = each * (1 if core is not None else os.cpu_count() or 1)
    command = [PYTHON, "-S", "-c", "print(flush=True)\nwhile True: pass"]
    loops = [subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) for _ in range(count)]
    try:
        for loop in loops:
            assert loop.stdout is not None
            loop.stdout.readline()  # it has begun
            if core is not None:
                os.sched_setaffinity(loop.pid, {core})
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.communicate()


@contextlib.contextmanager
def serving(*command: str) -> Iterator[str]:
    """The address of a server of the project on a free loopback port, once it is healthy."""
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen([PYTHON, *command], stdout=subprocess.PIPE, stderr=errors, text=True)
        assert process.stdout
        try:
            line = process.stdout.readline()
            if not line:
                errors.seek(0)
                raise SystemExit(f"the server did not start:\n{errors.read()[-2000:]}")
            address = f"http://127.0.0.1:{json.loads(line)['port']}"
            _await_health(address)
            yield address
        finally:
            process.terminate()
            process.wait(30)


def _await_health(address: str) -> None:
    """A policy server loads its model after it has announced its port."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if call(address, "GET", "/health")[0] == 200:
                return
        time.sleep(0.1)
    raise SystemExit(f"{address} was not healthy within 90 s")


@contextlib.contextmanager
def environment(name: str, config: str | None = None) -> Iterator[str]:
    """The address of an environment server."""
    options = ["--config", config] if config else []
    with serving("-m", "arlarena.env_server", name, *options, "--host", "127.0.0.1", "--port", "0") as at:
        yield at


@contextlib.contextmanager
def policy() -> Iterator[str]:
    """The address of a policy server with a random model whose tokens are single bytes."""
    with tempfile.TemporaryDirectory() as folder:
        run(_MODEL, folder)
        with serving("-m", "arlarena.inference", "--model", folder, "--host", "127.0.0.1", "--port", "0") as at:
            yield at


def call(address: str, method: str, path: str, body: object = None, raw: bytes | None = None) -> tuple[int, Any]:
    """(status, decoded body) of one request."""
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address + path, data, {"content-type": "application/json"}, method=method)
    try:
        with urllib.request.urlopen(request, timeout=90) as answer:
            text = answer.read()
            return answer.status, json.loads(text) if text else None
    except urllib.error.HTTPError as error:
        text = error.read()
        with contextlib.suppress(ValueError):
            return error.code, json.loads(text)
        return error.code, text


def session(address: str, **reset: object) -> str:
    """A new session that has been reset."""
    status, body = call(address, "POST", "/v1/sessions", {"count": 1, "reset": [reset]})
    assert status == 200, body
    return body["sessions"][0]["session_id"]


def step(address: str, session_id: str, text: str) -> tuple[int, Any]:
    """(status, body) of one step."""
    return call(address, "POST", "/step", {"session_id": session_id, "action": {"text": text}})


def problems(folder: Path, *pairs: tuple[str, str]) -> str:
    """A configuration of TIR Math that plays (problem, answer) pairs as the split `t`."""
    lines = (json.dumps({"problem": problem, "answer": answer}) + "\n" for problem, answer in pairs)
    (folder / "t.jsonl").write_text("".join(lines))
    (folder / "train.jsonl").write_text('{"problem": "What is 3 * 9?", "answer": "27"}\n')
    config = folder / "run.toml"
    config.write_text(
        '[environment]\nname = "tir_math"\n[environment.options]\nvalidation_share = 0.0\n'
        f'train = "{folder}/train.jsonl"\ntests = {{t = "{folder}/t.jsonl"}}\n'
    )
    return str(config)


def corridors(count: int = 40) -> list[str]:
    """Sokoban rooms that anybody solves: a corridor, and a strip of pockets by which the rooms differ."""
    grids = []
    for number in range(count):
        strip = "".join("# "[number >> bit & 1] for bit in range(6))
        grids.append(f"; {number}\n#########\n#{strip}##\n#########\n#@ $  . #\n#########")
    return grids


if "--busy" in sys.argv:
    _load = busy_cores()
    _load.__enter__()
    atexit.register(_load.__exit__, None, None, None)
