import json

import pytest
import torch

from arlarena.trainer.checkpoint import CheckpointError, Checkpoints, TrainerState, optimizer_tensors
from arlarena.trainer.model import load_policy


def step(model, optimizer, seed):
    torch.manual_seed(seed)
    optimizer.zero_grad()
    model(input_ids=torch.randint(0, 100, (2, 8))).logits.square().mean().backward()
    optimizer.step()


@pytest.fixture
def trained(policy):
    optimizer = torch.optim.AdamW(policy.parameters(), lr=1e-3)
    step(policy, optimizer, 0)
    state = TrainerState(step=4, versions={"d4": 4}, seconds=1.5, environment_steps=77)
    state.ledger.issue(3)
    state.ledger.settle("g000001", "trained", 3)
    return state, policy, optimizer


def test_a_resumed_run_goes_on_bitwise(trained, tmp_path, tiny_directory):
    state, model, optimizer = trained
    Checkpoints(tmp_path, keep=2).save(state, model, optimizer)
    other = load_policy(tiny_directory)
    other_optimizer = torch.optim.AdamW(other.parameters(), lr=1e-3)
    restored = Checkpoints(tmp_path, keep=2).load_latest(other, other_optimizer)
    assert restored == state
    for seed in (1, 2):
        step(model, optimizer, seed)
        step(other, other_optimizer, seed)
    for mine, theirs in zip(model.state_dict().values(), other.state_dict().values(), strict=True):
        assert torch.equal(mine, theirs)
    mine, theirs = optimizer_tensors(optimizer), optimizer_tensors(other_optimizer)
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)


def test_the_newest_committed_one_counts_and_old_ones_go(trained, tmp_path):
    state, model, optimizer = trained
    checkpoints = Checkpoints(tmp_path, keep=2)
    for number in (1, 2, 3):
        state.step = number
        checkpoints.save(state, model, optimizer)
    assert [path.name for path in checkpoints.committed()] == ["step-000002", "step-000003"]
    (tmp_path / "step-000003" / "COMMITTED").unlink()  # as after a crash in the middle of a save
    restored = checkpoints.load_latest(model, optimizer)
    assert restored is not None
    assert restored.step == 2


def test_none_is_not_an_error(policy, tmp_path):
    optimizer = torch.optim.AdamW(policy.parameters())
    assert Checkpoints(tmp_path / "absent", keep=1).load_latest(policy, optimizer) is None


def test_damage_names_the_directory(trained, tmp_path):
    state, model, optimizer = trained
    checkpoints = Checkpoints(tmp_path, keep=1)
    path = checkpoints.save(state, model, optimizer)
    (path / "state.json").write_text("{")
    with pytest.raises(CheckpointError, match="step-000004 cannot be resumed"):
        checkpoints.load_latest(model, optimizer)
    (path / "state.json").write_text(json.dumps({**state.to_json(), "schema": 99}))
    with pytest.raises(CheckpointError, match="newer than this trainer"):
        checkpoints.load_latest(model, optimizer)
