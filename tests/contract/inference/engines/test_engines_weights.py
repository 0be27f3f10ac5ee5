"""The common contract of both engines: pushes of weights, and the versions that responses name.

This file must be the last of test_engines_*.py in alphabetical order, because its last test may damage an engine.
"""

import concurrent.futures

import pytest
import torch
from support.inference.engines_support import (
    BEARER,
    GENERATE,
    LONGEST,
    PROMPT,
    ROUTES,
    SLOTS,
    answered_soon,
    ask_of_prompt,
    asked_and_left,
    assert_logprobs,
    by_route,
    choice,
    logprobs,
    much_work,
    policy,
    prompt_ids,
    request,
    serve,
)
from support.inference.inference_support import openai_error, reference_logprobs, wait_until
from transformers import DynamicCache

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def server(engine_server):
    return engine_server


@pytest.fixture(scope="module")
def second(running, folder):
    return policy(folder / "weights", 2, step=2)


# --- weights ---


def test_a_pushed_version_samples_from_then_on(server, second):
    for route in ROUTES:
        server.post(route, ask_of_prompt(route))  # the prompt, computed by the old weights, is now cached
    answer = serve(server, second.label).json()
    assert answer["version"] == server.version() == second.label
    assert answer["probe"] < 1e-4
    for route in ROUTES:
        reply = server.http.post(route, ask_of_prompt(route, seed=1, temperature=1.0, logprobs=0))
        assert reply.headers["x-weight-versions"] == second.label
        assert_logprobs(second.made, route, reply.json()["choices"][0], prompt_ids(route, reply.json()))


def test_serving_the_same_version_again_changes_nothing(server, first):
    before = choice(server, GENERATE, max_tokens=20, seed=4)
    for _ in range(2):
        answer = serve(server, first.label)
        assert (answer.status_code, answer.json()["version"]) == (200, first.label)
    assert choice(server, GENERATE, max_tokens=20, seed=4) == before


def kept(first, second, tokens, split):
    """Log-probs of the tokens [split:]. The first policy computes the keys and values of the tokens before. The second
    policy continues with these keys and values.
    """
    with torch.inference_mode():
        cache = DynamicCache()
        first.made(torch.tensor([PROMPT + tokens[: split - 1]]), past_key_values=cache)
        logits = second.made(torch.tensor([tokens[split - 1 : -1]]), past_key_values=cache).logits[0]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens[split:]).unsqueeze(1)).squeeze(1)


def until_it_spans(server, first, attempt):
    """Repeat `attempt` until two versions have sampled its response, and return its result. On a busy machine, a
    response may end before the push.
    """
    for _ in range(10):
        found, versions = attempt()
        if versions == 2:
            return found
        assert serve(server, first.label).status_code == 200
    raise AssertionError("no push came in time")


def test_a_response_during_a_push_has_spans_split_at_the_change(server, engine, first, second):
    """After a push, the embedded engine keeps the old keys and values. vLLM computes all keys and values again."""
    common = {"max_tokens": LONGEST, "logprobs": 0, "ignore_eos": True}

    def attempt():
        tokens, values, push = [], [], None
        with concurrent.futures.ThreadPoolExecutor() as pool:
            others = pool.submit(server.post, GENERATE, request(GENERATE, n=SLOTS // 2, **common))
            for event in server.http.events(GENERATE, request(GENERATE, stream=True, **common)):
                push = push or pool.submit(serve, server, second.label)
                (piece,) = event["choices"]
                tokens += piece["token_ids"]
                values += logprobs(GENERATE, piece)
        assert push.result().status_code == 200
        found = [one["weight_versions"] for one in (piece, *others.result()["choices"])]
        return (tokens, values, found), min(len(spans) for spans in found)

    tokens, values, found = until_it_spans(server, first, attempt)
    for old, new in found:
        assert (old["version"], new["version"]) == (first.label, second.label)
        assert 0 == old["start"] < old["end"] == new["start"] < new["end"] == LONGEST
    split = found[0][0]["end"]
    before = reference_logprobs(first.made, PROMPT, tokens[:split])
    anew = reference_logprobs(second.made, PROMPT, tokens)[split:]
    after = kept(first, second, tokens, split) if engine == "embedded" else anew
    torch.testing.assert_close(torch.tensor(values), torch.cat([before, after]), atol=1e-4, rtol=0)


def in_flight(server, engine):
    names = {"embedded": "arlarena_inference_requests_running ", "vllm": "arlarena_gateway_requests_in_flight{"}
    lines = server.http.get("/metrics").text.splitlines()
    return sum(float(line.split()[-1]) for line in lines if line.startswith(names[engine]))


@by_route
def test_a_response_during_a_push_names_both_versions(server, engine, first, second, route):
    asked = request(route, n=SLOTS // 2, max_tokens=LONGEST, ignore_eos=True)
    beside = request(GENERATE, max_tokens=LONGEST, ignore_eos=True, stream=True)

    def attempt():
        with concurrent.futures.ThreadPoolExecutor() as pool:
            whole = pool.submit(server.http.post, route, asked)
            wait_until(lambda: whole.done() or in_flight(server, engine) > 0, "in flight")
            next(server.http.events(GENERATE, beside))  # requests that were sent earlier are then running too
            assert serve(server, second.label).status_code == 200
        versions = whole.result().headers["x-weight-versions"].split(", ")
        return versions, len(versions)

    assert until_it_spans(server, first, attempt) == [first.label, second.label]


def test_a_push_does_not_wait_for_queued_requests(server, engine, first, second):
    with asked_and_left(server, much_work()):
        wait_until(lambda: answered_soon(server, 0.3) == 504, "all slots taken")
        answer = serve(server, second.label)
        assert answer.status_code == 200, answer.text
        assert in_flight(server, engine) > 0


@by_route
def test_every_response_names_its_versions_in_a_header(server, first, route):
    asked = request(route, max_tokens=2, ignore_eos=True)
    assert server.http.post(route, asked).headers["x-weight-versions"] == first.label
    with server.http.stream(route, {**asked, "stream": True}) as (headers, events):
        assert headers["x-weight-versions"] == first.label
        assert list(events)


@pytest.fixture
def planted(running, folder):
    return policy(folder / "weights", 3, step=3, probe_off=0.01)


def assert_refused(answer, planted):
    assert answer.status_code == 409, answer.text
    error = answer.json()["error"]
    assert error["code"] == "conflict"
    assert planted.directory.name in error["message"]
    assert "differ from the pushed weights" in error["message"]


def test_after_a_failed_probe_embedded_serves_the_old_version_and_vllm_answers_503(server, engine, first, planted):
    """vLLM can be probed only after the old weights were replaced. So vLLM's gateway answers 503 until another version
    passes its probe.
    """
    assert_refused(serve(server, planted.label), planted)
    reply = server.http.post(GENERATE, request(GENERATE, max_tokens=3, ignore_eos=True))
    if engine == "embedded":
        assert server.version() == reply.headers["x-weight-versions"] == first.label
    else:
        assert (reply.status_code, openai_error(reply)["code"]) == (503, "service_unavailable")
        assert server.http.get("/ready").status_code == 503
    assert serve(server, first.label).status_code == 200
    assert server.generate(PROMPT, max_tokens=3, ignore_eos=True)["weight_versions"][0]["version"] == first.label


def test_a_refused_version_is_refused_again(server, planted):
    assert_refused(serve(server, planted.label), planted)
    assert_refused(serve(server, planted.label), planted)


@pytest.mark.parametrize("version", ["run:9:" + "0" * 32, "other:1:" + "0" * 32, "nonsense"])
def test_a_missing_version_is_404_and_changes_nothing(server, first, version):
    answer = serve(server, version)
    assert answer.status_code == 404
    assert version in answer.json()["error"]["message"]
    assert server.version() == first.label


def test_the_weight_routes_need_the_admin_token(server, first):
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = server.http.post("/serve_weights", {"version": first.label}, headers=headers)
        assert (answer.status_code, openai_error(answer)["code"]) == (401, "invalid_api_key")


@pytest.mark.parametrize(
    "route", ["/pause", "/resume", "/start_weight_update", "/update_weights", "/finish_weight_update", "/is_paused"]
)
def test_the_phases_of_vllms_push_are_hidden(server, route):
    answer = server.http.post(route, {}, headers=BEARER)
    assert (answer.status_code, openai_error(answer)["code"]) == (404, "not_found")


def test_reset_prefix_cache_needs_the_token_on_embedded_and_is_hidden_on_vllm(server, engine):
    answer = server.http.post("/reset_prefix_cache", {})
    assert answer.status_code == (401 if engine == "embedded" else 404)
    openai_error(answer)
    if engine == "vllm":
        assert server.http.post("/reset_prefix_cache", {}, headers=BEARER).status_code == 404
    else:
        assert server.http.post("/reset_prefix_cache", {}, headers=BEARER).json() == {"success": True}


@pytest.mark.parametrize("route", ["/collective_rpc", "/sleep", "/abort_requests", "/inference/v1/abort_requests"])
def test_other_routes_of_vllm_are_404(server, route):
    answer = server.http.post(route, {}, headers=BEARER)
    assert (answer.status_code, openai_error(answer)["code"]) == (404, "not_found")


# --- the last tests: after a failed push, other tests cannot use the engine ---


def flip(weights):
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)


def cut_short(weights):
    weights.write_bytes(weights.read_bytes()[:-8])


@pytest.mark.parametrize("damage", [flip, cut_short])
def test_damaged_weights_are_refused_and_the_old_weights_stay_in_service(server, first, folder, damage):
    damaged = policy(folder / "weights", 4, step=4)
    damage(damaged.directory / "model.safetensors")
    answer = serve(server, damaged.label)
    assert answer.status_code == 400, answer.text
    assert damaged.directory.name in answer.json()["error"]["message"]
    assert server.generate(PROMPT, max_tokens=3)["weight_versions"][0]["version"] == first.label
