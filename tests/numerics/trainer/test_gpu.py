"""The trainer gives the same results on a GPU as on a CPU: steps, log-probs, checkpoints, versions."""

import copy

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from support.trainer.trainer_support import growing_rows, random_rows

from arlarena.trainer.batching.packing import micro_batches
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.attention import prepare
from arlarena.trainer.model.forward import Scorer
from arlarena.trainer.objectives import RECIPES, recipe
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import Checkpoints, TrainerState
from arlarena.trainer.weights.versions import VersionStore

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available(), reason="NO GPU: torch.cuda.is_available() is false, so this test did not run"
)
TERMS = {"lr": 1e-3, "kl_coefficient": 0.02, "entropy_coefficient": 0.003, "gradient_clip": 1e9}
FIGURES = ("loss", "reference_kl", "entropy", "grad_norm", "outside", "off_policy_kl", "mismatch_k3", "mismatch_max")


def learner_of(policy, name, device, **changes):
    return Learner(copy.deepcopy(policy), None, recipe(name), TrainerSettings(**TERMS | changes, device=device))


def updated(policy, minibatches, name, device, **changes):
    """Return the gradients of the last update (as CPU tensors), the metrics, and the learner."""
    learner, seen = learner_of(policy, name, device, **changes), {}
    learner.optimizer.register_step_pre_hook(
        lambda *_: seen.update({key: p.grad.cpu().clone() for key, p in learner.policy.named_parameters()})
    )
    return seen, learner.update(minibatches, 1e-3), learner


def qwen3(**changes):
    torch.manual_seed(0)
    shape = {
        "vocab_size": 120, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 3, "head_dim": 16,
        "num_attention_heads": 8, "num_key_value_heads": 2, "pad_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    return transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**shape | changes)).eval()


def assert_alike(result, expected, tolerance):
    """Compare with a tolerance relative to the largest value."""
    assert result.keys() == expected.keys()
    largest = max(float(value.abs().max()) for value in expected.values())
    assert largest > 0
    for key, value in expected.items():
        torch.testing.assert_close(result[key], value, atol=tolerance * largest, rtol=1e-3, msg=lambda m, k=key: k + m)


@pytest.fixture
def deterministic(monkeypatch):
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_float32_is_float32():
    """Products of matrices use float32. With TF32 (10 bits of mantissa), the relative error would be about 3e-4."""
    one, other = torch.randn(2, 512, 512, device="cuda")
    exact = one.double() @ other.double()
    assert float((one @ other - exact).norm() / exact.norm()) < 1e-6


@pytest.mark.parametrize("rows", [random_rows(3, instructions=33), growing_rows(5)], ids=["turns", "episodes"])
@pytest.mark.parametrize("name", sorted(RECIPES))
def test_a_step_on_the_gpu_equals_a_step_on_the_cpu(policy, name, rows):
    expected, metrics, _ = updated(policy, [rows], name, "cpu")
    result, ours, learner = updated(policy, [rows], name, "cuda")
    assert learner.scorer.device.type == learner.reference.device.type == "cuda"
    assert_alike(result, expected, 1e-5)
    assert ours.keys() == metrics.keys()
    for key in FIGURES:
        if key in metrics:
            assert ours[key] == pytest.approx(metrics[key], rel=1e-4, abs=1e-6), key


@pytest.mark.parametrize("changes", [{}, {"tie_word_embeddings": True}], ids=["untied", "tied"])
def test_grouped_query_attention(changes):
    model = prepare(qwen3(**changes))
    rows = random_rows(1, instructions=70)
    expected, metrics, _ = updated(model, [rows], "sampo", "cpu")
    result, ours, _ = updated(model, [rows], "sampo", "cuda", activation_checkpointing=True)
    assert_alike({key: result[key] for key in expected}, expected, 1e-5)
    assert ours["loss"] == pytest.approx(metrics["loss"], rel=1e-4, abs=1e-6)


@pytest.mark.parametrize("name", ["sampo", "sampo_release", "grpo", "cispo_sm"])
def test_microbatch_and_chunk_sizes_do_not_change_gradients(policy, name):
    rows = random_rows(3, instructions=33)
    small = {"tokens_per_microbatch": 30, "logits_chunk_tokens": 3}
    complete, metrics, _ = updated(policy, [rows], name, "cuda")
    cut, cut_metrics, _ = updated(policy, [rows], name, "cuda", **small)
    assert_alike(cut, complete, 1e-5)
    for key in FIGURES:
        if key in metrics:
            assert cut_metrics[key] == pytest.approx(metrics[key], rel=1e-3, abs=1e-6), key


@pytest.mark.parametrize("instructions", [0, 40, 70])
def test_packed_rows_equal_a_padded_batch(instructions):
    """Log-probs and gradients of the forest equal those of the Hugging Face model on a padded batch."""
    rows, weights = random_rows(0, instructions=instructions), np.random.default_rng(0).normal(size=24)
    plain, packed = qwen3().cuda(), prepare(qwen3()).cuda()
    width = max(len(row.prompt) + len(row.response) for row in rows)
    ids, mask = torch.zeros(2, len(rows), width, dtype=torch.int64)
    for number, row in enumerate(rows):
        tokens = torch.from_numpy(np.concatenate([row.prompt, row.response]).astype(np.int64))
        ids[number, : len(tokens)], mask[number, : len(tokens)] = tokens, 1
    log_p = torch.log_softmax(plain(input_ids=ids.cuda(), attention_mask=mask.cuda()).logits, -1)
    padded = {}
    for number, row in enumerate(rows):
        at = len(row.prompt) - 1 + torch.from_numpy(np.flatnonzero(row.mask))
        padded[row.behaviour.tobytes(), row.turns] = log_p[number, at, ids[number, at + 1].cuda()]
    scorer, ours = Scorer(packed), {}
    for batch in micro_batches(rows, 200):
        result = scorer(batch.to(scorer.device), 1.0, "none")[0]
        for number in range(len(batch.trajectory_of_row)):
            ours[float(batch.advantages[number])] = result[(batch.row_of_token == number).cuda()]
    for (_, advantage), expected in padded.items():
        (own,) = (value for key, value in ours.items() if key == pytest.approx(advantage, rel=1e-6))
        torch.testing.assert_close(own, expected, atol=2e-5, rtol=1e-5)
    for log_probs, model in ((padded, plain), (ours, packed)):
        keys = sorted(log_probs, key=lambda key: key[1] if isinstance(key, tuple) else key)
        sum(float(w) * log_probs[key].sum() for key, w in zip(keys, weights, strict=True)).backward()
        assert all(p.grad is not None for p in model.parameters())
    grads = [{key: p.grad for key, p in model.named_parameters()} for model in (packed, plain)]
    assert_alike(*grads, 1e-5)


def test_bfloat16_is_close_and_weights_stay_float32(policy):
    rows = random_rows(3, instructions=33)
    exact, expected, _ = updated(policy, [rows], "sampo", "cpu")
    rough, result, learner = updated(policy, [rows], "sampo", "cuda", precision="bfloat16")
    assert {value.dtype for value in learner.policy.state_dict().values()} == {torch.float32}
    assert all(grad.dtype == torch.float32 for grad in rough.values())
    assert result["off_policy_kl"] == pytest.approx(expected["off_policy_kl"], rel=0.02)
    one, other = (torch.cat([grad.flatten() for grad in each.values()]) for each in (exact, rough))
    assert 0.98 < float(torch.cosine_similarity(one, other, 0)) < 1.0 - 1e-6  # rounding makes them unequal


def test_the_probe_of_a_bfloat16_run_is_in_float32(policy):
    ids, response = [5], list(range(6, 30))
    expected = learner_of(policy, "sampo", "cpu").log_probs(ids, response)
    for precision in ("float32", "bfloat16"):
        result = learner_of(policy, "sampo", "cuda", precision=precision).log_probs(ids, response)
        assert result == pytest.approx(expected, abs=1e-5)


def test_entropies_and_decoupled_anchor_equal_the_cpu(policy):
    rows = random_rows(8)
    parts = [rows[:12], rows[12:]]
    changes = {"tokens_per_microbatch": 40, "policy_anchor": "decoupled"}
    _, expected, cpu = updated(policy, parts, "grpo", "cpu", **changes)
    _, result, gpu = updated(policy, parts, "grpo", "cuda", **changes)
    for key in ("loss", "ratio_mean", "correction_mean", "grad_norm"):
        assert result[key] == pytest.approx(expected[key], rel=2e-3, abs=1e-5), key
    assert gpu.mean_entropies(rows) == pytest.approx(cpu.mean_entropies(rows), abs=1e-3)


def test_a_checkpoint_resumes_bitwise_on_gpu_and_closely_on_cpu(policy, tmp_path, deterministic):
    parts, later = [random_rows(1), random_rows(2)], [random_rows(3)]
    _, _, first = updated(policy, parts, "sampo", "cuda")
    store = Checkpoints(tmp_path, keep=1)
    store.save(TrainerState(step=1), first.weights(), first.optimizer_state())
    again, cpu = (learner_of(policy, "sampo", device) for device in ("cuda", "cpu"))
    for learner in (again, cpu):
        store.load_latest(learner.restore)
        assert all(value.equal(first.weights()[key]) for key, value in learner.weights().items())
    figures = [learner.update(later, 5e-4) for learner in (first, again, cpu)]
    assert figures[0] == figures[1]
    assert figures[2]["loss"] == pytest.approx(figures[0]["loss"], rel=1e-4, abs=1e-6)
    for own, second in ((first.weights(), again.weights()), (first.optimizer_state(), again.optimizer_state())):
        assert own.keys() == second.keys()
        assert all(value.equal(second[key]) for key, value in own.items())


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_deterministic_run_repeats_bitwise(deterministic, precision):
    model, minibatches = prepare(qwen3()), [random_rows(seed, 200, 40, 90, 70) for seed in (1, 2, 3)]
    ends = [updated(model, minibatches, "sampo", "cuda", precision=precision)[2].weights() for _ in range(2)]
    assert all(value.equal(ends[1][key]) for key, value in ends[0].items())


@pytest.mark.parametrize("tied", [False, True])
def test_a_version_from_the_gpu_equals_one_from_the_cpu(tmp_path, tiny_directory, tied):
    model, result = prepare(qwen3(tie_word_embeddings=tied)), []
    for device in ("cpu", "cuda"):
        learner = learner_of(model, "sampo", device)
        store = VersionStore(tmp_path / device, tiny_directory, "run", keep=2)
        version = store.write(learner.policy, learner.weights(), 1)
        result.append((version.version.digest, load_file(version.path / "model.safetensors").keys()))
    assert result[0] == result[1]
    assert ("lm_head.weight" in result[1][1]) is not tied


def test_sharding_over_one_gpu_does_not_change_gradients(tmp_path):
    batches = list(micro_batches(random_rows(3, instructions=40), 200))
    torch.distributed.init_process_group(
        "cpu:gloo,cuda:nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1
    )
    grads = []
    try:
        for sharded in (False, True):
            scorer = Scorer(prepare(qwen3())).to("cuda")
            if sharded:
                scorer.shard(1)
            for batch in batches:
                scorer(batch.to(scorer.device), 1.0, "none")[0].sum().backward()
            grads.append({key: p.grad.full_tensor() if sharded else p.grad for key, p in scorer.named_parameters()})
    finally:
        torch.distributed.destroy_process_group()
    assert_alike(grads[1], grads[0], 1e-5)
