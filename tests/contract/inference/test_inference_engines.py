"""One contract for two engines: what a client may rely on, whichever of them answers.

Both are asked through the same routes, and their numbers are compared with transformers'. Where they differ and a
client would notice, the name of the test says so.
"""

import concurrent.futures
import contextlib
import json
import socket
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from inference_support import (
    EOS,
    VOCABULARY,
    Http,
    label,
    model,
    reference_logprobs,
    running_server,
    tokenizer,
    wait_until,
    write_version,
)
from transformers import DynamicCache

ROOT = Path(__file__).resolve().parents[3]
PYTHON = ROOT / ".venv-vllm" / "bin" / "python"
TOKEN = "a token of some length"
BEARER = {"authorization": f"Bearer {TOKEN}"}
SLOTS, LENGTH = 8, 1024
GENERATE, COMPLETIONS, CHAT = ROUTES = ("/inference/v1/generate", "/v1/completions", "/v1/chat/completions")
USER = [{"role": "user", "content": "ab 1"}]
PROMPT = [3, 5, 6, 41, 32, 4]  # USER through the template
LONG = [(7 + 31 * i) % VOCABULARY for i in range(150)]
LONGEST = LENGTH - len(PROMPT)
SOON_S = 8.0  # far less than `much_work` takes, far more than an idle server needs for a short answer

pytestmark = pytest.mark.timeout(300)
by_route = pytest.mark.parametrize("route", ROUTES, ids=["generate", "completions", "chat"])
by_text_route = pytest.mark.parametrize("route", ROUTES[1:], ids=["completions", "chat"])


# --- a server of each engine ---


@dataclass(frozen=True)
class Policy:
    """A version directory and what it holds, in transformers."""

    directory: Path
    made: Any

    @property
    def label(self):
        return label(self.directory)


def policy(root, seed, step, probe_off=0.0):
    """A head size that vLLM's CPU attention has, the head tied to the embedding (what a reload gets wrong), and
    preferences of the model's author.
    """
    made = model(seed, head_dim=32, tie_word_embeddings=True, max_position_embeddings=LENGTH)
    made.generation_config.update(do_sample=True, temperature=0.6)
    log_probs = reference_logprobs(made, LONG[:1], LONG[1:20]) + probe_off
    probe = {"ids": LONG[:20], "log_probs": log_probs.tolist(), "tolerance": 1e-3}
    return Policy(write_version(root, made, step, probe=probe), made)


@pytest.fixture(scope="module", params=["embedded", "vllm"])
def engine(request):
    if request.param == "vllm" and not PYTHON.exists():
        pytest.skip("VLLM ABSENT: `make setup-vllm`, so this test did not run")
    return request.param


@pytest.fixture(scope="module")
def folder(engine, tmp_path_factory):
    return tmp_path_factory.mktemp(engine)


@pytest.fixture(scope="module")
def first(folder):
    (folder / "weights").mkdir()
    return policy(folder / "weights", 1, step=1)


@pytest.fixture(scope="module")
def running(engine, first, folder):
    config = (
        f'engine = "{engine}"\nvllm_device = "cpu"\nvllm_python = "{PYTHON}"\nmax_slots = {SLOTS}\n'
        f'weights_root = "{first.directory.parent}"\nadmin_token = "{TOKEN}"\nserved_model_name = "tiny"\n'
        "replica_wait_s = 1.0\n"
    )
    with running_server(folder / "run", config, start_s=200) as server:
        yield server


@pytest.fixture(scope="module")
def second(running, folder):
    return policy(folder / "weights", 2, step=2)


@pytest.fixture
def server(running, first):
    """Serves the first version again after every test."""
    yield running
    if running.version() != first.label:
        assert serve(running, first.label).status_code == 200
    assert running.generate(PROMPT, max_tokens=1)["weight_versions"][0]["version"] == first.label


def serve(server, version):
    return Http(server.url, timeout_s=90).post("/serve_weights", {"version": version}, headers=BEARER)


# --- the three routes as one ---


def request(route, **params):
    """A request with vLLM's names of sampling parameters: `logprobs` is how many likeliest tokens are wanted."""
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
    """Of a choice, or of a piece of one."""
    return (one.get("message") or one["delta"]).get("content") or "" if route == CHAT else one["text"]


def logprobs(route, one):
    """Of a choice, or of a piece of one."""
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
    """Log-probs [V] of what follows, by transformers."""
    with torch.inference_mode():
        return torch.log_softmax(made(torch.tensor([ids])).logits[0, -1], -1)


# --- more than the slots hold ---


@contextlib.contextmanager
def asked_and_left(server, body):
    """A client that has asked for a completion and leaves before its answer."""
    data = json.dumps(body).encode()
    head = f"POST {COMPLETIONS} HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
        client.sendall(head.encode() + data)
        yield


def much_work(**extra):
    """Many times what the slots hold, each as long as the context: it lasts far longer than any test waits."""
    asked = request(COMPLETIONS, n=SLOTS, max_tokens=LONGEST, ignore_eos=True, **extra)
    return {**asked, "prompt": [PROMPT] * 32}


def answered_soon(server, seconds=SOON_S):
    body = request(GENERATE, max_tokens=2, ignore_eos=True)
    return server.http.post(GENERATE, body, headers={"x-request-timeout-s": str(seconds)}).status_code


# --- tokens, log-probs, ends ---


@by_route
@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_probs_are_transformers_at_the_requests_temperature(server, first, route, temperature):
    for seed in range(6):
        one = choice(server, route, max_tokens=20, seed=seed, temperature=temperature, logprobs=0)
        assert_logprobs(first.made, route, one, temperature=temperature)


@by_route
def test_greedy_takes_transformers_likeliest_tokens(server, first, route):
    one = choice(server, route, max_tokens=12, temperature=0, logprobs=0, ignore_eos=True)
    ids = list(PROMPT)
    for _ in range(12):
        ids.append(int(next_logprobs(first.made, ids).argmax()))
    assert one["token_ids"] == ids[len(PROMPT) :]
    assert_logprobs(first.made, route, one)


@by_route
def test_the_prompts_ids_are_returned_when_asked_for(server, route):
    asked = request(route, max_tokens=4, ignore_eos=True)
    answer = server.post(route, asked)
    assert prompt_ids(route, answer) == PROMPT
    assert usage(answer) == [6, 4, 10]
    assert prompt_ids(route, server.post(route, {**asked, "return_token_ids": False})) is None


def test_generate_answers_with_the_requests_id_and_the_version_of_every_token(server, first):
    asked = {**request(GENERATE, max_tokens=4, ignore_eos=True), "request_id": "abc", "model": "tiny"}
    answer = server.post(GENERATE, asked)
    assert (answer["request_id"], answer["model"]) == ("generate-tokens-abc", "tiny")
    (one,) = answer["choices"]
    assert one["weight_versions"] == [{"version": first.label, "start": 0, "end": 4}]
    assert one["logprobs"] is None


@by_route
def test_an_end_of_sequence_is_in_the_answer_and_ends_it(server, first, route):
    for seed in range(100):
        one = choice(server, route, max_tokens=60, seed=seed, temperature=1.0, logprobs=0)
        if one["finish_reason"] == "stop":
            break
    assert one["stop_reason"] is None
    assert one["token_ids"].index(EOS) == len(one["token_ids"]) - 1
    assert_logprobs(first.made, route, one)


@by_route
def test_the_end_of_sequence_can_be_ignored(server, route):
    one = choice(server, route, max_tokens=300, seed=1, temperature=1.0, ignore_eos=True)
    assert EOS in one["token_ids"]
    assert (len(one["token_ids"]), one["finish_reason"], one["stop_reason"]) == (300, "length", None)


@by_route
def test_a_stop_id_ends_and_is_named(server, route):
    common = {"max_tokens": 8, "seed": 2, "temperature": 1.0, "ignore_eos": True}
    ids = choice(server, route, **common)["token_ids"]
    one = choice(server, route, **common, stop_token_ids=[ids[3]])
    assert one["token_ids"] == ids[: ids.index(ids[3]) + 1]
    assert (one["finish_reason"], one["stop_reason"]) == ("stop", ids[3])


@pytest.mark.parametrize("limit", [{}, {"max_tokens": 100}], ids=["without a limit", "beyond the context"])
def test_generate_ends_at_the_context_with_reason_length(server, limit):
    one = server.generate([5] * (LENGTH - 7), ignore_eos=True, **limit)
    assert (len(one["token_ids"]), one["finish_reason"]) == (7, "length")


def test_a_completion_has_16_tokens_and_a_chat_the_whole_context_unless_told_otherwise(server):
    assert usage(server.post(COMPLETIONS, request(COMPLETIONS, ignore_eos=True))) == [6, 16, 22]
    assert usage(server.post(CHAT, request(CHAT, ignore_eos=True))) == [6, LONGEST, LENGTH]
    assert usage(server.post(CHAT, request(CHAT, ignore_eos=True, max_completion_tokens=3))) == [6, 3, 9]


# --- the likeliest tokens ---


def likeliest(made, ids, count):
    """{id: log-prob} of the `count` likeliest next tokens."""
    values, tokens = next_logprobs(made, ids).topk(count)
    return dict(zip(tokens.tolist(), values.tolist(), strict=True))


def test_generate_reports_the_sampled_token_first_and_then_the_likeliest_by_rank(server, first):
    one = choice(server, GENERATE, max_tokens=10, seed=3, logprobs=3, ignore_eos=True)
    ids = list(PROMPT)
    for entry, token in zip(one["logprobs"]["content"], one["token_ids"], strict=True):
        expected = next_logprobs(first.made, ids)
        sampled, *others = entry["top_logprobs"]
        assert sampled == {key: entry[key] for key in ("token_id", "logprob", "rank")}
        assert entry["token_id"] == token
        assert len(entry["top_logprobs"]) == 3
        assert [other["rank"] for other in others] == [r for r in (1, 2, 3) if r != entry["rank"]][:2]
        for found in entry["top_logprobs"]:
            assert found["logprob"] == pytest.approx(expected[found["token_id"]].item(), abs=1e-4)
            assert found["rank"] == 1 + int((expected > expected[found["token_id"]]).sum())
        ids.append(token)


def test_a_completion_reports_the_sampled_token_beside_the_likeliest(server, first):
    one = choice(server, COMPLETIONS, max_tokens=10, seed=3, temperature=1.0, logprobs=2, ignore_eos=True)
    found, ids = one["logprobs"], list(PROMPT)
    assert found["tokens"] == [tokenizer().decode([token]) for token in one["token_ids"]]
    for token, value, top in zip(one["token_ids"], found["token_logprobs"], found["top_logprobs"], strict=True):
        expected = likeliest(first.made, ids, 2) | {token: value}
        assert top == pytest.approx({tokenizer().decode([t]): v for t, v in expected.items()}, abs=1e-4)
        ids.append(token)


def test_a_chat_reports_the_sampled_token_first_and_its_bytes(server, first):
    one = choice(server, CHAT, max_tokens=10, seed=3, temperature=1.0, logprobs=2, ignore_eos=True)
    ids = list(PROMPT)
    for token, entry in zip(one["token_ids"], one["logprobs"]["content"], strict=True):
        assert entry["token"] == bytes(entry["bytes"]).decode() == tokenizer().decode([token])
        sampled, other = entry["top_logprobs"]
        assert sampled == {key: entry[key] for key in ("token", "logprob", "bytes")}
        others = [(t, v) for t, v in likeliest(first.made, ids, 2).items() if t != token]
        assert (other["token"], other["logprob"]) == (
            tokenizer().decode([others[0][0]]),
            pytest.approx(others[0][1], abs=1e-4),
        )
        ids.append(token)


# --- seeds and choices ---


def test_a_seed_gives_the_same_tokens_alone_and_in_a_crowd_and_others_give_others(server):
    def ask(seed):
        return server.generate([3 + seed % 5] * (5 + seed % 3), max_tokens=15, seed=seed, ignore_eos=True)["token_ids"]

    alone = [ask(seed) for seed in range(24)]
    with concurrent.futures.ThreadPoolExecutor(24) as pool:
        crowd = list(pool.map(ask, range(24)))
    assert crowd == alone
    assert len({tuple(ids) for ids in alone}) == 24


@by_route
def test_without_a_seed_responses_differ(server, route):
    found = [choice(server, route, max_tokens=20, ignore_eos=True) for _ in range(4)]
    assert len({tuple(one["token_ids"]) for one in found}) == 4


@by_route
def test_choices_differ_repeat_with_their_seed_and_the_first_is_the_seeds_own(server, route):
    common = {"max_tokens": 10, "seed": 3, "ignore_eos": True}
    found = choices(server, route, n=4, **common)
    assert [one["index"] for one in found] == [0, 1, 2, 3]
    ids = [one["token_ids"] for one in found]
    assert len({tuple(i) for i in ids}) == 4
    assert [one["token_ids"] for one in choices(server, route, n=4, **common)] == ids
    assert choice(server, route, **common)["token_ids"] == ids[0]


def test_several_prompts_times_several_choices(server):
    asked = {"prompt": [[5, 6], [7]], "n": 2, "max_tokens": 3, "ignore_eos": True, "return_token_ids": True}
    answer = server.post(COMPLETIONS, asked)
    assert [one["index"] for one in answer["choices"]] == [0, 1, 2, 3]
    assert [one["prompt_token_ids"] for one in answer["choices"]] == [[5, 6], [5, 6], [7], [7]]
    assert usage(answer) == [3, 12, 15]


# --- text ---


@by_text_route
def test_a_stop_string_ends_the_text_before_it_and_is_named(server, route):
    common = {"max_tokens": 40, "seed": 8, "ignore_eos": True}
    free = choice(server, route, **common)
    whole = text(route, free)
    assert whole == tokenizer().decode(free["token_ids"], skip_special_tokens=True)
    stop = whole[5:7]
    before = whole[: whole.index(stop)]
    ended = choice(server, route, **common, stop=["never appears", stop])
    assert (text(route, ended), ended["finish_reason"], ended["stop_reason"]) == (before, "stop", stop)
    assert ended["token_ids"] == free["token_ids"][: len(ended["token_ids"])]
    kept = choice(server, route, **common, stop=stop, include_stop_str_in_output=True)
    assert (text(route, kept), kept["stop_reason"]) == (before + stop, stop)


@by_text_route
@pytest.mark.parametrize("include", [False, True])
def test_a_stream_shows_nothing_of_a_stop_string_unless_asked(server, route, include):
    common = {"max_tokens": 40, "seed": 8, "ignore_eos": True}
    whole = text(route, choice(server, route, **common))
    stop = whole[5:8]
    asked = request(route, **common, stop=stop, include_stop_str_in_output=include, stream=True)
    pieces = [one for event in server.http.events(route, asked) for one in event["choices"]]
    assert "".join(text(route, piece) for piece in pieces) == whole[: whole.index(stop)] + stop * include
    assert (pieces[-1]["finish_reason"], pieces[-1]["stop_reason"]) == ("stop", stop)


def test_a_stop_string_ends_a_response_of_tokens_with_the_token_that_completes_it(server):
    common = {"max_tokens": 40, "seed": 8, "ignore_eos": True}
    ids = choice(server, GENERATE, **common)["token_ids"]
    whole = tokenizer().decode(ids, skip_special_tokens=True)
    ended = choice(server, GENERATE, **common, stop=whole[5:7])
    assert (ended["finish_reason"], ended["stop_reason"]) == ("stop", whole[5:7])
    assert ended["token_ids"] == ids[: len(ended["token_ids"])]
    shown = tokenizer().decode(ended["token_ids"], skip_special_tokens=True)
    assert shown == whole[: whole.index(whole[5:7]) + 2]


def test_a_completion_of_text_and_of_its_ids_are_the_same(server):
    common = {"max_tokens": 8, "seed": 1, "return_token_ids": True}
    by_text, by_ids = (
        server.post(COMPLETIONS, {"prompt": prompt, **common})["choices"][0]
        for prompt in ("hello 1", tokenizer().encode("hello 1"))
    )
    assert by_text["prompt_token_ids"] == by_ids["prompt_token_ids"] == tokenizer().encode("hello 1")
    assert (by_text["token_ids"], by_text["text"]) == (by_ids["token_ids"], by_ids["text"])


def test_a_chat_goes_through_the_template_and_is_what_generate_gives(server):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "ab"}]},
        {"role": "assistant", "content": "c"},
        {"role": "user", "content": "d"},
    ]
    asked = {"messages": messages, "max_tokens": 6, "seed": 2, "temperature": 1.0, "return_token_ids": True}
    answer = server.post(CHAT, asked)
    assert answer["object"] == "chat.completion"
    assert answer["prompt_token_ids"] == tokenizer().encode("<user>ab<assistant>c<user>d<assistant>")
    (one,) = answer["choices"]
    assert one["message"]["role"] == "assistant"
    assert one["message"]["content"] == tokenizer().decode(one["token_ids"], skip_special_tokens=True)
    same = server.generate(answer["prompt_token_ids"], max_tokens=6, seed=2)
    assert same["token_ids"] == one["token_ids"]


def test_tokens_and_back(server):
    asked = server.post("/tokenize", {"prompt": "ab 1", "return_token_strs": True})
    assert asked["tokens"] == tokenizer().encode("ab 1")
    assert (asked["count"], asked["max_model_len"], asked["token_strs"]) == (4, LENGTH, ["a", "b", " ", "1"])
    assert server.post("/tokenize", {"messages": USER})["tokens"] == PROMPT
    assert server.post("/detokenize", {"tokens": PROMPT}) == {"prompt": "<user>ab 1<assistant>"}


def test_information(server, first):
    models = server.http.get("/v1/models").json()["data"]
    assert [(one["id"], one["max_model_len"]) for one in models] == [("tiny", LENGTH)]
    assert server.http.get("/weight_info").json() == {"weight_version": first.label}
    assert server.http.get("/health").json()["weight_version"] == first.label
    assert server.http.get("/ready").status_code == 200
    assert server.http.get("/version").json()["version"]
    assert "requests_total" in server.http.get("/metrics").text


# --- the prompt's log-probs ---


def ask_of_prompt(route, **params):
    """A request about LONG."""
    asked = request(route, max_tokens=1, **params)
    if route == CHAT:
        content = tokenizer().decode(LONG[10:40], skip_special_tokens=True)
        return {**asked, "messages": [{"role": "user", "content": content}]}
    return {**asked, "token_ids" if route == GENERATE else "prompt": LONG}


@by_route
@pytest.mark.parametrize("temperature", [1.0, 0.3])
def test_a_prompts_log_probs_are_transformers_at_temperature_1(server, first, route, temperature):
    answer = server.post(route, ask_of_prompt(route, prompt_logprobs=0, temperature=temperature))
    ids, (none, *entries) = prompt_ids(route, answer), prompt_logprobs(route, answer)
    assert none is None
    assert all(len(entry) == 1 for entry in entries)
    found = torch.tensor([entry[str(token)]["logprob"] for entry, token in zip(entries, ids[1:], strict=True)])
    torch.testing.assert_close(found, reference_logprobs(first.made, ids[:1], ids[1:]), atol=1e-4, rtol=0)


@by_route
def test_a_prompts_likeliest_tokens_come_with_their_ranks(server, first, route):
    answer = server.post(route, ask_of_prompt(route, prompt_logprobs=3))
    ids, (_, *entries) = prompt_ids(route, answer), prompt_logprobs(route, answer)
    for at, entry in enumerate(entries[:20], start=1):
        expected = next_logprobs(first.made, ids[:at])
        assert {int(token) for token in entry} == {*expected.topk(3).indices.tolist(), ids[at]}
        for token, found in entry.items():
            assert found["rank"] == 1 + int((expected > expected[int(token)]).sum())
            assert found["logprob"] == pytest.approx(expected[int(token)].item(), abs=1e-4)
            assert found["decoded_token"] == tokenizer().decode([int(token)])


# --- streams ---


@by_route
def test_the_pieces_of_a_stream_are_the_whole_answer(server, route):
    asked = request(route, n=2, max_tokens=60, seed=5, logprobs=1, ignore_eos=True)
    whole = server.post(route, asked)["choices"]
    events = list(server.http.events(route, {**asked, "stream": True}))
    assert prompt_ids(route, events[0]) == PROMPT
    assert not any(event.get("usage") for event in events)
    for one in whole:
        pieces = [piece for event in events for piece in event["choices"] if piece["index"] == one["index"]]
        assert [token for piece in pieces for token in piece.get("token_ids") or ()] == one["token_ids"]
        values = [value for piece in pieces for value in logprobs(route, piece)]
        assert values == pytest.approx(logprobs(route, one), abs=1e-4)
        assert [piece["finish_reason"] for piece in pieces if piece["finish_reason"]] == ["length"]
        assert len(pieces) > 2
        if route != GENERATE:
            assert "".join(text(route, piece) for piece in pieces) == text(route, one)


@by_route
def test_a_streams_last_event_is_the_usage_when_asked_for(server, route):
    asked = request(route, n=2, max_tokens=12, ignore_eos=True)
    *events, last = server.http.events(route, {**asked, "stream": True, "stream_options": {"include_usage": True}})
    assert last["choices"] == []
    assert usage(last) == [6, 24, 30]
    assert not any(event.get("usage") for event in events)


def test_a_streamed_chat_begins_with_its_role(server):
    begin = next(server.http.events(CHAT, request(CHAT, max_tokens=4, ignore_eos=True, stream=True)))
    assert begin["object"] == "chat.completion.chunk"
    assert begin["choices"][0]["delta"]["role"] == "assistant"


def test_a_streamed_response_of_tokens_names_its_versions_in_the_last_piece(server, first):
    asked = request(GENERATE, max_tokens=9, ignore_eos=True, stream=True)
    *pieces, last = [event["choices"][0] for event in server.http.events(GENERATE, asked)]
    assert last["weight_versions"] == [{"version": first.label, "start": 0, "end": 9}]
    assert not any(piece["weight_versions"] for piece in pieces)


# --- weights ---


def test_a_version_that_is_pushed_samples_from_then_on(server, second):
    for route in ROUTES:
        server.post(route, ask_of_prompt(route))  # its prompt is cached as the old weights computed it
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
    """Log-probs of tokens [split:] by the second policy, which goes on from keys and values of the first."""
    with torch.inference_mode():
        cache = DynamicCache()
        first.made(torch.tensor([PROMPT + tokens[: split - 1]]), past_key_values=cache)
        logits = second.made(torch.tensor([tokens[split - 1 : -1]]), past_key_values=cache).logits[0]
    return torch.log_softmax(logits, -1).gather(1, torch.tensor(tokens[split:]).unsqueeze(1)).squeeze(1)


def until_it_spans(server, first, attempt):
    """What `attempt` finds when its push came before its responses ended: on a busy machine it may come too late."""
    for _ in range(10):
        found, versions = attempt()
        if versions == 2:
            return found
        assert serve(server, first.label).status_code == 200
    raise AssertionError("no push came in time")


def test_a_response_that_spans_a_push_is_split_where_the_weights_changed(server, engine, first, second):
    """Embedded goes on from the old keys and values; vLLM computes all of them anew."""
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
def test_a_whole_answer_that_spans_a_push_names_both_versions(server, engine, first, second, route):
    asked = request(route, n=SLOTS // 2, max_tokens=LONGEST, ignore_eos=True)
    beside = request(GENERATE, max_tokens=LONGEST, ignore_eos=True, stream=True)

    def attempt():
        with concurrent.futures.ThreadPoolExecutor() as pool:
            whole = pool.submit(server.http.post, route, asked)
            wait_until(lambda: in_flight(server, engine) > 0, "in flight")
            next(server.http.events(GENERATE, beside))  # what came before it runs as well
            assert serve(server, second.label).status_code == 200
        versions = whole.result().headers["x-weight-versions"].split(", ")
        return versions, len(versions)

    assert until_it_spans(server, first, attempt) == [first.label, second.label]


def test_a_push_does_not_wait_for_what_is_queued(server, engine, first, second):
    with asked_and_left(server, much_work()):
        wait_until(lambda: answered_soon(server, 0.3) == 504, "all slots taken")
        answer = serve(server, second.label)
        assert answer.status_code == 200, answer.text
        assert in_flight(server, engine) > 0


@by_route
def test_every_answer_says_in_a_header_who_sampled_it(server, first, route):
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
    assert (error["type"], error["code"]) == ("ConflictError", 409)
    assert planted.directory.name in error["message"]
    assert "are not the ones pushed" in error["message"]


def test_embedded_serves_the_old_version_on_when_one_fails_its_probe_and_vllm_serves_nobody(
    server, engine, first, planted
):
    """VLLM can be checked only once it has swapped: its gateway answers 503 until a version passes."""
    assert_refused(serve(server, planted.label), planted)
    reply = server.http.post(GENERATE, request(GENERATE, max_tokens=3, ignore_eos=True))
    if engine == "embedded":
        assert server.version() == reply.headers["x-weight-versions"] == first.label
    else:
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, 503)
        assert server.http.get("/ready").status_code == 503
    assert serve(server, first.label).status_code == 200
    assert server.generate(PROMPT, max_tokens=3, ignore_eos=True)["weight_versions"][0]["version"] == first.label


def test_a_version_that_was_refused_is_refused_again(server, planted):
    assert_refused(serve(server, planted.label), planted)
    assert_refused(serve(server, planted.label), planted)


@pytest.mark.parametrize("version", ["run:9:" + "0" * 32, "other:1:" + "0" * 32, "nonsense"])
def test_a_version_that_is_not_there_is_404_and_changes_nothing(server, first, version):
    answer = serve(server, version)
    assert answer.status_code == 404
    assert version in answer.json()["error"]["message"]
    assert server.version() == first.label


def test_taking_weights_needs_the_administrators_token(server, first):
    for headers in ({}, {"authorization": "Bearer wrong"}):
        answer = server.http.post("/serve_weights", {"version": first.label}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (401, 401)


@pytest.mark.parametrize(
    "route",
    ["/pause", "/resume", "/start_weight_update", "/update_weights", "/finish_weight_update", "/reset_prefix_cache"],
)
def test_the_phases_of_a_push_need_the_token_on_embedded_and_are_hidden_on_vllm(server, engine, route):
    answer = server.http.post(route, {})
    status = 401 if engine == "embedded" else 404
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)
    if engine == "vllm":
        assert server.http.post(route, {}, headers=BEARER).status_code == 404


@pytest.mark.parametrize("route", ["/collective_rpc", "/sleep", "/abort_requests", "/inference/v1/abort_requests"])
def test_what_else_vllm_offers_is_404(server, route):
    answer = server.http.post(route, {}, headers=BEARER)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, 404)


# --- errors ---


@by_route
def test_an_unknown_model_is_404(server, route):
    for extra in ({}, {"stream": True}):
        assert "gpt" in server.refused(route, request(route, model="gpt", **extra), 404)


def test_text_and_tokens_of_an_unknown_model_are_404(server):
    assert "gpt" in server.refused("/tokenize", {"prompt": "x", "model": "gpt"}, 404)
    assert "gpt" in server.refused("/detokenize", {"tokens": [5], "model": "gpt"}, 404)


@by_route
@pytest.mark.parametrize(
    "wrong",
    [
        {"max_tokens": -1},
        {"temperature": -0.5},
        {"temperature": "hot"},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -2},
        {"n": 0},
        {"stop": [""]},
        {"stop_token_ids": ["x"]},
    ],
    ids=json.dumps,
)
@pytest.mark.parametrize("extra", [{}, {"stream": True}], ids=["whole", "stream"])
def test_a_bad_parameter_is_400_and_named(server, route, wrong, extra):
    (name,) = wrong
    assert name in server.refused(route, request(route, **wrong, **extra), 400)


@by_route
def test_too_many_log_probs_are_400_and_in_vllms_streams_an_event(server, engine, route):
    assert "logprobs" in server.refused(route, request(route, logprobs=1000), 400)
    asked = request(route, logprobs=1000, stream=True)
    if engine == "embedded":
        assert "logprobs" in server.refused(route, asked, 400)
    else:
        (event,) = server.http.events(route, asked)
        assert event["error"]["code"] == 400
        assert "logprobs" in event["error"]["message"]


@pytest.mark.parametrize("ids", [[], [VOCABULARY], [5, -1], [2**40], ["a"], None], ids=json.dumps)
def test_bad_token_ids_are_400(server, ids):
    assert server.refused(GENERATE, {"token_ids": ids, "sampling_params": {"max_tokens": 1}}, 400)


@pytest.mark.parametrize("prompt", [[], "", [[]], [VOCABULARY], [5, -1], [5, "a"], {"a": 1}], ids=json.dumps)
def test_bad_prompts_are_400(server, prompt):
    assert server.refused(COMPLETIONS, {"prompt": prompt, "max_tokens": 1}, 400)


@pytest.mark.parametrize("messages", [[], "x", [{"content": "x"}], [{"role": "user", "content": 5}]], ids=json.dumps)
def test_bad_messages_are_400(server, messages):
    assert server.refused(CHAT, {"messages": messages, "max_tokens": 1}, 400)


@by_route
def test_a_prompt_that_is_too_long_is_400_and_says_how_long_it_may_be(server, route):
    bodies = {
        GENERATE: {"token_ids": [5] * (LENGTH + 1), "sampling_params": {}},
        COMPLETIONS: {"prompt": [5] * (LENGTH + 1)},
        CHAT: {"messages": [{"role": "user", "content": "a" * LENGTH}]},
    }
    message = server.refused(route, bodies[route], 400)
    assert str(LENGTH) in message
    assert "context length" in message or "maximum model length" in message  # what a client's PromptTooLong looks for


@by_route
def test_a_prompt_as_long_as_the_context_is_400_and_vllm_says_why_on_generate_alone(server, engine, route):
    bodies = {
        GENERATE: {"token_ids": [5] * LENGTH, "sampling_params": {"max_tokens": 1}},
        COMPLETIONS: {"prompt": [5] * LENGTH, "max_tokens": 1},
        CHAT: {"messages": [{"role": "user", "content": "a" * (LENGTH - 2)}]},
    }
    message = server.refused(route, bodies[route], 400)
    if engine == "embedded" or route == GENERATE:
        assert str(LENGTH) in message
    else:
        assert "max_tokens must be at least 1" in message


@by_text_route
def test_more_tokens_than_the_context_holds_are_refused_by_embedded_and_cut_by_vllm(server, engine, route):
    asked = request(route, max_tokens=LENGTH, ignore_eos=True)
    if engine == "embedded":
        assert "context length" in server.refused(route, asked, 400)
    else:
        assert usage(server.post(route, asked)) == [6, LONGEST, LENGTH]


@by_route
@pytest.mark.parametrize("data", [b"", b"garbage", b"[]", b'{"prompt":', b"\xff\xfe"])
def test_what_is_no_request_is_400(server, route, data):
    answer = server.http.post(route, data=data)
    assert answer.status_code == 400, answer.text
    error = answer.json()["error"]
    assert (error["code"], bool(error["message"]), bool(error["type"])) == (400, True, True)


@by_route
def test_a_body_that_is_nested_too_deep_is_400(server, route):
    answer = server.http.post(route, data=b"[" * 5000)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == 400


@by_route
def test_a_body_needs_no_content_type(server, route):
    """As `curl -d` sends it."""
    headers = {"content-type": "application/x-www-form-urlencoded"}
    assert server.http.post(route, request(route, max_tokens=1), headers=headers).status_code == 200


def test_an_unknown_route_is_404_and_a_wrong_method_405(server):
    for answer, status in ((server.http.get("/v1/nothing"), 404), (server.http.get(GENERATE), 405)):
        assert (answer.status_code, answer.json()["error"]["code"]) == (status, status)


@by_route
@pytest.mark.parametrize("value", ["soon", "-1", "0", "inf", "nan"])
def test_a_bad_deadline_is_400(server, route, value):
    answer = server.http.post(route, request(route, max_tokens=1), headers={"x-request-timeout-s": value})
    assert answer.status_code == 400
    assert "x-request-timeout-s" in answer.json()["error"]["message"]


def test_a_request_out_of_time_is_504_soon_after_and_frees_its_slots(server):
    began = time.monotonic()
    answer = server.http.post(COMPLETIONS, much_work(), headers={"x-request-timeout-s": "0.3"})
    assert time.monotonic() - began < SOON_S
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["type"]) == (504, 504, "DeadlineExceededError")
    assert answered_soon(server) == 200


def test_a_stream_out_of_time_ends_with_an_error_and_frees_its_slots(server):
    began = time.monotonic()
    *_, last = server.http.events(COMPLETIONS, much_work(stream=True), {"x-request-timeout-s": "1.0"})
    assert time.monotonic() - began < SOON_S
    assert (last["error"]["code"], last["error"]["type"]) == (504, "DeadlineExceededError")
    assert answered_soon(server) == 200


@pytest.mark.parametrize("extra", [{}, {"stream": True}], ids=["whole", "stream"])
def test_a_client_that_leaves_frees_its_slots(server, extra):
    with asked_and_left(server, much_work(**extra)):
        wait_until(lambda: answered_soon(server, 0.3) == 504, "all slots taken")
    assert answered_soon(server) == 200


# --- where the engines differ ---


@by_text_route
def test_what_is_left_out_is_neutral_and_never_the_preference_of_the_models_author(server, first, route):
    one = choice(server, route, max_tokens=20, seed=1, logprobs=0)
    assert_logprobs(first.made, route, one, temperature=1.0)


def test_generate_never_follows_the_models_preference(server, first):
    assert_logprobs(first.made, GENERATE, choice(server, GENERATE, max_tokens=20, seed=1, logprobs=0))


def test_log_probs_are_those_before_truncation_on_embedded_and_of_what_is_left_on_vllm(server, engine, first):
    one = choice(server, GENERATE, max_tokens=10, seed=1, top_k=3, logprobs=0, ignore_eos=True)
    ids = list(PROMPT)
    for token, value in zip(one["token_ids"], logprobs(GENERATE, one), strict=True):
        top = likeliest(first.made, ids, 3)
        left = 0.0 if engine == "embedded" else torch.tensor(list(top.values())).logsumexp(0).item()
        assert value == pytest.approx(top[token] - left, abs=1e-4)
        ids.append(token)


def test_an_unknown_field_is_refused_by_embedded_and_ignored_by_vllm(server, engine):
    asked = {**request(COMPLETIONS, max_tokens=1), "temprature": 0.5}
    if engine == "embedded":
        assert "temprature" in server.refused(COMPLETIONS, asked, 400)
    else:
        server.post(COMPLETIONS, asked)


def test_a_penalty_is_refused_by_embedded_and_applied_by_vllm(server, engine, first):
    asked = request(GENERATE, max_tokens=30, temperature=0, presence_penalty=2.0, ignore_eos=True)
    if engine == "embedded":
        assert "presence_penalty" in server.refused(GENERATE, asked, 400)
    else:
        plain = choice(server, GENERATE, max_tokens=30, temperature=0, ignore_eos=True)["token_ids"]
        assert len(set(server.post(GENERATE, asked)["choices"][0]["token_ids"])) > len(set(plain))


def test_several_greedy_choices_are_equal_on_embedded_and_refused_by_vllm(server, engine):
    asked = request(GENERATE, n=2, temperature=0, max_tokens=4, ignore_eos=True)
    if engine == "embedded":
        one, other = server.post(GENERATE, asked)["choices"]
        assert one["token_ids"] == other["token_ids"]
    else:
        assert "greedy" in server.refused(GENERATE, asked, 400)


def test_the_second_choice_of_a_seed_is_the_next_seeds_first_on_vllm_alone(server, engine):
    _, other = choices(server, GENERATE, n=2, seed=3, max_tokens=10, ignore_eos=True)
    following = choice(server, GENERATE, seed=4, max_tokens=10, ignore_eos=True)
    assert (other["token_ids"] == following["token_ids"]) == (engine == "vllm")


# --- last, since an engine that took half a version is of no use to other tests ---


def flip(weights):
    data = bytearray(weights.read_bytes())
    data[-2] ^= 1
    weights.write_bytes(data)


def cut_short(weights):
    weights.write_bytes(weights.read_bytes()[:-8])


@pytest.mark.parametrize("damage", [flip, cut_short])
def test_damaged_weights_are_refused_and_the_old_ones_serve_on(server, first, folder, damage):
    damaged = policy(folder / "weights", 4, step=4)
    damage(damaged.directory / "model.safetensors")
    answer = serve(server, damaged.label)
    assert answer.status_code == 400, answer.text
    assert damaged.directory.name in answer.json()["error"]["message"]
    assert server.generate(PROMPT, max_tokens=3)["weight_versions"][0]["version"] == first.label
