"""The recorded figures are those of the loss: they equal an independent computation, and `arlarena replay --check`."""

import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.processes import forking_support

from arlarena.proto.config import ConfigError
from arlarena.proto.records.group_records import GroupRecord, StepRecord, decode_frame, record_path
from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import PolicyVersion
from arlarena.trainer.batching.scoring import minibatches, score, training_samples
from arlarena.trainer.batching.staleness import StalenessPolicy
from arlarena.trainer.check_records import check_records, load_records
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.metrics.recorder import StepRecorder
from arlarena.trainer.model.policy import load_policy
from arlarena.trainer.objectives import Selected, recipe
from arlarena.trainer.settings import TrainerSettings

OLD, NOW = PolicyVersion("life", 0, "d0"), PolicyVersion("life", 3, "d3")
GAMMA, OMEGA, PENALTY = 0.95, 1.0, 0.1


def settings_of(**more):
    given = {"device": "cpu", "groups_per_step": 3, "minibatch_groups": 3, "lr": 1e-3, "record_groups_every": 1}
    return TrainerSettings(**(given | {"tokens_per_microbatch": 40, "staleness": 1} | more))


def recorded_step(run, directory, make_group, method, settings, *, filtered=(), stale=()):
    """Take one step on three groups, one of which has a stale member, and record it. Returns the groups."""
    versions = [NOW, OLD, NOW]
    groups = [make_group("a", [True, False, True], NOW), make_group("b", [False, True, False], NOW, versions),
              make_group("c", [True, True, False], NOW)]  # fmt: skip
    policy = StalenessPolicy(3, settings.staleness, {"d0": 0, "d3": 3})
    learner = Learner(load_policy(directory), None, method, settings)
    recorder = StepRecorder(run, settings, method, 0, Logger("test", "error"))
    selected = Selected(batch=groups, filtered=list(filtered), kept=2, backfilled=1)
    collected = SimpleNamespace(selected=selected, stale=list(stale))
    recorder.start(1, collected, NOW)
    scored = score(method, groups, policy, invalid_penalty=PENALTY, max_response_tokens=512)
    divided = minibatches(scored, settings.minibatch_groups, seed=0)
    parts = [(part, training_samples(part, NOW.digest)) for part in divided]
    learner.update([rows for _, rows in parts], settings.lr, recorder.trajectories(divided))
    recorder.keep(parts, learner.row_figures, (), "")
    recorder.write(1, collected, scored, policy)
    return groups


def token_figures(directory, prompt, response):
    """Return log-probs and entropies of `response`, from a plain forward pass of one sequence in float64."""
    model = load_policy(directory).double()
    ids = torch.tensor([[*prompt, *response]])
    with torch.no_grad():
        table = torch.log_softmax(model(input_ids=ids).logits[0, len(prompt) - 1 : -1], dim=-1)
    chosen = table.gather(1, torch.tensor(response)[:, None])[:, 0]
    return chosen.numpy(), -(table.exp() * table).sum(-1).numpy()


def expected_advantages(group):
    """A_E and A_S of GiGPO, written out: rewards of turns, no invalid action, anchor = state key."""
    turns = [[turn.reward for turn in trajectory.turns] for trajectory in group.trajectories]
    rows = np.array([sum(rewards) for rewards in turns for _ in rewards])
    episode = [(sum(rewards) - rows.mean()) / (rows.std(ddof=1) + 1e-6) for rewards in turns]
    returns, keys = [], []
    for trajectory, rewards in zip(group.trajectories, turns, strict=True):
        for k, turn in enumerate(trajectory.turns):
            returns.append(sum(GAMMA ** (m - k) * r for m, r in enumerate(rewards) if m >= k))
            keys.append(turn.state_key)
    step = []
    for value, key in zip(returns, keys, strict=True):
        same = np.array([other for other, its in zip(returns, keys, strict=True) if its == key])
        step.append((value - same.mean()) / (same.std(ddof=1) + 1e-6))
    length = len(turns[0])
    return episode, [step[i * length : (i + 1) * length] for i in range(len(turns))]


def test_figures_equal_an_independent_computation(tmp_path, tiny_directory, make_group):
    method, settings = recipe("sampo", clip_low=0.2, clip_high=0.3), settings_of(kl_coefficient=0.01)
    recorded_step(tmp_path, tiny_directory, make_group, method, settings)
    head, records = load_records(record_path(tmp_path, 1))
    assert (head.recipe, head.clip_low, head.clip_high, head.complete) == ("sampo", 0.2, 0.3, True)
    assert [record.status for record in records] == ["trained", "trained", "backfilled"]
    assert [member.status for member in records[1].members] == ["trained", "stale", "trained"]
    assert records[1].members[1].reason == "age 3 is above staleness = 1"
    assert records[1].members[1].turns == ()
    seen = set()
    for record in records:
        episode, step = expected_advantages(record.group)
        for member, trajectory, a_e, a_s in zip(record.members, record.group.trajectories, episode, step, strict=True):
            assert member.episode_advantages == pytest.approx([a_e] * len(trajectory.turns), abs=1e-5)
            assert member.step_advantages == pytest.approx(a_s, abs=1e-5)
            assert member.advantages == pytest.approx([a_e + OMEGA * each for each in a_s], abs=1e-5)
            if member.status != "trained":
                continue
            computed = [token_figures(tiny_directory, prompt.tolist(), turn.tokens().tolist())
                        for prompt, turn in zip(trajectory.prompts(), trajectory.turns, strict=True)]  # fmt: skip
            deltas = [log_probs - turn.behaviour_logprobs()
                      for (log_probs, _), turn in zip(computed, trajectory.turns, strict=True)]  # fmt: skip
            ratio = np.exp(np.concatenate(deltas).mean())  # SAMPO's ratio is one per trajectory
            mark = 1 if ratio < 0.8 else 2 if ratio > 1.3 else 0
            seen.add(mark)
            for figures, (log_probs, entropies) in zip(member.turns, computed, strict=True):
                assert np.frombuffer(figures.log_probs, "<f4") == pytest.approx(log_probs, abs=2e-5)
                assert np.frombuffer(figures.entropies, "<f4") == pytest.approx(entropies, abs=2e-5)
                assert np.frombuffer(figures.ratios, "<f4") == pytest.approx([ratio] * len(log_probs), rel=1e-4)
                assert np.frombuffer(figures.reference_log_probs, "<f4") == pytest.approx(log_probs, abs=2e-5)
                assert set(figures.clip) == {mark}
                assert figures.old_log_probs == b""
                assert figures.kept
    assert 1 in seen  # the tiny policy is far from the log-probs of the groups, so the clip acts


@pytest.mark.parametrize(
    ("name", "more"),
    [("sampo", {}), ("sampo_release", {}), ("grpo_sm", {}), ("grpo", {"policy_anchor": "decoupled"}), ("gspo", {})],
)
def test_replay_recomputes_the_record(tmp_path, tiny_directory, make_group, name, more):
    method, settings = recipe(name), settings_of(**more)
    recorded_step(tmp_path, tiny_directory, make_group, method, settings)
    head, records = load_records(record_path(tmp_path, 1))
    result = check_records(records, str(tiny_directory), method, settings)
    assert result.groups == 3
    assert result.tokens == 8 * 2 * 4  # 8 usable members of 2 turns of 4 tokens
    assert max(result.differences.values()) < 1e-5
    assert result.marks == 0
    assert (head.mask_delta is None) == (name != "grpo_sm")
    masked = [turn for record in records for member in record.members for turn in member.turns if not turn.kept]
    assert bool(masked) == (name == "grpo_sm")  # log-probs fell by far more than δ, so rows with A < 0 are masked


def test_a_changed_figure_is_found(tmp_path, tiny_directory, make_group):
    method, settings = recipe("sampo"), settings_of()
    recorded_step(tmp_path, tiny_directory, make_group, method, settings)
    _, records = load_records(record_path(tmp_path, 1))
    other = check_records(records, str(tiny_directory), recipe("sampo", step_scale="none"), settings)
    assert other.differences["step_advantages"] > 1e-3
    assert other.differences["episode_advantages"] < 1e-6
    moved = tmp_path / "moved"
    learner = Learner(load_policy(tiny_directory), None, method, settings)
    with torch.no_grad():
        next(learner.scorer.parameters()).add_(0.05)
    learner.policy.save_pretrained(moved)
    assert check_records(records, str(moved), method, settings).differences["log_probs"] > 1e-4


def test_a_policy_that_is_not_finite_cannot_be_checked(tmp_path, tiny_directory, make_group):
    settings = settings_of()
    recorded_step(tmp_path, tiny_directory, make_group, recipe("sampo"), settings)
    _, records = load_records(record_path(tmp_path, 1))
    policy = load_policy(tiny_directory)
    with torch.no_grad():
        next(policy.parameters()).fill_(float("nan"))
    policy.save_pretrained(tmp_path / "damaged")
    with pytest.raises(ConfigError, match="cannot be computed again: entropies under the policy are not finite in"):
        check_records(records, str(tmp_path / "damaged"), recipe("empg"), settings)


def test_only_the_first_update_has_the_weights_before_the_step(tmp_path, tiny_directory, make_group):
    method, settings = recipe("sampo"), settings_of(minibatch_groups=1)
    recorded_step(tmp_path, tiny_directory, make_group, method, settings)
    _, records = load_records(record_path(tmp_path, 1))
    assert sorted(record.update for record in records) == [0, 1, 2]
    result = check_records(records, str(tiny_directory), method, settings)
    assert 0 < result.tokens < 8 * 2 * 4
    assert max(result.differences.values()) < 1e-5


def test_the_command_checks_a_file(tmp_path, tiny_directory, make_group):
    method, settings = recipe("sampo"), settings_of()
    recorded_step(tmp_path, tiny_directory, make_group, method, settings)
    path = record_path(tmp_path, 1)
    done = forking_support.run(
        ["arlarena.trainer", "replay", str(path), "--model", str(tiny_directory), "--check", "--json"]
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["step"], found["groups"], found["marks"]) == (1, 3, 0)
    assert max(found["differences"].values()) < 1e-5


def test_recording_does_not_change_the_update(tiny_directory, make_group):
    method, settings = recipe("sampo"), settings_of()
    scored = score(method, [make_group("a", [True, False], NOW)], StalenessPolicy(3, 1, {"d3": 3}),
                   invalid_penalty=PENALTY, max_response_tokens=512)  # fmt: skip
    rows = training_samples(scored, NOW.digest)
    learners = [Learner(load_policy(tiny_directory), None, method, settings) for _ in range(2)]
    metrics = [learners[0].update([rows], 1e-3), learners[1].update([rows], 1e-3, [[0, 1]])]
    assert metrics[0] == metrics[1]
    for first, second in zip(*(learner.weights().values() for learner in learners), strict=True):
        assert torch.equal(first, second)
    assert learners[0].row_figures == [{}]
    assert sorted(learners[1].row_figures[0]) == list(range(len(rows)))


# ---- which groups are recorded -------------------------------------------------------------------------------------


def frames_of(path):
    data, offset = path.read_bytes(), 0
    while offset < len(data):
        size = int.from_bytes(data[offset : offset + 4], "little")
        yield data[offset + 4 : offset + 4 + size]
        offset += 4 + size


def test_a_sample_has_trained_and_dropped_groups_with_reasons(tmp_path, tiny_directory, make_group):
    settings = settings_of(record_groups_every=0, record_sample_groups=4)
    filtered = [make_group(f"f{number}", [True, True, True], NOW) for number in range(4)]
    stale = [make_group("s", [True, False, True], OLD)]
    recorded_step(tmp_path, tiny_directory, make_group, recipe("sampo"), settings, filtered=filtered, stale=stale)
    head, *groups = frames_of(record_path(tmp_path, 1))
    assert decode_frame(head, StepRecord, 1 << 20).groups == {"trained": 2, "backfilled": 1, "filtered": 4, "stale": 1}
    records = [decode_frame(each, GroupRecord, 1 << 20) for each in groups]
    dropped = [record for record in records if record.status in ("filtered", "stale")]
    assert (len(records), len(dropped)) == (4, 2)
    for record in dropped:
        assert record.reason.startswith("filter 'success'" if record.status == "filtered" else "every episode is older")
        assert all(member.turns == () and member.status != "trained" for member in record.members)


def test_old_files_make_room_and_complete_steps_stay_longest(tmp_path, tiny_directory, make_group):
    settings = settings_of(record_groups_every=2, record_mb=0.02)
    method, folder = recipe("sampo"), tmp_path / "records"
    folder.mkdir()
    for step, size in ((0, 6_000), (1, 6_000), (3, 6_000)):
        record_path(tmp_path, step).write_bytes(bytes(size))
    recorded_step(tmp_path, tiny_directory, make_group, method, settings)
    left = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert sum(left.values()) <= 20_000
    assert {"step-000000.records", "step-000001.records"} <= left.keys()
    recorded = record_path(tmp_path, 1).read_bytes()
    recorded_step(tmp_path, tiny_directory, make_group, method, settings_of(record_mb=0.001))
    assert record_path(tmp_path, 1).read_bytes() == recorded  # a file above the limit is not written


def test_a_resumed_run_deletes_later_records(tmp_path):
    (tmp_path / "records").mkdir()
    for step in (3, 4, 5):
        record_path(tmp_path, step).write_bytes(b"x")
    StepRecorder(tmp_path, settings_of(), recipe("sampo"), 0, Logger("test", "error")).discard_after(4)
    assert sorted(path.name for path in (tmp_path / "records").iterdir()) == [
        "step-000003.records",
        "step-000004.records",
    ]


def test_a_full_disk_does_not_end_the_run(tmp_path, tiny_directory, make_group):
    (tmp_path / "records").write_text("a file in place of the folder")
    recorded_step(tmp_path, tiny_directory, make_group, recipe("sampo"), settings_of())
    assert (tmp_path / "records").read_text() == "a file in place of the folder"
