"""A gateway with two real engines: routing, hidden routes, restarts, pushes, and remote servers."""

import asyncio
import json
import signal
import socket
import threading
import time

import aiohttp
import psutil
import pytest
import torch
from support.inference.inference_support import (
    VOCABULARY,
    label,
    model,
    openai_error,
    reference_logprobs,
    running_server,
    save,
    wait_until,
    write_version,
)

from arlarena.client.weights import PushRefused, Sender, WeightsClient

TOKEN = "a token of some length"
BEARER = {"authorization": f"Bearer {TOKEN}"}
PROMPT = [3, 10, 20, 30, 4]
IDS = [(5 * i + 3) % 45 for i in range(20)]


def probe_of(made, off=0.0):
    expected = reference_logprobs(made, IDS[:1], IDS[1:]).tolist()
    return {"ids": IDS, "log_probs": [value + off for value in expected], "tolerance": 1e-3}


def version(root, seed, step, off=0.0):
    made = model(seed)
    return write_version(root, made, step, probe=probe_of(made, off))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("gateway")


@pytest.fixture(scope="module")
def root(folder):
    (folder / "weights").mkdir()
    return folder / "weights"


@pytest.fixture(scope="module")
def first(folder):
    """The directory of the initial model."""
    return save(model(20), folder / "model")


@pytest.fixture(scope="module")
def server(folder, root, first):
    config = (
        f'model = "{first}"\nweights_root = "{root}"\nreplicas = 2\nadmin_token = "{TOKEN}"\nmax_slots = 4\n'
        "health_interval_s = 0.2\nrequest_timeout_s = 20.0\nmax_waiting = 4\n"
    )
    with running_server(folder / "run", config) as running:
        wait_until(lambda: all_ready(running), "both replicas ready", 60)
        yield running


def states(server):
    answer = server.http.get("/ready")
    return answer.json()["replicas"] if answer.status_code == 200 else []


def all_ready(server, wanted=None):
    found = states(server)
    return len(found) == 2 and all(one["state"] == "ready" and wanted in (None, one["weight_version"]) for one in found)


def serve(server, directory):
    return server.http.post("/serve_weights", {"version": label(directory)}, headers=BEARER)


def engines(server):
    return [
        process
        for process in psutil.Process(server.process.pid).children(recursive=True)
        if "--uds" in process.cmdline() and not any(word.endswith("parent_death.py") for word in process.cmdline())
    ]


def ask(server, headers=None, **params):
    body = {"token_ids": PROMPT, "sampling_params": {"max_tokens": 4, "ignore_eos": True, **params}}
    return server.http.post("/inference/v1/generate", body, headers=headers)


def asked(server):
    return {one["name"]: one["asked"] for one in states(server)}


def test_the_gateway_answers_like_an_engine(server):
    choice = server.generate(PROMPT, max_tokens=6, logprobs=0, seed=3, ignore_eos=True)
    found = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
    assert (found - reference_logprobs(model(20), PROMPT, choice["token_ids"])).abs().max() < 1e-4
    assert server.http.get("/v1/models").json()["data"][0]["id"] == "policy"
    whole = server.generate(PROMPT, max_tokens=300, seed=3, ignore_eos=True)["token_ids"]
    body = {"token_ids": PROMPT, "sampling_params": {"max_tokens": 300, "seed": 3, "ignore_eos": True}, "stream": True}
    events = list(server.http.events("/inference/v1/generate", body))
    assert [token for event in events for token in event["choices"][0]["token_ids"]] == whole
    assert len(events) > 1  # the gateway passes on each event when it arrives


def test_a_session_stays_with_its_replica_and_other_requests_are_spread(server):
    before = asked(server)
    for _ in range(6):
        assert ask(server, {"x-session-id": "one"}).status_code == 200
    used = {name: count - before[name] for name, count in asked(server).items()}
    assert sorted(used.values()) == [0, 6]
    before = asked(server)
    for number in range(6):
        ask(server, {"x-session-id": f"session {number}"})
    used = {name: count - before[name] for name, count in asked(server).items()}
    assert sorted(used.values()) == [3, 3]


@pytest.mark.parametrize(
    "path", ["/pause", "/resume", "/start_weight_update", "/update_weights", "/finish_weight_update",
             "/reset_prefix_cache", "/collective_rpc", "/sleep"],
)  # fmt: skip
def test_the_engines_own_routes_are_hidden(server, path):
    for headers in ({}, BEARER):
        answer = server.http.post(path, {}, headers=headers)
        assert answer.status_code == 404
        assert openai_error(answer)["code"] == "not_found"


def test_a_model_is_found_by_its_name_through_the_gateway(server):
    (listed,) = server.http.get("/v1/models").json()["data"]
    assert server.http.get(f"/v1/models/{listed['id']}").json()["id"] == listed["id"]
    for name in ("gpt", "Qwen%2FQwen3", "a%3Fb", "a%20b%25"):
        answer = server.http.get(f"/v1/models/{name}")
        assert (answer.status_code, openai_error(answer)["code"]) == (404, "model_not_found")


@pytest.mark.parametrize("headers", [{}, {"authorization": "Bearer wrong"}, {"authorization": TOKEN}])
def test_weight_routes_need_the_token(server, headers):
    for answer in (
        server.http.post("/serve_weights", {"version": "x"}, headers=headers),
        server.http.put("/weights/v000001-x", b"{}", headers),
        server.http.put("/weights/v000001-x/config.json", b"{}", headers),
        server.http.post("/v1/load_lora_adapter", {"lora_name": "x"}, headers=headers),
    ):
        assert answer.status_code == 401
        assert "token" in answer.json()["error"]["message"]


def test_a_deadline_holds_through_the_gateway(server):
    began = time.monotonic()
    answer = ask(server, {"x-request-timeout-s": "0.05"}, max_tokens=450)
    assert answer.status_code == 504
    assert openai_error(answer)["code"] == "deadline_exceeded"
    assert time.monotonic() - began < 1.0
    assert ask(server, {"x-request-timeout-s": "soon"}).status_code == 400


def test_errors_of_the_engine_are_passed_through_unchanged(server):
    assert "not in the vocabulary" in server.refused(
        "/inference/v1/generate", {"token_ids": [VOCABULARY], "sampling_params": {}}, 400
    )
    assert "does not exist" in server.refused("/v1/completions", {"model": "x", "prompt": "a"}, 404)
    server.refused("/v1/chat/completions", {"messages": []}, 400)


def test_a_push_reaches_every_replica_and_responses_name_it(server, root):
    directory = version(root, 21, 1)
    answer = serve(server, directory)
    assert answer.status_code == 200
    assert answer.json()["version"] == label(directory)
    assert answer.json()["probe"] < 1e-5
    assert all_ready(server, label(directory))
    for number in range(4):  # reaches both replicas
        answer = ask(server, {"x-session-id": f"after {number}"})
        assert answer.headers["x-weight-versions"] == label(directory)
        assert answer.json()["choices"][0]["weight_versions"][0]["version"] == label(directory)
    assert serve(server, directory).status_code == 200  # a repeated push changes nothing
    assert server.version() == label(directory)


def test_an_unknown_version_is_404_and_a_damaged_one_400(server, root):
    assert server.http.post("/serve_weights", {"version": "run:1:0"}, headers=BEARER).status_code == 404
    assert server.http.post("/serve_weights", {"versions": 1}, headers=BEARER).status_code == 400
    before = server.version()
    damaged = version(root, 22, 8)
    config = damaged / "config.json"
    config.write_text(config.read_text().replace("64", "65"))
    answer = serve(server, damaged)
    assert answer.status_code == 400
    assert "checksum" in answer.json()["error"]["message"]
    (damaged / "COMMITTED").unlink()
    good = version(root, 21, 1)
    assert before == label(good)
    assert serve(server, good).status_code == 200
    assert all_ready(server, before)


def test_weights_that_fail_their_probe_are_not_served(server, root):
    good, bad = version(root, 21, 1), version(root, 23, 9, off=0.01)
    assert serve(server, good).status_code == 200
    answer = serve(server, bad)
    assert answer.status_code == 409
    assert "the weights in use differ from the pushed weights" in answer.json()["error"]["message"]
    wait_until(lambda: all_ready(server, label(good)), "the version before serves again")
    assert server.version() == label(good)
    assert server.generate(PROMPT, max_tokens=1)["token_ids"]
    (bad / "COMMITTED").unlink()


async def test_versions_sent_over_http_are_sent_as_deltas(server, root, folder):
    ours = folder / "sent"
    ours.mkdir(exist_ok=True)
    made, second = model(31), model(31)
    with torch.no_grad():
        for parameter in second.parameters():
            parameter.add_(1e-6 * torch.randn_like(parameter))
    first = write_version(ours, made, 30, probe=probe_of(made))
    later = write_version(ours, second, 31, probe=probe_of(second))
    async with aiohttp.ClientSession() as session:
        client, sender = WeightsClient(session, server.url, TOKEN), Sender()
        whole = await sender.deliver(first, client)
        assert (await client.serve(label(first), 30)).version == label(first)
        changed = await sender.deliver(later, client)
        assert (await client.serve(label(later), 30)).probe < 1e-5
        assert await sender.deliver(later, client) == 0  # nothing is missing
        sender.forget()
        assert 0 < changed < 0.6 * whole
        bad = version(ours, 33, 32, off=1.0)
        await sender.deliver(bad, client)
        with pytest.raises(PushRefused):
            await client.serve(label(bad), 30)
        assert (await client.serve(label(later), 30)).version == label(later)
    assert (root / later.name / "model.safetensors").read_bytes() == (later / "model.safetensors").read_bytes()


def test_a_killed_engine_ends_its_stream_with_an_error_and_serves_only_the_target_version(server, root):
    wanted = version(root, 24, 40)
    assert serve(server, wanted).status_code == 200
    # One kill, because a restart takes four seconds. A stream is open at the killed engine, and requests follow.
    body = {"token_ids": PROMPT, "sampling_params": {"max_tokens": 480, "ignore_eos": True}, "stream": True}
    events = server.http.events("/inference/v1/generate", body)
    next(events)
    running = engines(server)
    for process in running:
        process.send_signal(signal.SIGSTOP)  # so that the stream is still open when its engine is killed
    (busy,) = {one["name"] for one in states(server) if one["in_flight"]}
    (victim,) = [process for process in running if any(f"{busy}.sock" in word for word in process.cmdline())]
    answers = []
    stop = threading.Event()

    def keep_asking(number):
        while not stop.is_set():
            answers.append(ask(server, {"x-session-id": f"kill {number}"}, max_tokens=40))

    threads = [threading.Thread(target=keep_asking, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    victim.send_signal(signal.SIGKILL)
    for process in running:
        if process != victim:
            process.send_signal(signal.SIGCONT)
    assert "error" in list(events)[-1]
    wait_until(lambda: [one["state"] for one in states(server)].count("down") == 1, "one replica down")
    newer = version(root, 25, 41)
    assert serve(server, newer).status_code == 200  # the killed replica loads it after its restart
    over = len(answers) + len(threads)  # requests in flight may span the push
    wait_until(lambda: all_ready(server, label(newer)), "both serve the newer version", 60)
    stop.set()
    for thread in threads:
        thread.join(30)
    assert {answer.status_code for answer in answers} == {200}
    assert {answer.headers["x-weight-versions"] for answer in answers[over:]} == {label(newer)}
    assert victim.pid not in [process.pid for process in engines(server)]


def test_a_disconnected_client_frees_the_engine(server):
    data = json.dumps({"token_ids": [5], "sampling_params": {"max_tokens": 500, "ignore_eos": True}}).encode()
    head = f"POST /inference/v1/generate HTTP/1.1\r\nhost: x\r\ncontent-length: {len(data)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", int(server.url.rsplit(":", 1)[1]))) as client:
        client.sendall(head.encode() + data)
        wait_until(lambda: sum(one["in_flight"] for one in states(server)) == 1, "in flight")
    wait_until(lambda: sum(one["in_flight"] for one in states(server)) == 0, "given up")
    assert ask(server).status_code == 200


def test_when_all_replicas_are_full_the_response_is_503(server):
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(ask(server, max_tokens=400, n=4).status_code)) for _ in range(40)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert set(answers) == {200, 503}


def test_gateway_metrics_count_requests(server):
    text = server.http.get("/metrics").text
    assert 'arlarena_gateway_ready{replica="engine-0"} 1.0' in text
    assert 'arlarena_gateway_requests_total{route="/inference/v1/generate",status="200"}' in text


@pytest.mark.slow  # starts a gateway
def test_no_process_is_left_when_the_gateway_is_killed(first, tmp_path):
    config = f'model = "{first}"\nreplicas = 2\n'
    with running_server(tmp_path, config) as running:
        children = psutil.Process(running.process.pid).children(recursive=True)
        assert len(children) == 4  # two engines, each with its wrapper
        running.process.kill()
        _, alive = psutil.wait_procs(children, timeout=20)
        assert [process for process in alive if process.status() != psutil.STATUS_ZOMBIE] == []


@pytest.mark.slow  # starts three servers; test_inference_replica.py is a quick test of a replica's updates
async def test_a_remote_server_that_restarted_gets_the_target_before_its_next_request(first, tmp_path):
    """A server restarts with other weights between two checks. The gateway does not pass on its responses."""
    made = model(27)

    def pod(name, port=0):
        config = f'model = "{first}"\nweights_root = "{tmp_path / name}"\nadmin_token = "{TOKEN}"\n'
        return running_server(tmp_path / f"run-{name}-{port}", config, port=port)

    for name in ("one", "gateway"):
        (tmp_path / name).mkdir()
    with pod("one") as one:
        port = int(one.url.rsplit(":", 1)[1])
        config = (
            f'replica_urls = ["{one.url}"]\nweights_root = "{tmp_path / "gateway"}"\nadmin_token = "{TOKEN}"\n'
            "health_interval_s = 30.0\nreplica_wait_s = 20.0\n"  # no check during the test
        )
        with running_server(tmp_path / "run-gateway", config) as gateway:
            (tmp_path / "trainer").mkdir()
            wanted = write_version(tmp_path / "trainer", made, 1, probe=probe_of(made))
            async with aiohttp.ClientSession() as session:
                client = WeightsClient(session, gateway.url, TOKEN)
                await Sender().deliver(wanted, client)
                await client.serve(label(wanted), 30)
            one.process.terminate()
            one.process.wait(20)
            for stored in (tmp_path / "one").iterdir():
                (stored / "COMMITTED").unlink()
            with pod("one", port) as again:
                assert again.version().startswith("initial:0:")
                answer = await asyncio.to_thread(ask, gateway)
                assert answer.status_code == 200
                assert answer.headers["x-weight-versions"] == label(wanted)
                assert again.version() == label(wanted)
