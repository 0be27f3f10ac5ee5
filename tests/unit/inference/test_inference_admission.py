"""Limits of requests, text threads with a queue and a deadline, turns of the event loop, access control."""

import asyncio
import json
import threading
import time

import pytest

from arlarena.inference.api.access import Access, admin_access, model_access
from arlarena.inference.api.asgi import ApiRequest
from arlarena.inference.api.errors import RequestError
from arlarena.inference.api.loop_fairness import Turns
from arlarena.inference.api.parameters import short_json
from arlarena.inference.api.request_limits import RequestLimits, json_size
from arlarena.inference.embedded.text.threads import TextWorkers
from arlarena.inference.gateway.app import Gateway
from arlarena.inference.gateway.fleet import Fleet
from arlarena.inference.settings import InferenceSettings
from arlarena.proto.telemetry import Logger


def test_limits_follow_the_models_length():
    short, long = (RequestLimits.from_settings(InferenceSettings(), 16, length) for length in (512, 131_072))
    assert (short.sequences, short.text_chars, long.text_chars) == (8192 + 16, 262_144, 16 * 131_072)
    assert RequestLimits.from_settings(InferenceSettings(max_text_chars=10), 16, 512).text_chars == 10


def test_json_size_counts_items_and_characters():
    assert json_size([{"role": "user", "content": ["ab", 1, None]}]) == (1 + 2 + 3, 4 + 4 + 7 + 2)
    deep = "x"
    for _ in range(100_000):
        deep = [deep]
    assert json_size(deep) == (100_000, 1)


SMALL = InferenceSettings(
    engine="vllm", max_waiting=8, max_slots=2, max_messages=4, max_text_chars=100, max_prompt_tokens=50
)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"prompt": ["a"] * 11}, "11 prompts with n = 1 are 11 sequences"),
        ({"prompt": "a", "n": 11}, "n = 11 are 11"),
        ({"prompt": ["a"] * 4, "best_of": 3}, "n = 3 are 12"),
        ({"token_ids": [5], "sampling_params": {"n": 11}}, "n = 11 are 11"),
        ({"token_ids": [5] * 51, "sampling_params": {}}, "more than 50 tokens"),
        ({"prompt": [[5] * 30, [5] * 30]}, "more than 50 tokens"),
        ({"prompt": ["ok", "x" * 101]}, "prompt has 101 characters"),
        ({"text": "x" * 101}, "101 characters"),
        ({"messages": [{"role": "user", "content": "x"}] * 5}, "messages has 5 messages"),
        ({"messages": [{"role": "user", "content": "x" * 101}]}, "characters"),
    ],
)
async def test_a_gateway_checks_limits_before_it_forwards_to_vllm(body, message):
    gateway = Gateway(SMALL, Fleet([], 32, Logger("test")), [], Logger("test"))
    call = ApiRequest("POST", "/v1/completions", json.dumps(body).encode(), [], b"", asyncio.Event().wait)
    with pytest.raises(RequestError, match=message) as refused:
        await gateway.proxy.forward(call)
    assert refused.value.status == 400


@pytest.mark.parametrize(
    "body",
    [
        [],
        {"prompt": None, "n": "many"},
        {"prompt": ["a"] * 5, "n": 2},
        {"token_ids": [5] * 50, "sampling_params": {"n": 10}},
        {"messages": [{"role": "user", "content": "x"}] * 4, "chat_template_kwargs": 3},
        {"messages": "hello"},
    ],
)
def test_requests_within_the_limits_or_of_another_type_are_left_to_the_engine(body):
    RequestLimits.from_settings(SMALL, SMALL.max_slots, 512).check_body(json.dumps(body).encode())


def test_a_gateway_does_not_check_limits_for_servers_that_check_them():
    for settings in (InferenceSettings(), InferenceSettings(engine="vllm", replica_urls=("http://a:1",))):
        assert Gateway(settings, Fleet([], 32, Logger("test")), [], Logger("test")).proxy._limits is None


def test_a_value_in_an_error_is_shortened_without_reading_all_of_it():
    deep = []
    for _ in range(100_000):  # far deeper than Python's recursion limit
        deep = [deep]
    assert short_json(deep) == "[" * 100 + "…"
    assert len(short_json({"a": "x" * 1_000_000})) < 110
    assert short_json({"a": [1, None, "é"]}) == '{"a": [1, null, "\\u00e9"]}'


async def test_text_work_beyond_the_queue_is_503_and_beyond_the_deadline_504():
    release, workers = threading.Event(), TextWorkers(1, 30.0, max_waiting=1)
    far = time.monotonic() + 30
    held = [asyncio.create_task(workers.run(release.wait, far)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(RequestError, match="max_waiting") as full:
        await workers.run(time.monotonic, far)
    held[1].cancel()
    await asyncio.wait(held[1:])
    with pytest.raises(RequestError, match="text_timeout_s") as late:
        await workers.run(time.monotonic, time.monotonic() + 0.05)
    assert (full.value.status, late.value.status) == (503, 504)
    release.set()
    assert await held[0] is True
    assert await workers.run(lambda: 7, far) == 7


async def test_a_burst_of_requests_lets_other_callbacks_run_in_between():
    turns, order = Turns(asyncio.get_running_loop()), []

    async def request(number):
        await turns.wait()
        time.sleep(0.005)
        order.append(number)

    requests = [asyncio.create_task(request(i)) for i in range(100)]
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(order.append, "health")
    await asyncio.gather(*requests)
    assert order.index("health") < 30
    assert [number for number in order if number != "health"] == list(range(100))


async def test_requests_in_sequence_do_not_wait():
    turns = Turns(asyncio.get_running_loop())
    for _ in range(3):
        turn = turns.wait()
        with pytest.raises(StopIteration):  # `wait` returns without yielding to the event loop
            turn.send(None)
        await asyncio.sleep(0)


def test_the_admin_token_opens_model_routes_and_the_api_key_no_admin_route():
    settings = InferenceSettings(api_key="k" * 16, admin_token="t" * 16)

    def allowed(access, token):
        try:
            access.check([(b"authorization", f"Bearer {token}".encode())])
        except RequestError as error:
            return error.status
        return 200

    model, admin = model_access(settings), admin_access(settings)
    assert [allowed(model, token) for token in ("k" * 16, "t" * 16, "k" * 15, "")] == [200, 200, 401, 401]
    assert [allowed(admin, token) for token in ("k" * 16, "t" * 16)] == [401, 200]
    Access().check([(b"origin", b"http://x"), (b"sec-fetch-site", b"cross-site")])
