"""Shared code of test_engines_*.py. These tests send the same requests to the embedded engine and to vLLM.

They compare the responses with transformers. If a client can observe a difference between the engines, the name of the
test describes the difference.
"""

import contextlib
import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from support.inference.inference_support import (
    VOCABULARY,
    Http,
    label,
    model,
    reference_logprobs,
    tokenizer,
    write_version,
)

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
TOKEN = "a token of some length"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SLOTS, LENGTH = 8, 1024
GENERATE, COMPLETIONS, CHAT = ROUTES = ("/inference/v1/generate", "/v1/completions", "/v1/chat/completions")
USER = [{"role": "user", "content": "ab 1"}]
PROMPT = [3, 5, 6, 41, 32, 4]  # the token ids of USER in the chat template
LONG = [(7 + 31 * i) % VOCABULARY for i in range(150)]
LONGEST = LENGTH - len(PROMPT)
SOON_S = 8.0  # much less than the time of `much_work`, and much more than the time of a short reply of an idle server

by_route = pytest.mark.parametrize("route", ROUTES, ids=["generate", "completions", "chat"])
by_text_route = pytest.mark.parametrize("route", ROUTES[1:], ids=["completions", "chat"])


# --- versions ---


@dataclass(frozen=True)
class Policy:
    """A version directory and its model in transformers."""

    directory: Path
    made: Any

    @property
    def label(self):
        return label(self.directory)


def policy(root, seed, step, probe_off=0.0):
    """Write a random model as a version.

    - The head size is one that vLLM's attention on CPUs supports.
    - The output head is tied to the embedding, because vLLM's own reload does not update a tied head.
    - The generation_config contains sampling parameters, which both engines must ignore.

    `probe_off`: error of the log-probs in the version's probe.
    """
    made = model(seed, head_dim=32, tie_word_embeddings=True, max_position_embeddings=LENGTH)
    made.generation_config.update(do_sample=True, temperature=0.6)
    log_probs = reference_logprobs(made, LONG[:1], LONG[1:20]) + probe_off
    probe = {"ids": LONG[:20], "log_probs": log_probs.tolist(), "tolerance": 1e-3}
    return Policy(write_version(root, made, step, probe=probe), made)


def serve(server, version):
    return Http(server.url, timeout_s=90).post("/serve_weights", {"version": version}, headers=BEARER)


# --- the three sampling routes with the same parameters ---


def request(route, **params):
    """Return the body of a request to `route`. `params`: sampling parameters with vLLM's names.

    On each route, `logprobs` is the number of most likely tokens.
    """
    if route == GENERATE:
        outer = {key: params.pop(key) for key in ("model", "stream", "stream_options") if key in params}
        return {"token_ids": PROMPT, "sampling_params": params, "return_token_ids": True, **outer}
    if route == COMPLETIONS:
        return {"prompt": PROMPT, "return_token_ids": True, **params}
    if "logprobs" in params:
        params |= {"logprobs": True, "top_logprobs": params["logprobs"]}
    return {"messages": USER, "return_token_ids": True, **params}


def choices(server, route, **params):
    return server.post(route, request(route, **params))["choices"]


def choice(server, route, **params):
    (only,) = choices(server, route, **params)
    return only


def prompt_ids(route, answer):
    return answer["choices"][0]["prompt_token_ids"] if route == COMPLETIONS else answer["prompt_token_ids"]


def prompt_logprobs(route, answer):
    return answer["choices"][0]["prompt_logprobs"] if route == COMPLETIONS else answer["prompt_logprobs"]


def text(route, one):
    """Return the text of a choice, or of a part of a choice in a stream."""
    return (one.get("message") or one["delta"]).get("content") or "" if route == CHAT else one["text"]


def logprobs(route, one):
    """Return the log-probs of a choice, or of a part of a choice in a stream."""
    found = one.get("logprobs")
    if found is None:
        return []
    return found["token_logprobs"] if route == COMPLETIONS else [entry["logprob"] for entry in found["content"]]


def usage(answer):
    return [answer["usage"][key] for key in ("prompt_tokens", "completion_tokens", "total_tokens")]


def assert_logprobs(made, route, one, prompt=PROMPT, temperature=1.0):
    expected = reference_logprobs(made, prompt, one["token_ids"], temperature)
    torch.testing.assert_close(torch.tensor(logprobs(route, one)), expected, atol=1e-4, rtol=0)


def next_logprobs(made, ids):
    """Return the log-probs [V] of the next token, computed with transformers."""
    with torch.inference_mode():
        return torch.log_softmax(made(torch.tensor([ids])).logits[0, -1], -1)


def ask_of_prompt(route, **params):
    """Return a request with a long prompt: LONG, or a part of LONG on the chat route."""
    asked = request(route, max_tokens=1, **params)
    if route == CHAT:
        content = tokenizer().decode(LONG[10:40], skip_special_tokens=True)
        return {**asked, "messages": [{"role": "user", "content": content}]}
    return {**asked, "token_ids" if route == GENERATE else "prompt": LONG}


def likeliest(made, ids, count):
    """Return the `count` most likely next tokens: id → log-prob."""
    values, tokens = next_logprobs(made, ids).topk(count)
    return dict(zip(tokens.tolist(), values.tolist(), strict=True))


# --- more sequences than slots ---


@contextlib.contextmanager
def asked_and_left(server, body):
    """Request a completion, and disconnect at the end of the `with` block, before the response."""
    data = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
        client.sendall(head.encode() + data)
        yield


def much_work(**extra):
    """Return a request for many more sequences than slots. Each sequence fills the context. No test waits for it."""
    asked = request(COMPLETIONS, n=SLOTS, max_tokens=LONGEST, ignore_eos=True, **extra)
    return {**asked, "prompt": [PROMPT] * 32}


def answered_soon(server, seconds=SOON_S):
    body = request(GENERATE, max_tokens=2, ignore_eos=True)
    return server.http.post(GENERATE, body, headers={"x-request-timeout-s": str(seconds)}).status_code
