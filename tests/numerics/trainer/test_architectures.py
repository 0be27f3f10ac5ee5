"""In common architectures, each row of a packed forest has the log-probs of the row computed alone."""

import numpy as np
import pytest
import torch
import transformers
from support.trainer.trainer_support import random_rows

from arlarena.proto.config import ConfigError
from arlarena.trainer.batching.packing import micro_batches
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.attention import prepare
from arlarena.trainer.model.forward import Scorer
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings

SHAPE = {
    "vocab_size": 120, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip
PLAIN = [
    ("Llama", {}),
    ("Qwen2", {}),
    ("Qwen3", {"head_dim": 16}),
    ("Qwen3", {"tie_word_embeddings": True}),
    ("Mistral", {"sliding_window": None}),
    ("SmolLM3", {}),
    ("Olmo2", {}),
    ("Phi3", {}),
]


def model_of(name, **changes):
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **changes})
    return getattr(transformers, f"{name}ForCausalLM")(config).eval()


@pytest.mark.parametrize(("name", "changes"), PLAIN, ids=[f"{name}-{n}" for n, (name, _) in enumerate(PLAIN)])
def test_log_probs_equal_hugging_face(name, changes):
    model = model_of(name, **changes).double()
    rows = random_rows(0, instructions=40)
    alone = {}
    for row in rows:
        ids = torch.tensor(np.concatenate([row.prompt, row.response])[None].astype(np.int64))
        log_p = torch.log_softmax(model(input_ids=ids).logits[0], -1)
        at = len(row.prompt) - 1 + torch.from_numpy(np.flatnonzero(row.mask))
        alone[row.trajectory, row.behaviour.tobytes()] = log_p[at, ids[0, at + 1]].detach()
    scorer = Scorer(prepare(model))
    for batch in micro_batches(rows, 200):
        result = scorer(batch, 1.0, "none")[0].detach()
        for number in range(len(batch.trajectory_of_row)):
            own = batch.row_of_token == number
            row = next(
                row for row in rows
                if torch.equal(torch.from_numpy(row.behaviour[row.mask.astype(bool)]), batch.behaviour[own])
                and row.trajectory == int(batch.trajectory_of_row[number])
                and row.turns[0][1] == pytest.approx(float(batch.advantages[number]))
            )  # fmt: skip
            expected = alone[row.trajectory, row.behaviour.tobytes()]
            torch.testing.assert_close(
                result[own], expected, atol=1e-6, rtol=1e-6
            )  # Hugging Face's norms are in float32


@pytest.mark.parametrize(("name", "changes"), [("Mistral", {"sliding_window": 16}), ("Gemma3Text", {})])
def test_other_attention_than_plain_causal_is_refused(name, changes):
    names = {"Gemma3Text": "Gemma3"}
    torch.manual_seed(0)
    config = getattr(transformers, f"{name}Config")(**{**SHAPE, **changes})
    model = getattr(transformers, f"{names.get(name, name)}ForCausalLM")(config)
    with pytest.raises(ConfigError, match="sliding_attention"):
        prepare(model)


def gradients(policy, rows, **changes):
    settings = TrainerSettings(lr=1e-3, kl_coefficient=0.02, gradient_clip=1e9, device="cpu", **changes)
    learner, seen = Learner(policy, None, recipe("sampo"), settings), {}
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.update({name: p.grad.clone() for name, p in learner.policy.named_parameters()})
    )
    return seen, learner.update([rows], 1e-3)


def test_activation_checkpointing_does_not_change_gradients():
    rows = random_rows(3, instructions=33)
    kept, _ = gradients(prepare(model_of("Qwen3")), rows)
    again, _ = gradients(prepare(model_of("Qwen3")), rows, activation_checkpointing=True)
    assert kept.keys() == again.keys()
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_bfloat16_layers_keep_weights_head_and_gradients_in_float32():
    rows = random_rows(3, instructions=33)
    exact, expected = gradients(prepare(model_of("Qwen3")), rows)
    rough, result = gradients(prepare(model_of("Qwen3")), rows, precision="bfloat16")
    assert all(grad.dtype == torch.float32 for grad in rough.values())
    assert result["off_policy_kl"] == pytest.approx(expected["off_policy_kl"], rel=0.02)
    one, other = (torch.cat([grad.flatten() for grad in each.values()]) for each in (exact, rough))
    assert 0.98 < float(torch.cosine_similarity(one, other, 0)) < 1.0  # rounding makes them unequal


def test_probe_log_probs_are_float32_in_every_precision():
    """A server with float32 weights must pass the probe of a trainer that computes its layers in 16 bits."""
    ids, result = list(range(5, 29)), []
    for precision in ("float32", "bfloat16"):
        settings = TrainerSettings(kl_coefficient=0.0, device="cpu", precision=precision)
        learner = Learner(prepare(model_of("Qwen3")), None, recipe("sampo"), settings)
        result.append(learner.log_probs(ids[:1], ids[1:]))
    assert result[0] == result[1]


def test_tied_weights_are_one_tensor():
    model = prepare(model_of("Qwen3", tie_word_embeddings=True))
    learner = Learner(model, None, recipe("sampo"), TrainerSettings(kl_coefficient=0.0))
    weights = learner.weights()
    assert weights["lm_head.weight"] is weights["model.embed_tokens.weight"]
