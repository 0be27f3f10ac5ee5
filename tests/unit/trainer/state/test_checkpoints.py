import io
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from arlarena.proto.telemetry import Logger
from arlarena.proto.versions.directory import file_blake3
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import recipe
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import CheckpointError, Checkpoints, TrainerState
from arlarena.trainer.weights.versions import VersionStore

QUIET = Logger("test", "error")


def learner_of(policy):
    return Learner(policy, None, recipe("grpo"), TrainerSettings(lr=1e-3, device="cpu"))


def step(learner, seed):
    torch.manual_seed(seed)
    learner.optimizer.zero_grad()
    learner.policy(input_ids=torch.randint(0, 100, (2, 8))).logits.square().mean().backward()
    learner.optimizer.step()


def save(checkpoints, state, learner):
    return checkpoints.save(state, learner.weights(), learner.optimizer_state())


@pytest.fixture
def trained(policy):
    learner = learner_of(policy)
    step(learner, 0)
    state = TrainerState(step=4, versions={"d4": 4}, seconds=1.5, environment_steps=77)
    state.ledger.issue(3)
    state.ledger.settle("g000001", "trained", 3)
    return state, learner


def test_a_resumed_run_continues_bitwise(trained, tmp_path, tiny_directory):
    state, learner = trained
    save(Checkpoints(tmp_path, keep=2), state, learner)
    other = learner_of(load_policy(tiny_directory))
    restored = Checkpoints(tmp_path, keep=2).load_latest(other.restore, QUIET)
    assert restored == state
    for seed in (1, 2):
        step(learner, seed)
        step(other, seed)
    for own, second in ((learner.weights(), other.weights()), (learner.optimizer_state(), other.optimizer_state())):
        assert own.keys() == second.keys()
        assert all(torch.equal(own[key], second[key]) for key in own)


def test_the_newest_committed_checkpoint_is_loaded_and_old_ones_are_removed(trained, tmp_path):
    state, learner = trained
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (1, 2, 3):
        state.step = number
        save(checkpoints, state, learner)
    assert [path.name for path in checkpoints.committed()] == ["step-000002", "step-000003"]
    (tmp_path / "step-000003" / "COMMITTED").unlink()  # as after a crash during a save
    restored = checkpoints.load_latest(learner.restore, QUIET)
    assert restored is not None
    assert restored.step == 2


def test_a_run_without_checkpoints_loads_none(policy, tmp_path):
    assert Checkpoints(tmp_path / "absent", keep=1).load_latest(learner_of(policy).restore, QUIET) is None


def rewrite_state(path, data):
    """Replace the state of the checkpoint `path` by `data`, and write the new checksum to the manifest."""
    (path / "state.json").write_text(json.dumps(data))
    manifest = json.loads((path / "manifest.json").read_text())
    manifest["files"]["state.json"] = {
        "size": (path / "state.json").stat().st_size, "blake3": file_blake3(path / "state.json")
    }  # fmt: skip
    (path / "manifest.json").write_text(json.dumps(manifest))


@pytest.mark.parametrize(("schema", "age"), [(99, "newer"), (2, "older"), (1, "older")])
def test_another_schema_is_refused_with_the_directory(trained, tmp_path, schema, age):
    state, learner = trained
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = save(checkpoints, state, learner)
    rewrite_state(path, {**state.to_json(), "schema": schema})
    with pytest.raises(CheckpointError, match=rf"step-000004 cannot be loaded: its schema {schema} is {age}"):
        checkpoints.load_latest(learner.restore, QUIET)


def test_a_second_checkpoint_of_a_step_replaces_the_first_afterwards(trained, tmp_path):
    state, learner = trained
    checkpoints = Checkpoints(tmp_path, keep=3)
    state.step = 2
    save(checkpoints, state, learner)
    first = save(checkpoints, state, learner)
    assert [path.name for path in checkpoints.committed()] == ["step-000002-1"]
    state.ledger.settle("g000000", "stale", 2)
    save(checkpoints, state, learner)
    assert not first.exists()
    assert checkpoints.load_latest(learner.restore, QUIET) == state


def flip_last_byte(file):
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "state.json", "manifest.json"])
@pytest.mark.parametrize(
    "damage", [lambda file: file.write_bytes(file.read_bytes()[:-9]), flip_last_byte, lambda file: file.unlink()],
    ids=["truncated", "flipped", "missing"],
)  # fmt: skip
def test_a_damaged_newest_checkpoint_is_skipped(trained, tmp_path, name, damage):
    state, learner = trained
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (3, 4):
        state.step = number
        path = save(checkpoints, state, learner)
    damage(path / name)
    output = io.StringIO()
    restored = checkpoints.load_latest(learner.restore, Logger("test", "info", output))
    assert restored.step == 3
    warning = json.loads(output.getvalue())
    assert (warning["event"], warning["level"]) == ("checkpoint_damaged", "warning")
    assert warning["damaged"].endswith("step-000004")
    assert warning["used"].endswith("step-000003")
    assert name in warning["reason"]


def save_linked(directory, store, state, learner):
    """Save a checkpoint that links to a version. Returns the paths of the checkpoint and of the version."""
    version = store.write(learner.policy, learner.weights(), state.step)
    assert version.weights_file is not None
    checkpoints = Checkpoints(directory, keep=2)
    tensors = learner.weights(), learner.optimizer_state()
    return checkpoints.save(state, *tensors, version.weights_file), version.path


@pytest.fixture
def store(tmp_path, tiny_directory):
    return VersionStore(tmp_path / "weights", tiny_directory, "run", keep=1)


def test_a_checkpoint_links_to_the_version_and_survives_its_removal(trained, tmp_path, tiny_directory, store):
    state, learner = trained
    for number in (3, 4):  # transformers writes only the first version, so test a second
        state.step = number
        path, version = save_linked(tmp_path / "checkpoints", store, state, learner)
        assert (path / "model.safetensors").samefile(version / "model.safetensors")
        step(learner, number)
    shutil.rmtree(version)
    other = learner_of(load_policy(tiny_directory))
    step(learner_of(learner.policy), 9)  # changing the weights in memory must not change the file
    assert Checkpoints(tmp_path / "checkpoints", keep=2).load_latest(other.restore, QUIET) == state
    saved = load_file(path / "model.safetensors")
    assert all(other.policy.state_dict()[name].equal(value) for name, value in saved.items())
    assert other.policy.lm_head.weight.equal(other.policy.model.embed_tokens.weight) == (
        len(saved) < len(other.weights())
    )


def test_damage_in_the_version_is_detected_in_the_checkpoint(trained, tmp_path, store):
    state, learner = trained
    for number in (3, 4):
        state.step = number
        _, version = save_linked(tmp_path / "checkpoints", store, state, learner)
    flip_last_byte(version / "model.safetensors")
    restored = Checkpoints(tmp_path / "checkpoints", keep=2).load_latest(learner.restore, QUIET)
    assert restored is not None
    assert restored.step == 3


def test_a_version_of_another_dtype_is_not_linked(trained, tmp_path, tiny_directory):
    state, learner = trained
    store = VersionStore(tmp_path / "weights", tiny_directory, "run", keep=1, dtype=torch.bfloat16)
    assert store.write(learner.policy, learner.weights(), state.step).weights_file is None


def test_weights_are_written_if_the_version_is_removed(trained, tmp_path, tiny_directory):
    state, learner = trained
    tensors = learner.weights(), learner.optimizer_state()
    Checkpoints(tmp_path, keep=2).save(state, *tensors, tmp_path / "absent" / "model.safetensors")
    other = learner_of(load_policy(tiny_directory))
    assert Checkpoints(tmp_path, keep=2).load_latest(other.restore, QUIET) == state
    assert all(value.equal(other.weights()[name]) for name, value in learner.weights().items())


@pytest.mark.parametrize("name", ["model.norm.weight", "model.another.weight"], ids=["missing", "unknown"])
def test_weights_of_another_policy_are_refused_by_name(trained, name):
    _, learner = trained
    weights = learner.weights()
    if weights.pop(name, None) is None:
        weights[name] = torch.zeros(1)
    with pytest.raises(KeyError, match=f"weights differ by name.*{name}"):
        learner.restore(weights, learner.optimizer_state())


def test_if_all_checkpoints_are_damaged_all_reasons_are_given(trained, tmp_path):
    state, learner = trained
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (3, 4):
        state.step = number
        flip_last_byte(save(checkpoints, state, learner) / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"step-000004: model.*step-000003: model.*start a new run"):
        checkpoints.load_latest(learner.restore, QUIET)


def test_damaged_newer_checkpoints_do_not_remove_the_one_just_written(trained, tmp_path):
    state, learner = trained
    for number in (0, 4, 8):
        state.step = number
        path = save(Checkpoints(tmp_path, keep=3), state, learner)
    (path / "manifest.json").unlink()
    checkpoints = Checkpoints(tmp_path, keep=1)
    assert checkpoints.load_latest(learner.restore, QUIET).step == 4
    state.step = 6
    save(checkpoints, state, learner)
    assert [path.name for path in checkpoints.committed()] == ["step-000006"]
    assert Checkpoints(tmp_path, keep=1).load_latest(learner.restore, QUIET).step == 6


def test_a_file_with_the_name_of_a_checkpoint_is_ignored(trained, tmp_path):
    state, learner = trained
    (tmp_path / "step-000004").write_text("")
    checkpoints = Checkpoints(tmp_path, keep=1)
    with pytest.raises(OSError, match="step-000004"):
        save(checkpoints, state, learner)


def test_a_too_deeply_nested_manifest_counts_as_damaged(trained, tmp_path):
    state, learner = trained
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (3, 4):
        state.step = number
        path = save(checkpoints, state, learner)
    (path / "manifest.json").write_text("[" * 100_000)
    assert checkpoints.load_latest(learner.restore, QUIET).step == 3
