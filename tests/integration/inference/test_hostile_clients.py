"""Clients that attack a policy server: each attack ends, and `/health` answers within a second throughout.

One server process, without a key, serves all attacks, and is watched during each of them.
"""

import contextlib
import json
import random
import socket
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.inference.inference_support import Http, model, openai_error, running_server, save
from support.processes.health_watch import HealthWatch

GENERATE, COMPLETIONS, CHAT = "/inference/v1/generate", "/v1/completions", "/v1/chat/completions"
SAY = [{"role": "user", "content": "say something"}]
MIB = 1 << 20


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("hostile")
    directory = save(model(1), folder / "model")
    config = f'model = "{directory}"\nmax_slots = 16\nrequest_timeout_s = 60\n'
    with running_server(folder / "run", config) as running:
        first = Http(running.url, timeout_s=120).post(CHAT, {"messages": SAY, "max_tokens": 2})  # loads the template
        assert first.status_code == 200
        yield running


@pytest.fixture(autouse=True)
def watched(server):
    """Fails the test if, while it runs, `/health` is slow or fails, or the server's memory grows."""
    with HealthWatch(server.url, server.process.pid):
        yield
    assert len(server.generate([5], max_tokens=2, ignore_eos=True)["token_ids"]) == 2


def address(server):
    return ("127.0.0.1", int(server.url.rsplit(":", 1)[1]))


def connect(server):
    return socket.create_connection(address(server), timeout=30)


def head(path, size, *more):
    lines = [f"POST {path} HTTP/1.1", "host: x", f"content-length: {size}", *more, "", ""]
    return "\r\n".join(lines).encode()


def refused(server, path, body, status, word, param):
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    answer = server.http.post(path, data=data)
    assert answer.status_code == status, answer.text[:300]
    error = openai_error(answer)
    assert word in error["message"]
    assert error["param"] == param
    assert len(answer.body) < 2000


# --- too much in one request ---


@pytest.mark.parametrize(
    ("prompts", "n", "word"),
    [(5000, 128, "640000 sequences"), (20_000, 1, "20000 sequences"), (20_000, 128, "max_waiting")],
)
def test_more_sequences_than_the_server_holds_are_refused(server, prompts, n, word):
    refused(server, COMPLETIONS, {"prompt": [[5]] * prompts, "n": n, "max_tokens": 1}, 400, word, "prompt")
    refused(server, COMPLETIONS, {"prompt": ["ab"] * prompts, "n": n, "max_tokens": 1}, 400, word, "prompt")


def test_a_million_empty_prompts_are_refused(server):
    refused(server, COMPLETIONS, b'{"prompt":[' + b"[]," * 1_000_000 + b"[]]}", 413, "brackets", None)
    refused(server, COMPLETIONS, {"prompt": [[]] * 20_000}, 400, "20000 sequences", "prompt")


def test_a_million_tokens_are_refused(server):
    refused(server, COMPLETIONS, b'{"prompt":[' + b"1," * 3_000_000 + b"1]}", 400, "max_prompt_tokens", "prompt")
    refused(server, GENERATE, b'{"sampling_params":{},"token_ids":[' + b"1," * 3_000_000 + b"1]}", 400,
            "maximum context length", "token_ids")  # fmt: skip
    refused(server, "/detokenize", b'{"tokens":[' + b"1," * 3_000_000 + b"1]}", 400, "max_text_chars", "tokens")


@pytest.mark.parametrize("path", ["/tokenize", COMPLETIONS])
def test_a_text_of_nearly_8_mib_is_refused(server, path):
    refused(server, path, {"prompt": "ab" * (4 * MIB - 100)}, 400, "max_text_chars", "prompt")


def test_tokenising_the_longest_text_does_not_block_other_requests(server):
    text = "abcdefgh" * (1 << 15)
    with ThreadPoolExecutor(4) as pool:
        answers = list(
            pool.map(lambda _: server.post("/tokenize", {"prompt": text, "return_token_strs": True}), "abcd")
        )
    assert [answer["count"] for answer in answers] == [len(text)] * 4
    assert server.post("/detokenize", {"tokens": answers[0]["tokens"]})["prompt"] == text


@pytest.mark.parametrize("messages", [4097, 100_000])
def test_too_many_messages_are_refused(server, messages):
    word = "max_messages" if messages == 4097 else "brackets"
    param = "messages" if messages == 4097 else None
    for path in (CHAT, "/tokenize"):
        refused(server, path, {"messages": [{"role": "user", "content": "x"}] * messages}, 400 if param else 413,
                word, param)  # fmt: skip


def test_rendering_the_most_messages_does_not_block_other_requests(server):
    messages = [{"role": "user", "content": "x" * 40}] * 4096
    with ThreadPoolExecutor(8) as pool:
        counts = pool.map(lambda _: server.post("/tokenize", {"messages": messages})["count"], range(8))
    assert set(counts) == {4096 * 41 + 1}


def test_messages_with_too_many_parts_are_refused(server):
    parts = [{"type": "text", "text": "x"}] * 40_000
    word = "16 times the server setting max_messages"
    refused(server, CHAT, {"messages": [{"role": "user", "content": parts}]}, 400, word, "messages")
    tools = {"tools": [{"a": [[]] * 10}] * 10_000}
    refused(server, CHAT, {"messages": SAY, "chat_template_kwargs": tools}, 400, "max_messages", "chat_template_kwargs")


LOOPS = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"


@pytest.mark.parametrize("path", [CHAT, "/tokenize"])
def test_templates_of_clients_are_refused(server, path):
    answers = [
        server.http.post(path, {"messages": SAY, "chat_template": LOOPS}),
        server.http.post(path, {"messages": SAY, "chat_template_kwargs": {"chat_template": LOOPS}}),
    ]
    assert [answer.status_code for answer in answers] == [400, 400]
    assert all("chat_template" in openai_error(answer)["message"] for answer in answers)


def test_oversized_sampling_parameters_are_refused(server):
    def ask(**params):
        return {"prompt": [5], "max_tokens": 1, **params}

    refused(server, COMPLETIONS, ask(stop=["x"] * 1000), 400, "up to 16 strings", "stop")
    refused(server, COMPLETIONS, ask(stop="x" * MIB), 400, "1024 characters", "stop")
    refused(server, COMPLETIONS, ask(stop_token_ids=[5] * 500_000), 400, "1024 ids", "stop_token_ids")
    refused(server, COMPLETIONS, ask(logprobs=10**6), 400, "from 0 to 20", "logprobs")
    refused(server, COMPLETIONS, ask(best_of=10**6), 400, "not supported", "best_of")
    refused(server, COMPLETIONS, ask(logit_bias={str(i): 1.0 for i in range(90_000)}), 400, "logit_bias", "logit_bias")
    refused(server, COMPLETIONS, ask(response_format={"regex": "(a+)+" * 10_000}), 400, "not supp", "response_format")
    refused(server, CHAT, {"messages": SAY, "tools": [{"x": [[[]]]}] * 30_000}, 400, "not supported", "tools")
    many = {"prompt": [[5] * 400] * 2000, "prompt_logprobs": 20, "max_tokens": 1}
    refused(server, COMPLETIONS, many, 400, "max_logprobs", "prompt_logprobs")
    many = {"prompt": [[5]] * 60, "n": 128, "logprobs": 20, "max_tokens": 400}
    refused(server, COMPLETIONS, many, 400, "max_logprobs", "logprobs")
    refused(server, GENERATE, {"token_ids": [5], "sampling_params": {}, "request_id": "x" * MIB}, 400, "1024",
            "request_id")  # fmt: skip


def test_errors_shorten_long_names(server):
    refused(server, COMPLETIONS, {"prompt": [5], "model": "x" * (4 * MIB)}, 404, "does not exist", "model")
    refused(server, COMPLETIONS, {"prompt": [5], "x" * (4 * MIB): 1}, 400, "unknown field", "x" * 200)


@pytest.mark.parametrize(
    "body",
    [
        b"[" * 150_000 + b"]" * 150_000,
        b'{"prompt":' * 90_000 + b"1" + b"}" * 90_000,
        b'{"prompt":[1],"seed":' + b"9" * (7 * MIB) + b"}",
        b'{"prompt":[1],"seed":1e' + b"9" * (7 * MIB) + b"}",
        b'{"prompt":[' + b"1e999," * MIB + b"1]}",
        b'{"prompt":"' + b"\\ud800" * MIB + b'"}',
        b'{"prompt":[' + b"NaN," * MIB + b"1]}",
        b"{" + b",".join(b'"%d":1' % i for i in range(400_000)) + b"}",
    ],
    ids=["lists", "objects", "digits", "exponent", "infinite", "surrogates", "nan", "keys"],
)
def test_json_that_is_slow_to_decode_is_refused(server, body):
    answer = server.http.post(COMPLETIONS, data=body)
    assert answer.status_code in (400, 413), answer.text[:300]
    assert len(answer.body) < 2000
    assert openai_error(answer)["message"]


def test_writing_a_long_response_does_not_block_other_requests(server):
    body = {"prompt": [[5 + i % 40, *([7] * 400)] for i in range(35)], "prompt_logprobs": 20, "max_tokens": 1}
    assert len(server.post(COMPLETIONS, body)["choices"]) == 35


# --- connections ---


@contextlib.contextmanager
def many(server, count):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(contextlib.closing(connect(server))) for _ in range(count)]


def test_silent_connections_do_not_block_the_server(server):
    with many(server, 1000):
        assert server.http.get("/health").status_code == 200


def test_incomplete_bodies_do_not_exhaust_memory(server):
    """40 clients announce bodies of 8 MiB and never send the ends. The server closes the connections that hold the most
    bytes.
    """
    with many(server, 40) as clients:
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(head(COMPLETIONS, 8 * MIB) + b'{"prompt":"' + b"a" * (7 * MIB))
        time.sleep(0.5)  # so that the server's memory is measured while the connections are open


def test_endless_headers_are_cut_off(server):
    with many(server, 50) as clients:
        for client in clients:
            with contextlib.suppress(OSError):
                client.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n")
                for i in range(2000):
                    client.sendall(b"x-%d: %s\r\n" % (i, b"a" * 200))
        statuses = []
        for client in clients:
            with contextlib.suppress(OSError):
                statuses.append(client.recv(12))
        assert set(statuses) <= {b"HTTP/1.1 431"}


@pytest.mark.slow  # 1,280 streams, and the time before unread streams are closed
def test_unread_streams_do_not_block_the_server(server):
    body = {"prompt": [[5]] * 8, "n": 8, "max_tokens": 200, "ignore_eos": True, "stream": True, "logprobs": 5}
    data = json.dumps({**body, "return_token_ids": True}).encode()
    with many(server, 20) as clients:
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            client.sendall(head(COMPLETIONS, len(data)) + data)
        time.sleep(1.5)
        assert server.http.get("/health").status_code == 200


@pytest.mark.slow  # a thousand responses of 8 tokens take some seconds on two cores
def test_a_thousand_concurrent_chats_are_answered(server):
    data = json.dumps({"messages": SAY, "max_tokens": 8, "ignore_eos": True}).encode()
    with many(server, 1000) as clients:
        for client in clients:
            client.sendall(head(CHAT, len(data)) + data)
        statuses = [client.recv(12) for client in clients]
    assert set(statuses) == {b"HTTP/1.1 200"}


@pytest.mark.slow  # 2,000 requests of random bytes and parameters
def test_random_requests_are_answered_without_500(server):
    chosen = random.Random(7)
    values = [None, -1, 10**30, 1e308, "", "x" * 5000, [], [[]], {}, {"a": [1]}, True, ["é"] * 99, [5], "ab"]
    names = ("prompt", "messages", "n", "max_tokens", "stop", "seed", "logprobs", "tools", "stream",
             "token_ids", "tokens",
             "sampling_params", "model", "chat_template_kwargs", "response_format", "stop_token_ids")  # fmt: skip
    for _ in range(2000):
        path = chosen.choice([GENERATE, COMPLETIONS, CHAT, "/tokenize", "/detokenize"])
        body = {chosen.choice(names): chosen.choice(values) for _ in range(chosen.randint(1, 4))} | {"max_tokens": 1}
        answer = server.http.post(path, body)
        assert answer.status_code in (200, 400, 404), (path, body, answer.text[:300])


# --- access ---


KEY, TOKEN = "a key of some length", "a token of some length"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory):
    folder = tmp_path_factory.mktemp("guarded")
    directory = save(model(1), folder / "model")
    config = f'model = "{directory}"\nmax_slots = 4\napi_key = "{KEY}"\nadmin_token = "{TOKEN}"\n'
    with running_server(folder / "run", config) as running:
        yield running


def bearer(token):
    return {"authorization": f"Bearer {token}"}


def test_model_routes_need_the_api_key(guarded):
    for path in (GENERATE, COMPLETIONS, CHAT, "/tokenize", "/detokenize"):
        for headers in ({}, bearer("x"), bearer(""), bearer(KEY[:-1]), bearer(KEY + "x"), {"authorization": KEY}):
            answer = guarded.http.post(path, {"prompt": [5]}, headers=headers)
            assert answer.status_code == 401
            assert openai_error(answer)["code"] == "invalid_api_key"
            assert "ARLARENA_INFERENCE_API_KEY" in openai_error(answer)["message"]
            assert KEY not in answer.text
    for path in ("/v1/models", "/v1/models/policy"):
        assert guarded.http.get(path).status_code == 401
    for path in ("/health", "/ready", "/version", "/metrics", "/weight_info"):
        assert guarded.http.get(path).status_code == 200
    for token in (KEY, TOKEN):
        answer = guarded.http.post(COMPLETIONS, {"prompt": [5], "max_tokens": 1}, headers=bearer(token))
        assert answer.status_code == 200
    assert guarded.http.post("/reset_prefix_cache", headers=bearer(KEY)).status_code == 401


@pytest.mark.parametrize(
    "headers", [{"origin": "http://127.0.0.1:8100"}, {"origin": "null"}, {"sec-fetch-site": "cross-site"}]
)
def test_web_pages_cannot_call_admin_routes(server, guarded, headers):
    for path in ("/serve_weights", "/reset_prefix_cache"):
        for running, more in ((server, {}), (guarded, bearer(TOKEN))):
            answer = running.http.post(path, {}, headers={**headers, **more})
            assert answer.status_code == 403
            assert "web pages" in openai_error(answer)["message"]


def test_pages_of_other_sites_cannot_call_a_model_without_a_key(server, guarded):
    body, site = {"prompt": [5], "max_tokens": 1}, {"sec-fetch-site": "cross-site"}
    assert server.http.post(COMPLETIONS, body, headers=site).status_code == 403
    assert server.http.post(COMPLETIONS, body, headers={"origin": "app://x"}).status_code == 200
    assert guarded.http.post(COMPLETIONS, body, headers={**site, **bearer(KEY)}).status_code == 200


def test_the_bearer_scheme_is_case_insensitive(guarded):
    request = urllib.request.Request(guarded.url + "/v1/models", headers={"authorization": f"bearer {KEY}"})
    with urllib.request.urlopen(request, timeout=10) as reply:
        assert reply.status == 200


def passes_with_the_key_alone(gateway):
    body = {"prompt": [5], "max_tokens": 1}
    assert gateway.http.post(COMPLETIONS, body).status_code == 401
    assert gateway.http.get("/v1/models").status_code == 401
    assert gateway.http.post(COMPLETIONS, body, headers=bearer(KEY)).status_code == 200
    assert gateway.http.post("/serve_weights", {"version": "x"}, headers=bearer(KEY)).status_code == 401
    assert gateway.http.post("/serve_weights", {"version": "x"}, headers={"origin": "http://x"}).status_code == 403
    assert gateway.http.get("/health").status_code == 200


def test_a_gateway_needs_the_key_and_sends_it_to_remote_servers(guarded, tmp_path):
    config = f'replica_urls = ["{guarded.url}"]\napi_key = "{KEY}"\nadmin_token = "{TOKEN}"\n'
    with running_server(tmp_path / "run", config) as gateway:
        passes_with_the_key_alone(gateway)


@pytest.mark.slow  # starts two engines
def test_a_gateway_sends_the_key_to_its_local_engines(tmp_path):
    directory = save(model(1), tmp_path / "model")
    config = f'model = "{directory}"\nreplicas = 2\nmax_slots = 4\napi_key = "{KEY}"\nadmin_token = "{TOKEN}"\n'
    with running_server(tmp_path / "run", config, start_s=120) as gateway:
        passes_with_the_key_alone(gateway)
