"""Weight pushes to a real server of the embedded engine. test_engines_weights.py tests what both engines must do."""

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
    write_version,
)

PROMPT = [3, 10, 20, 30, 4]


@pytest.fixture(scope="module")
def models():
    """Three policies of one architecture."""
    return [model(seed) for seed in (21, 22, 23)]


@pytest.fixture(scope="module")
def versions(models, tmp_path_factory):
    """The version directories of `models`, steps 1, 2 and 3."""
    root = tmp_path_factory.mktemp("weights")
    return [write_version(root, made, step) for step, made in enumerate(models, start=1)]


@pytest.fixture(scope="module")
def server(versions, models, tmp_path_factory):
    """A server that loads a Hugging Face directory at its start. `versions` are hidden until the server has started."""
    folder = tmp_path_factory.mktemp("push")
    root = versions[0].parent
    hidden = [marker for directory in versions for marker in (directory / "COMMITTED",)]
    for marker in hidden:
        marker.unlink()
    directory = save(model(20), folder / "model")
    config = f'model = "{directory}"\nweights_root = "{root}"\n'
    with running_server(folder / "run", config) as running:
        for marker in hidden:
            marker.touch()
        assert running.version().startswith("initial:0:")
        yield running


@pytest.fixture(autouse=True)
def serving_afterwards(request):
    """After every test the server samples and reports one version."""
    yield
    server = request.getfixturevalue("server")
    choice = server.generate(PROMPT, max_tokens=3, ignore_eos=True)
    assert choice["weight_versions"] == [{"version": server.version(), "start": 0, "end": 3}]


def probe(server, prompt):
    answer = server.post("/v1/completions", {"prompt": prompt, "max_tokens": 1, "prompt_logprobs": 0})
    entries = answer["choices"][0]["prompt_logprobs"]
    return torch.tensor([entry[str(token)]["logprob"] for entry, token in zip(entries[1:], prompt[1:], strict=True)])


def test_a_push_changes_what_is_computed_and_the_probe_sees_it(server, models, versions):
    prompt = [(5 * i + 3) % 45 for i in range(40)]
    for made, directory in zip(models, versions, strict=True):
        server.generate(prompt, max_tokens=2)  # the old weights compute the prompt, and the prefix cache stores it
        server.push(directory)
        assert server.version() == label(directory)
        assert (probe(server, prompt) - reference_logprobs(made, prompt[:1], prompt[1:])).abs().max() < 1e-5
        choice = server.generate(prompt, max_tokens=10, logprobs=0, ignore_eos=True)
        found = torch.tensor([entry["logprob"] for entry in choice["logprobs"]["content"]])
        assert (found - reference_logprobs(made, prompt, choice["token_ids"])).abs().max() < 1e-4


def test_weights_that_cannot_be_served_are_refused_and_the_old_ones_serve_on(server, versions):
    before = server.version()
    wide = write_version(versions[0].parent, model(1, intermediate_size=96), 8)
    incomplete = write_version(versions[0].parent, model(30), 9)
    (incomplete / "COMMITTED").unlink()
    for directory, status, word in ((wide, 400, "different architecture"), (incomplete, 404, "was not uploaded")):
        message = server.refused("/serve_weights", {"version": label(directory)}, status)
        assert word in message
        assert server.version() == before


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
