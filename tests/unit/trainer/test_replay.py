"""`replay` computes a step of any method on recorded groups. The metrics equal those of a step of a `Learner`."""

import copy
import json
import math

import pytest
import torch
from support.processes import forking_support

from arlarena.proto.config import ConfigError
from arlarena.proto.trajectory import PolicyVersion, Sampling, encode, write_groups
from arlarena.trainer.batching.scoring import score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import recipe
from arlarena.trainer.objectives.cell_diagnostics import CELLS
from arlarena.trainer.replay import Refusal, load_groups, replay, table
from arlarena.trainer.settings import TrainerSettings

NOW = PolicyVersion("run", 7, "now")


@pytest.fixture
def recorded(make_group, tmp_path):
    groups = [make_group("a", [True, False, True], NOW), make_group("b", [False, False, False], NOW)]
    path = tmp_path / "step-000007.msgpack"
    write_groups(path, groups)
    return path, groups


def run(*arguments):
    return forking_support.run(["arlarena.trainer", "replay", *map(str, arguments)], timeout=100)


def test_replay_gives_the_figures_of_a_step(recorded, tiny_directory):
    path, groups = recorded
    done = run(path, "--model", tiny_directory, "--recipe", "sampo", "--recipe", "grpo", "--json")
    assert done.returncode == 0, done.stderr
    sampo, grpo = json.loads(done.stdout)
    assert (sampo["groups"], sampo["groups_kept"], grpo["groups_kept"]) == (2, 1, 2)
    assert (sampo["groups_backfilled"], sampo["groups_filtered"]) == (1, 0)  # no success: back-fill
    learner = Learner(load_policy(tiny_directory), None, recipe("grpo"), TrainerSettings())
    scored = score(
        recipe("grpo"), groups, StalenessPolicy(0, 0, {"now": 0}), invalid_penalty=0.1, max_response_tokens=512
    )
    before = copy.deepcopy(learner.weights())
    metrics = learner.update([training_samples(scored, "now")], rate=0.0)
    for name in ("loss", "grad_norm", "outside", "clip_negative_low", "entropy", "ratio_mean", f"kl_share/{CELLS[0]}"):
        assert grpo[name] == pytest.approx(metrics[name], rel=1e-6), name
    assert all(before[key].equal(value) for key, value in learner.weights().items())  # the weights do not change
    assert sum(grpo[f"kl_share/{cell}"] for cell in CELLS) == pytest.approx(1.0)


def test_the_table_has_a_column_for_each_method(recorded, tiny_directory):
    path, _ = recorded
    done = run(path, "--model", tiny_directory, "--recipe", "gspo", "--recipe", "cispo_sm", "--set", "clip_high=0.3")
    assert done.returncode == 0, done.stderr
    head, *lines = done.stdout.splitlines()
    assert head.split() == ["gspo", "cispo_sm"]
    shown = {line.split()[0]: line.split()[1:] for line in lines}
    assert {"loss", "grad_norm", "clip_negative_low", f"kl_share/{CELLS[-1]}"} <= shown.keys()
    assert shown["rows_masked"][0] == "-"  # gspo has no mask
    assert float(shown["grad_norm"][0]) > 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--recipe", "sampoo"], "did you mean 'sampo"),
        (["--set", "clip_hihg=0.3"], "did you mean 'clip_high'"),
        (["--set", "clip_high"], "write it as CHOICE=VALUE"),
        (["--set", "ratio_level=word"], "ratio_level = 'word'"),
    ],
)
def test_errors_are_one_line(recorded, tiny_directory, arguments, says):
    done = run(recorded[0], "--model", tiny_directory, *arguments)
    assert done.returncode == 2
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_batch_is_backfilled_as_in_a_run(recorded, tiny_directory):
    _, groups = recorded
    method = recipe("sampo", anchor="observation")
    filled = replay(groups, str(tiny_directory), method, TrainerSettings()).metrics
    counts = [filled[name] for name in ("groups_kept", "groups_backfilled", "groups_filtered", "rows")]
    assert counts == [1, 1, 0, 12]  # 2 groups of 3 members of 2 turns
    uniform = replay([groups[1]], str(tiny_directory), method, TrainerSettings()).metrics
    assert (uniform["groups_kept"], uniform["groups_backfilled"], uniform["rows"]) == (0, 1, 6)
    learner = Learner(load_policy(tiny_directory), None, method, TrainerSettings())
    scored = score(method, groups, StalenessPolicy(0, 0, {"now": 0}), invalid_penalty=0.1, max_response_tokens=512)
    expected = learner.update([training_samples(scored, "now")], rate=0.0)["loss"]
    assert filled["loss"] == pytest.approx(expected, rel=1e-6)


def test_filtered_groups_are_counted(recorded, tiny_directory):
    _, groups = recorded
    result = replay(groups, str(tiny_directory), recipe("sampo", backfill=False), TrainerSettings())
    figures = result.metrics
    counts = [figures[name] for name in ("groups_kept", "groups_backfilled", "groups_filtered", "rows")]
    assert counts == [1, 0, 1, 6]
    shown = {line.split()[0]: line.split()[1:] for line in table([result]).splitlines()[1:]}
    assert shown["groups_filtered"] == ["1"]


@pytest.mark.parametrize(
    ("version", "player"),
    [
        (PolicyVersion("expert", 0, "-"), "the environment's expert"),
        (PolicyVersion("chat", 0, "gpt-x"), "the model 'gpt-x'"),
    ],
)
def test_demonstrations_are_refused(recorded, make_group, tiny_directory, tmp_path, version, player):
    reason = f"it is a demonstration by {player}, not a sample of a policy"
    shown = [make_group(f"demonstration-{number}", [True], version) for number in range(2)]
    _, groups = recorded
    result = replay([*shown, *groups], str(tiny_directory), recipe("grpo"), TrainerSettings())
    assert result.refused == tuple(Refusal(group.id, reason) for group in shown)
    path = tmp_path / "validation.msgpack"
    write_groups(path, shown)
    done = run(path, "--model", tiny_directory, "--recipe", "grpo")
    assert done.returncode == 2
    assert f"none of 2 groups can be trained on; demonstration-0: {reason}" in done.stderr


# ---- groups that are left out --------------------------------------------------------------------------------------


@pytest.fixture
def corrupted(make_group, tmp_path):
    """Return a file of five groups, and the groups. The groups a, c and e are invalid."""
    groups = [make_group(name, [True, False, True], NOW) for name in "abcde"]
    groups[0].trajectories[1].turns[0].reward = math.inf
    groups[2].sampling = Sampling(temperature=0.6, top_p=0.95, top_k=20)
    groups[4].trajectories[2].turns[1].state_key = ""
    path = tmp_path / "spoilt.msgpack"
    write_groups(path, groups)
    return path, groups


REASONS = {
    "a": "member 1, turn 0: its reward is inf",
    "c": "it was sampled at top_p 0.95 and top_k 20: only the full distribution (top_p 1, top_k 0) can be trained on, "
    "because the trainer's log-probs are those of the full distribution",
    "e": "member 2, turn 1: its state_key is empty, but the method compares turns by this key; choose another anchor",
}


def test_refused_groups_are_reported_and_other_groups_are_replayed(corrupted, tiny_directory):
    path, groups = corrupted
    result = replay(load_groups(path), str(tiny_directory), recipe("sampo"), TrainerSettings())
    assert result.refused == tuple(Refusal(name, reason) for name, reason in REASONS.items())
    assert (result.metrics["groups"], result.metrics["groups_refused"], result.metrics["groups_kept"]) == (5, 3, 2)
    written = json.loads(json.dumps(result.as_dict()))
    assert written["refused"] == [{"group": name, "reason": reason} for name, reason in REASONS.items()]
    good = replay([groups[1], groups[3]], str(tiny_directory), recipe("sampo"), TrainerSettings())
    assert good.refused == ()
    counted = ("groups", "groups_refused")
    assert {key: value for key, value in result.metrics.items() if key not in counted} == {
        key: value for key, value in good.metrics.items() if key not in counted
    }


def test_the_table_names_refused_groups_and_the_methods_that_refuse(corrupted, tiny_directory):
    done = run(corrupted[0], "--model", tiny_directory, "--recipe", "sampo", "--recipe", "grpo")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines if line.startswith("groups_refused")] == [["groups_refused", "3", "2"]]
    assert [line for line in lines if line.startswith("refused")] == [
        f"refused: a: {REASONS['a']}",
        f"refused: c: {REASONS['c']}",
        f"refused by sampo: e: {REASONS['e']}",
    ]


def test_if_every_group_is_refused_the_first_reason_is_the_error(corrupted, tiny_directory):
    path, groups = corrupted
    write_groups(path, [groups[0], groups[2]])
    done = run(path, "--model", tiny_directory, "--recipe", "sampo")
    assert done.returncode == 2
    assert f"sampo: none of 2 groups can be trained on; a: {REASONS['a']}" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("place", [0, 1, 2])
def test_an_unreadable_record_is_reported_and_other_groups_are_replayed(recorded, tiny_directory, place):
    path, groups = recorded
    records = [encode(group) for group in groups]
    records.insert(place, b"nothing that could be read")
    path.write_bytes(b"".join(len(record).to_bytes(4, "little") + record for record in records))
    result = replay(load_groups(path), str(tiny_directory), recipe("grpo"), TrainerSettings())
    (refused,) = result.refused
    assert refused.group == f"record {place}"
    assert refused.reason.startswith("not a group:")
    assert (result.metrics["groups"], result.metrics["groups_refused"], result.metrics["groups_kept"]) == (3, 1, 2)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 40])
def test_a_truncated_file_loses_only_its_last_record(recorded, tiny_directory, cut):
    path, groups = recorded
    first = 4 + len(encode(groups[0]))
    path.write_bytes(path.read_bytes()[: first + cut])
    kept, refused = load_groups(path)
    assert (kept.id, refused.group) == ("a", "record 1")
    assert "the file ends within the record" in refused.reason
    assert replay([kept, refused], str(tiny_directory), recipe("grpo"), TrainerSettings()).metrics["groups_kept"] == 1


def test_non_finite_weights_are_an_error_message(recorded, tiny_directory, tmp_path):
    policy = load_policy(tiny_directory)
    with torch.no_grad():
        policy.lm_head.weight.fill_(math.nan)
    policy.save_pretrained(tmp_path / "spoilt")
    _, groups = recorded
    figures = replay(groups, str(tmp_path / "spoilt"), recipe("grpo"), TrainerSettings()).metrics
    assert (figures["updates_applied"], figures["updates_skipped"]) == (0, 1)
    assert all(map(math.isfinite, figures.values()))
    with pytest.raises(
        ConfigError, match=r"empg with policy .*: entropies under the policy are not finite in groups a, b"
    ):
        replay(groups, str(tmp_path / "spoilt"), recipe("empg"), TrainerSettings())


def test_groups_are_replayed_at_the_temperature_they_record(make_group, tiny_directory):
    warm, cold = make_group("a", [True, False], NOW), make_group("a", [True, False], NOW)
    cold.sampling = Sampling(temperature=0.5)
    entropies = [
        replay([group], str(tiny_directory), recipe("grpo"), TrainerSettings(temperature=t)).metrics["entropy"]
        for group, t in ((warm, 1.0), (warm, 0.5), (cold, 1.0))
    ]
    assert entropies[0] == entropies[1] > entropies[2]


def test_files_without_groups_are_refused(tmp_path, tiny_directory):
    (tmp_path / "no").write_bytes(b"text")
    (tmp_path / "empty").write_bytes(b"")
    for path in (tmp_path / "absent", tmp_path / "no", tmp_path / "empty"):
        with pytest.raises(ConfigError, match=f"groups {path}: "):
            load_groups(path)
    done = run(tmp_path / "no", "--model", tiny_directory)
    assert done.returncode == 2
    assert str(tmp_path / "no") in done.stderr
    assert "Traceback" not in done.stderr
