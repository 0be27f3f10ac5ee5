"""`arlarena verify` and `arlarena rescore` on a small run, and on copies with planted faults."""

import asyncio
import contextlib
import json
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file
from support.environments.environment_support import environment_server
from support.evaluation import judged_guess
from support.evaluation.small_run import (
    EVALUATED,
    GROUPS,
    LOG,
    MEMBERS,
    STEPS,
    change_groups,
    edit_json,
    failed,
    with_first_turn,
    write_small_run,
)
from support.processes import forking_support

from arlarena.proto.trajectory import Group, Task, read_groups
from arlarena.rollout.evaluation.certificate.checks import Certificate, CheckRecord
from arlarena.rollout.evaluation.certificate.rescore import Rescored, RescoreRequest, rescore
from arlarena.rollout.evaluation.certificate.verify import VerifyRequest, verify

TESTS = Path(__file__).parents[3]
MODULES = {"PYTHONPATH": os.pathsep.join([str(TESTS), os.environ.get("PYTHONPATH", "")])}
EXPERT = 'expert_splits = ["test"]\n[environment.options]\n'
DISJOINT, STARTS, REPLAY = "evaluation and training", "recorded episodes start", "sampled episodes replay"
CLONING, VERSIONS, WEIGHTS = "evaluation and cloning", "environment, template", "policy digests"
OUTCOMES, BATCHES, EVALUATED_TASKS = "each group", "recorded batches", "evaluation tasks"


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Returns the URL of a server with these options, as TOML. Each server starts once."""
    urls: dict[str, str] = {}
    with contextlib.ExitStack() as stack:

        def serve(options: str = "") -> str:
            if options not in urls:
                folder, extra = tmp_path_factory.mktemp("server"), EXPERT + options
                started = environment_server(folder, judged_guess.NAME, 1024, extra=extra, variables=MODULES)
                urls[options], _ = stack.enter_context(started)
            return urls[options]

        yield serve


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, servers: Callable[[str], str]) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "run"
    write_small_run(folder, servers(""), judged_guess.NAME, {})
    return folder


@pytest.fixture
def run(written: Path, tmp_path: Path) -> Path:
    """A copy of the run, in which a test plants a fault."""
    copy = tmp_path / "run"
    shutil.copytree(written, copy)
    return copy


def verified(run: Path, url: str) -> Certificate:
    return asyncio.run(verify(VerifyRequest(run, url), LOG))


def check(certificate: Certificate, beginning: str) -> CheckRecord:
    (found,) = [each for each in certificate.checks if each.name.startswith(beginning)]
    return found


def test_an_unchanged_run_passes_with_evidence_for_every_check(run: Path, servers: Callable[[str], str]) -> None:
    certificate = verified(run, servers(""))
    assert failed(certificate) == {}
    assert certificate.passed
    counts = {each.name.split(" ")[0]: each.checked for each in certificate.checks}
    assert all(each.verdict == "passed" and each.checked > 0 for each in certificate.checks), certificate.checks
    batches = STEPS * (GROUPS - 1)
    demonstrations = len(read_groups(run / "demonstrations.msgpack"))
    assert check(certificate, DISJOINT).checked == STEPS * GROUPS, counts
    assert check(certificate, CLONING).checked == demonstrations
    assert check(certificate, REPLAY).checked == batches * MEMBERS + demonstrations + 2 * EVALUATED
    assert check(certificate, STARTS).checked == check(certificate, REPLAY).checked
    assert "prompts compared as token ids" in check(certificate, REPLAY).notes[0]
    assert check(certificate, OUTCOMES).checked == STEPS * GROUPS
    assert check(certificate, BATCHES).checked == batches
    assert check(certificate, WEIGHTS).checked == 2 * (STEPS + 1)
    assert check(certificate, VERSIONS).checked == 3
    stored = msgspec.json.decode((run / "certificate.json").read_bytes(), type=Certificate)
    assert stored == certificate


def test_a_demonstration_of_an_evaluation_task_is_named(run: Path, servers: Callable[[str], str]) -> None:
    leaked = Task(judged_guess.NAME, "test", 3)
    path = run / "demonstrations.msgpack"
    change_groups(path, lambda groups: [msgspec.structs.replace(groups[0], task=leaked), *groups[1:]])
    certificate = verified(run, servers(""))
    assert not certificate.passed
    assert "test/3" in check(certificate, CLONING).failures[0]
    assert check(certificate, DISJOINT).verdict == "passed"


def test_a_training_group_with_an_evaluation_task_is_named(run: Path, servers: Callable[[str], str]) -> None:
    leaked = Task(judged_guess.NAME, "test", 2)
    path = run / "groups" / "step-000001.msgpack"
    change_groups(path, lambda groups: [msgspec.structs.replace(groups[0], task=leaked), *groups[1:]])
    certificate = verified(run, servers(""))
    assert any("test/2" in text for text in check(certificate, DISJOINT).failures)
    assert any("was issued" in text for text in check(certificate, BATCHES).failures)


def test_equal_content_under_another_name_is_a_leak(run: Path, servers: Callable[[str], str]) -> None:
    """The first cloning task has another split and index than the evaluation task, but the same number to guess."""
    certificate = verified(run, servers("leak = true\n"))
    (failure,) = check(certificate, CLONING).failures
    assert "train/0 has the content of the evaluation task" in failure
    assert failure.rstrip(")").split("(")[-1] == "5"  # the content key: the number of test task 0
    assert "test/0" in failure


def test_an_evaluation_episode_under_the_name_of_a_training_task_is_found(
    run: Path, servers: Callable[[str], str]
) -> None:
    """The record claims a training task, but its first state is another one."""
    path = run / "groups" / "step-000002.msgpack"
    change_groups(path, lambda groups: [with_first_turn(groups[0], state_key="0" * 32), *groups[1:]])
    (failure,) = check(verified(run, servers("")), STARTS).failures
    assert "member 0" in failure
    assert "first state" in failure


@pytest.mark.parametrize("kind", ["weights", "checkpoints"])
def test_changed_weights_are_found(run: Path, servers: Callable[[str], str], kind: str) -> None:
    folder = sorted((run / kind).iterdir())[-1]
    path = folder / "model.safetensors"
    tensors = load_file(path)
    name = min(tensors)
    tensors[name] = tensors[name] + np.float32(1e-3)
    path.unlink()  # it may be a hard link to the other one
    save_file(tensors, path, metadata={"format": "pt"})
    certificate = verified(run, servers(""))
    assert failed(certificate).keys() == {"policy digests are those of the weights"}
    failures = check(certificate, WEIGHTS).failures
    assert all(folder.name in text for text in failures)
    assert any("digest" in text for text in failures)
    assert any("checksum" in text for text in failures)


def test_weights_and_manifest_changed_together_are_found(run: Path, servers: Callable[[str], str]) -> None:
    """The version takes the weights, digest and name of another one, so that it is consistent in itself."""
    first, *_, last = sorted((run / "weights").iterdir())
    shutil.rmtree(last)
    shutil.copytree(first, last)
    failures = check(verified(run, servers("")), WEIGHTS).failures
    assert failures == [f"weights/{last.name}: the directory should have the name {first.name}"]


def test_an_evaluation_of_unknown_weights_is_found(run: Path, servers: Callable[[str], str]) -> None:
    edit_json(run / "eval_sets" / "after.json", lambda result: result.update(versions=["trainer1:2:" + "0" * 32]))
    (failure,) = check(verified(run, servers("")), "evaluations used").failures
    assert "after" in failure
    assert "not a version of the run" in failure


def test_a_group_in_two_batches_was_trained_twice(run: Path, servers: Callable[[str], str]) -> None:
    one, two = (run / "groups" / f"step-00000{step}.msgpack" for step in (1, 2))
    change_groups(two, lambda groups: [*groups, read_groups(one)[0]])
    failures = check(verified(run, servers("")), BATCHES).failures
    assert any("g000000 was trained twice" in text for text in failures)


def test_the_episodes_of_a_group_under_another_id_were_trained_twice(run: Path, servers: Callable[[str], str]) -> None:
    def copy(groups: list[Group]) -> list[Group]:
        first, second = groups
        return [first, msgspec.structs.replace(first, id=second.id)]

    change_groups(run / "groups" / "step-000001.msgpack", copy)
    failures = check(verified(run, servers("")), BATCHES).failures
    assert any("g000001 has the episodes of g000000: trained twice" in text for text in failures)


def newest_state(run: Path) -> Path:
    return sorted((run / "checkpoints").iterdir())[-1] / "state.json"


def test_two_outcomes_of_a_group_are_found(run: Path, servers: Callable[[str], str]) -> None:
    """JSON allows a key twice, and readers keep the last value, so the text is checked."""
    path = newest_state(run)
    path.write_text(path.read_text().replace('"lineage": {', '"lineage": {"g000001": ["trained", 1], ', 1))
    certificate = verified(run, servers(""))
    assert any("more than one outcome of g000001" in text for text in check(certificate, OUTCOMES).failures)


@pytest.mark.parametrize(
    ("outcome", "text"),
    [
        (None, "g000003 was issued, but has no outcome"),
        (["trained", 0], "step 1 trained on 3 groups according to the ledger, but on 2"),
        (["trained", 9], "after the checkpoint"),
    ],
)
def test_a_changed_outcome_is_found(
    run: Path, servers: Callable[[str], str], outcome: list[Any] | None, text: str
) -> None:
    def edit(state: dict[str, Any]) -> None:
        lineage = state["ledger"]["lineage"]
        del lineage["g000003"]
        if outcome:
            lineage["g000003"] = outcome

    edit_json(newest_state(run), edit)
    failures = check(verified(run, servers("")), OUTCOMES).failures
    assert any(text in failure for failure in failures), failures


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("observation", "The number is from 1 to 99."),
        ("reward", 0.25),
        ("state_key", "f" * 32),
        ("observation_key", "f" * 32),
        ("new_prompt_ids", b"\x07\x00\x00\x00"),
        ("action_valid", None),
    ],
)
def test_a_changed_value_of_a_turn_is_found(run: Path, servers: Callable[[str], str], name: str, value: Any) -> None:
    def change(groups: list[Group]) -> list[Group]:
        turn = groups[1].trajectories[0].turns[0]
        changed = not getattr(turn, name) if value is None else value
        return [groups[0], with_first_turn(groups[1], **{name: changed})]

    change_groups(run / "groups" / "step-000002.msgpack", change)
    (failure,) = check(verified(run, servers("")), REPLAY).failures
    assert f"groups/step-000002.msgpack: g000004 member 0, task {judged_guess.NAME}/train/1000004: turn 0: {name}" in (
        failure
    )


def test_a_changed_observation_of_an_evaluation_is_found(run: Path, servers: Callable[[str], str]) -> None:
    path = run / "episodes" / "after.jsonl"
    lines = path.read_text().splitlines()
    record = json.loads(lines[4])
    record["turns"][-1]["observation"] += " "
    lines[4] = json.dumps(record)
    path.write_text("\n".join(lines) + "\n")
    (failure,) = check(verified(run, servers("")), REPLAY).failures
    assert "episodes/after.jsonl: test-4-0" in failure


def test_a_shortened_episode_is_found(run: Path, servers: Callable[[str], str]) -> None:
    def shorten(groups: list[Group]) -> list[Group]:
        first, *others = groups[0].trajectories
        shorter = msgspec.structs.replace(first, turns=first.turns[:-1])
        return [msgspec.structs.replace(groups[0], trajectories=(shorter, *others)), *groups[1:]]

    change_groups(run / "groups" / "step-000001.msgpack", shorten)
    (failure,) = check(verified(run, servers("")), REPLAY).failures
    assert "but the episode continues" in failure


def test_another_template_or_option_is_found(run: Path, servers: Callable[[str], str]) -> None:
    edit_json(run / "eval_sets" / "after.json", lambda result: result["served"].update(template="full 2 000000000000"))
    config = run / "config.toml"
    config.write_text(config.read_text().replace("[environment.options]", '[environment.options]\nprefix = "A"'))
    failures = check(verified(run, servers("")), VERSIONS).failures
    assert any("eval_sets/after.json: template" in text for text in failures)
    assert any("option prefix: 'A' in the run, 'The' served" in text for text in failures)


def test_another_evaluation_set_is_found(run: Path, servers: Callable[[str], str]) -> None:
    edit_json(run / "eval_sets" / "before.json", lambda result: result["eval_set"].update(digest="0" * 16))
    (failure,) = check(verified(run, servers("")), EVALUATED_TASKS).failures
    assert failure.startswith("before: digest ")


def test_an_empty_check_never_passes(run: Path, servers: Callable[[str], str]) -> None:
    shutil.rmtree(run / "groups")
    certificate = verified(run, servers(""))
    assert check(certificate, BATCHES).verdict == "not checked"
    assert "no batch is recorded" in check(certificate, BATCHES).not_checked[0]
    assert failed(certificate) == {}
    assert not certificate.passed


def test_a_run_without_cloning_passes(run: Path, servers: Callable[[str], str]) -> None:
    (run / "demonstrations.msgpack").unlink()
    certificate = verified(run, servers(""))
    assert check(certificate, CLONING).verdict == "not applicable"
    assert certificate.passed


def test_a_truncated_file_is_reported(run: Path, servers: Callable[[str], str]) -> None:
    path = run / "groups" / "step-000002.msgpack"
    path.write_bytes(path.read_bytes()[:-5])
    certificate = verified(run, servers(""))
    assert not certificate.passed
    assert "step-000002.msgpack" in check(certificate, "files can be read").failures[0]


def test_a_damaged_state_is_reported(run: Path, servers: Callable[[str], str]) -> None:
    newest_state(run).write_text("{")
    certificate = verified(run, servers(""))
    assert not certificate.passed
    assert "state.json" in check(certificate, "files can be read").failures[0]
    assert check(certificate, OUTCOMES).verdict == "not checked"


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    line = ["arlarena.rollout.evaluation.certificate", *arguments]
    return forking_support.run(line, env=os.environ | MODULES | {"COLUMNS": "200"})


# Slow: two commands, each with a server of its own, import their modules. The tests above do the same in one process.
@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_command_starts_the_environment_and_sets_the_exit_status(run: Path) -> None:
    done = command("verify", str(run))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "sampled episodes replay byte for byte" in done.stdout
    assert json.loads((run / "certificate.json").read_text())["passed"] is True
    leaked = Task(judged_guess.NAME, "test", 1)
    change_groups(run / "demonstrations.msgpack", lambda groups: [msgspec.structs.replace(groups[0], task=leaked)])
    done = command("verify", str(run))
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"uses the evaluation task {judged_guess.NAME}/test/1" in done.stdout
    assert "NOT passed" in done.stdout


def test_a_directory_without_a_run_is_refused(tmp_path: Path) -> None:
    done = command("verify", str(tmp_path))
    assert done.returncode == 2
    assert "is not the directory of a training run" in done.stderr
    assert "Traceback" not in done.stderr


# ---- rescore -----------------------------------------------------------------------------------------------------


def test_rescore_restores_the_success_that_a_faulty_judge_hid(tmp_path: Path, servers: Callable[[str], str]) -> None:
    """The faulty judge counts odd numbers as failures. The right judgement of each task comes from a second run."""
    faulty, right = tmp_path / "faulty", tmp_path / "right"
    write_small_run(faulty, servers('judge = "faulty"\n'), judged_guess.NAME, {"judge": "faulty"})
    write_small_run(right, servers(""), judged_guess.NAME, {})
    result = asyncio.run(rescore(RescoreRequest(faulty, servers("")), LOG))
    odd = {f"{judged_guess.NAME}/test/{index}" for index in range(EVALUATED) if (5 + 5 * index) % 2}
    found = {each.task for each in result.episodes if each.source == "episodes/after.jsonl" and each.changed}
    solved = successes(right / "episodes" / "after.jsonl")
    assert odd  # the fault concerns some tasks
    assert found == {task for task in odd if solved[task]}
    assert found
    again = {
        each.task: each.new.success for each in result.episodes if each.source == "episodes/after.jsonl" and each.new
    }
    assert again == solved
    recorded = successes(faulty / "episodes" / "after.jsonl")
    assert recorded != solved
    (summary,) = [each for each in result.files if each.source == "episodes/after.jsonl"]
    assert summary.success_old == pytest.approx(sum(recorded.values()) / EVALUATED)
    assert summary.success_new == pytest.approx(sum(solved.values()) / EVALUATED)
    assert (summary.diverged, summary.unfinished) == (0, 0)
    assert msgspec.json.decode((faulty / "rescored.json").read_bytes(), type=Rescored) == result


def successes(path: Path) -> dict[str, bool]:
    return {record["task"]: record["success"] for record in map(json.loads, path.read_text().splitlines())}


def test_rescore_of_an_unchanged_environment_changes_nothing(run: Path, servers: Callable[[str], str]) -> None:
    result = asyncio.run(rescore(RescoreRequest(run, servers("")), LOG))
    assert result.changed == []
    assert {each.source for each in result.episodes} >= {"demonstrations.msgpack", "episodes/before.jsonl"}
    assert all(each.new == each.old for each in result.episodes)


def test_rescore_marks_episodes_whose_observations_differ(run: Path, servers: Callable[[str], str]) -> None:
    """Another number to guess: the recorded replies answer other observations."""
    result = asyncio.run(rescore(RescoreRequest(run, servers("leak = true\n")), LOG))
    (found,) = [each for each in result.episodes if each.diverged]
    assert found.task == f"{judged_guess.NAME}/train/0"
