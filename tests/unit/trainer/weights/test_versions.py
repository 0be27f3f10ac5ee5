"""Version directories hold the files that transformers would write, and a probe of the weights."""

import json

import pytest
import torch
from safetensors.torch import load_file
from support.inference.inference_support import VOCABULARY, label, model, reference_logprobs, save
from transformers import AutoModelForCausalLM

from arlarena.inference.embedded.weights.loading import load_version
from arlarena.trainer.weights.probe import Probe
from arlarena.trainer.weights.versions import VersionStore


@pytest.fixture
def store(tmp_path):
    (tmp_path / "weights").mkdir()
    return VersionStore(tmp_path / "weights", save(model(0), tmp_path / "first"), "run", keep=3)


def probe_of(made, tolerance=1e-3):
    def log_probs(prompt, response):
        return reference_logprobs(made, [*prompt], [*response]).tolist()

    return lambda: Probe.spread(VOCABULARY, tolerance).compute(log_probs)


@pytest.mark.parametrize("tied", [False, True])
def test_each_version_equals_that_of_transformers(store, tied):
    """Transformers writes the first version; later versions use it as a template."""
    for step in (1, 2, 3):
        made = model(step, tie_word_embeddings=tied)
        version = store.write(made, made.state_dict(), step)
        assert label(version.path) == str(version.version)
        assert load_version(version.path).label == str(version.version)
        again = AutoModelForCausalLM.from_pretrained(version.path).state_dict()
        assert all(again[name].equal(value) for name, value in made.state_dict().items())
    names = [{file.name for file in path.iterdir()} for path in store.root.glob("v*")]
    assert len(names) == 3
    assert names[0] == names[1] == names[2]


def test_only_the_newest_versions_are_kept(store):
    for step in range(5):
        store.write(model(step), model(step).state_dict(), step)
        store.forget_old()
    assert sorted(int(path.name[1:7]) for path in store.root.iterdir()) == [2, 3, 4]


def test_the_probe_has_the_log_probs_of_the_weights(store):
    made = model(1)
    version = store.write(made, made.state_dict(), 1, probe_of(made))
    assert load_version(version.path).difference < 1e-5


@pytest.mark.parametrize("tied", [False, True])
def test_bfloat16_versions_have_the_dtype_in_their_config(tmp_path, store, tied):
    made = model(1, tie_word_embeddings=tied)
    half = VersionStore(store.root, tmp_path / "first", "run", keep=3, dtype=torch.bfloat16)
    version = half.write(made, made.state_dict(), 1, probe_of(made, tolerance=0.5))
    saved = load_file(version.path / "model.safetensors")
    assert {value.dtype for value in saved.values()} == {torch.bfloat16}
    assert ("lm_head.weight" in saved) is not tied
    assert json.loads((version.path / "config.json").read_text())["dtype"] == "bfloat16"
    assert 0 < load_version(version.path).difference < 0.5


@pytest.mark.parametrize("vocabulary", [5, 24, 50, 151_936])
def test_a_probe_spans_the_vocabulary(vocabulary):
    ids = Probe.spread(vocabulary, 1e-3).ids
    assert all(0 <= token < vocabulary for token in ids)
    assert len(set(ids)) >= min(vocabulary, 24) - 1
    assert max(ids) - min(ids) >= 0.7 * (vocabulary - 1)
