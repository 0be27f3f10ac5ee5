"""Weight pushes against a real server: phases, spans, refusals, probes, and a trainer that dies half-way."""

import json
import threading

import pytest
import torch
from support.inference.inference_support import (
    label,
    model,
    reference_logprobs,
    running_server,
    save,
    wait_until,
    write_version,
)
from transformers import DynamicCache

PROMPT = [3, 10, 20, 30, 4]


@pytest.fixture(scope="module")
def models():
    """Three policies of one architecture."""
    return [model(seed) for seed in (21, 22, 23)]


@pytest.fixture(scope="module")
def versions(models, tmp_path_factory):
    """Their version directories, steps 1, 2 and 3."""
    root = tmp_path_factory.mktemp("weights")
    return [write_version(root, made, step) for step, made in enumerate(models, start=1)]


@pytest.fixture(scope="module")
def server(versions, models, tmp_path_factory):
    """Serves an ordinary directory first: nothing of `versions` is loaded at the start."""
    folder = tmp_path_factory.mktemp("push")
    root = versions[0].parent
    hidden = [marker for directory in versions for marker in (directory / "COMMITTED",)]
    for marker in hidden:
        marker.unlink()
    directory = save(model(20), folder / "model")
    config = f'model = "{directory}"\nweights_root = "{root}"\npause_limit_s = 1.0\n'
    with running_server(folder / "run", config) as running:
        for marker in hidden:
            marker.touch()
        assert running.version().startswith("initial:0:")
        yield running


@pytest.fixture(autouse=True)
def serving_afterwards(request):
    """After every test the server samples, is not paused, and reports one version."""
    yield
    server = request.getfixturevalue("server")
    assert server.http.get("/is_paused").json() == {"is_paused": False}
    choice = server.generate(PROMPT, max_tokens=3, ignore_eos=True)
    assert choice["weight_versions"] == [{"version": server.version(), "start": 0, "end": 3}]


def probe(server, prompt):
    answer = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1, "prompt_logprobs": 0})
    entries = answer["choices"][0]["prompt_logprobs"]
    return torch.tensor([entry[str(token)]["logprob"] for entry, token in zip(entries[1:], prompt[1:], strict=True)])


def test_a_push_changes_what_is_computed_and_the_probe_sees_it(server, models, versions):
    prompt = [(5 * i + 3) % 45 for i in range(40)]
    for made, directory in zip(models, versions, strict=True):
        server.generate(prompt, max_tokens=2)  # into the prefix cache, under the weights before
        server.push(directory)
        assert server.version() == label(directory)
        assert (probe(server, prompt) - reference_logprobs(made, prompt[:1], prompt[1:])).abs().max() < 1e-5
        choice = server.generate(prompt, max_tokens=10, logprobs=0, ignore_eos=True)
        found = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
        assert (found - reference_logprobs(made, prompt, choice["token_ids"])).abs().max() < 1e-4


def test_pushing_the_same_version_again_changes_nothing(server, versions):
    before = server.generate(PROMPT, max_tokens=5, seed=1)
    server.push(versions[2])
    server.push(versions[2])
    assert server.generate(PROMPT, max_tokens=5, seed=1)["token_ids"] == before["token_ids"]


def test_a_response_that_spans_a_push_is_split_where_the_weights_changed(server, models, versions):
    """Old keys and values, new weights from a known token on: both parts have exactly the log-probs of that."""
    server.push(versions[0])
    body = {
        "token_ids": PROMPT,
        "sampling_params": {"max_tokens": 450, "seed": 3, "logprobs": 0, "ignore_eos": True},
        "stream": True,
    }
    ids, logprobs, spans = [], [], None
    for event in server.http.events("/inference/v1/generate", body):
        (choice,) = event["choices"]
        if not ids:
            threading.Thread(target=server.push, args=(versions[1],)).start()
        ids += choice["token_ids"]
        logprobs += [entry["logprob"] for entry in choice["logprobs"]["content"]]
        spans = choice["weight_versions"]
    assert [span["version"] for span in spans] == [label(versions[0]), label(versions[1])]
    assert [spans[0]["start"], spans[1]["end"]] == [0, 450]
    split = spans[0]["end"]
    assert split == spans[1]["start"]
    assert 0 < split < 450
    old = reference_logprobs(models[0], PROMPT, ids[:split])
    assert (torch.tensor(logprobs[:split]) - old).abs().max() < 1e-4
    with torch.inference_mode():
        cache = DynamicCache()
        models[0](torch.tensor([PROMPT + ids[: split - 1]]), past_key_values=cache)
        logits = models[1](torch.tensor([ids[split - 1 : -1]]), past_key_values=cache).logits[0]
    new = torch.log_softmax(logits, -1).gather(1, torch.tensor(ids[split:]).unsqueeze(1)).squeeze(1)
    assert (torch.tensor(logprobs[split:]) - new).abs().max() < 1e-4


def test_pausing_freezes_and_keeps_what_is_in_flight(server):
    body = {"token_ids": PROMPT, "sampling_params": {"max_tokens": 300, "seed": 3, "ignore_eos": True}}
    whole = server.post("/inference/v1/generate", body)["choices"][0]["token_ids"]
    answer = {}
    thread = threading.Thread(target=lambda: answer.update(server.post("/inference/v1/generate", body)))
    thread.start()
    wait_until(lambda: server.metric("requests_running") == 1, "running")
    server.post("/pause?mode=keep")
    count = server.metric("generation_tokens_total")
    assert server.http.get("/ready").status_code == 503
    assert server.http.get("/health").status_code == 200
    assert server.metric("generation_tokens_total") == count
    server.post("/resume")
    thread.join(20)
    assert answer["choices"][0]["token_ids"] == whole


def test_pausing_with_abort_ends_what_is_in_flight_with_what_there_is(server):
    body = {"token_ids": PROMPT, "sampling_params": {"max_tokens": 450, "logprobs": 0, "ignore_eos": True}}
    answer = {}
    thread = threading.Thread(target=lambda: answer.update(server.post("/inference/v1/generate", body)))
    thread.start()
    wait_until(lambda: server.metric("requests_running") == 1, "running")
    server.post("/pause")
    thread.join(20)
    (choice,) = answer["choices"]
    assert choice["finish_reason"] == "abort"
    assert len(choice["token_ids"]) == len(choice["logprobs"]["content"]) < 450
    server.post("/resume")


def test_pausing_with_wait_lets_running_sequences_finish_and_holds_new_ones(server):
    answers = []

    def ask(tokens):
        answers.append(server.generate(PROMPT, max_tokens=tokens, ignore_eos=True))

    first = threading.Thread(target=ask, args=(200,))
    first.start()
    wait_until(lambda: server.metric("requests_running") == 1, "running")
    server.post("/pause?mode=wait")
    first.join(20)
    assert len(answers[0]["token_ids"]) == 200
    second = threading.Thread(target=ask, args=(3,))
    second.start()
    wait_until(lambda: server.metric("requests_waiting") == 1, "waiting")
    server.post("/resume")
    second.join(20)
    assert len(answers[1]["token_ids"]) == 3


@pytest.mark.parametrize(
    "phases",
    [
        ["/start_weight_update"],
        ["/update_weights"],
        ["/finish_weight_update"],
        ["/pause?mode=keep", "/update_weights"],
        ["/pause?mode=keep", "/start_weight_update", "/finish_weight_update"],
    ],
)
def test_phases_out_of_order_are_refused_and_sampling_goes_on(server, versions, phases):
    before = server.version()
    bodies = {"/update_weights": {"update_info": {"path": str(versions[0])}}}
    *early, last = phases
    for phase in early:
        server.post(phase, bodies.get(phase))
    message = server.refused(last, bodies.get(last, {}), 409)
    assert last.strip("/") in message
    assert before in message
    assert server.version() == before


def cut_short(directory):
    path = directory / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def flip(directory):
    path = directory / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)


def unmark(directory):
    (directory / "COMMITTED").unlink()


@pytest.mark.parametrize(
    ("damage", "word"),
    [(cut_short, "bytes"), (flip, "damaged"), (unmark, "not committed")],
    ids=["cut_short", "flipped_bit", "uncommitted"],
)
def test_damaged_weights_are_refused_and_the_old_ones_serve_on(server, versions, damage, word):
    before, seed = server.version(), {"max_tokens": 8, "seed": 5}
    tokens = server.generate(PROMPT, **seed)["token_ids"]
    directory = write_version(versions[0].parent, model(30), 9, incarnation=damage.__name__)
    damage(directory)
    server.post("/pause?mode=keep")
    server.post("/start_weight_update")
    message = server.refused("/update_weights", {"update_info": {"path": str(directory)}}, 400)
    assert word in message
    assert "stays in service" in message
    assert server.version() == before
    assert server.generate(PROMPT, **seed)["token_ids"] == tokens
    server.refused("/finish_weight_update", {"weight_version": "x"}, 409)


def test_weights_of_another_shape_or_from_elsewhere_are_refused(server, versions, tmp_path):
    wide = write_version(versions[0].parent, model(1, intermediate_size=96), 8)
    outside = write_version(tmp_path, model(1), 8)
    for directory, word in (
        (wide, "another architecture"),
        (outside, "weights_root"),
        (tmp_path / "none", "weights_root"),
    ):
        server.post("/pause?mode=keep")
        server.post("/start_weight_update")
        assert word in server.refused("/update_weights", {"update_info": {"path": str(directory)}}, 400)


def test_a_wrong_version_label_is_refused(server, versions):
    before = server.version()
    server.post("/pause?mode=keep")
    server.post("/start_weight_update")
    server.post("/update_weights", {"update_info": {"path": str(versions[0])}})
    assert label(versions[0]) in server.refused("/finish_weight_update", {"weight_version": "run:1:other"}, 400)
    assert server.version() == before


def test_a_trainer_that_dies_half_way_does_not_hang_the_rollouts(server, versions):
    before = server.version()
    for phases in ([], ["/start_weight_update"], ["/start_weight_update", "/update_weights"]):
        server.post("/pause?mode=keep")
        for phase in phases:
            server.post(phase, {"update_info": {"path": str(versions[0])}} if "update_weights" in phase else None)
        choice = server.generate(PROMPT, max_tokens=4, ignore_eos=True)
        assert [span["version"] for span in choice["weight_versions"]] == [before]
    expired = [line for line in server.logged() if line["event"] == "push_expired"]
    assert len(expired) >= 3
    assert expired[0]["level"] == "warning"
    server.refused("/finish_weight_update", {}, 409)


def test_pushes_under_load_lose_nothing_and_label_every_token(server, versions):
    answers = []

    def ask(seed):
        answers.append(server.generate([3 + seed % 7, 9], max_tokens=60, seed=seed, logprobs=0, ignore_eos=True))

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(48)]
    for thread in threads:
        thread.start()
    for directory in versions:
        server.push(directory)
    for thread in threads:
        thread.join(30)
    assert len(answers) == 48
    known = {label(directory) for directory in versions} | {server.version()}
    seen = set()
    for choice in answers:
        spans = choice["weight_versions"]
        assert [span["start"] for span in spans] == [0, *(span["end"] for span in spans[:-1])]
        assert spans[-1]["end"] == len(choice["token_ids"]) == 60
        seen |= {span["version"] for span in spans}
    assert seen <= known
    assert json.dumps(spans)


@pytest.mark.parametrize("asked", [0, 1], ids=["as announced", "another version"])
def test_a_broadcast_is_refused_and_the_old_weights_stay(server, versions, asked):
    before = server.version()
    manifest = json.loads((versions[0] / "manifest.json").read_text())
    broadcast = {"manifest": manifest, "host": "127.0.0.1", "port": 1, "backend": "gloo"}
    body = {"version": label(versions[asked]), "broadcast": broadcast}
    why = server.refused("/serve_weights", body, 400)
    assert ("embedded engine" if asked == 0 else label(versions[0])) in why
    assert server.version() == before
