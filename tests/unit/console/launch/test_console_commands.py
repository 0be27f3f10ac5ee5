"""The command lines of a run's processes."""

from pathlib import Path

import pytest

from arlarena.console.launch.child import Address
from arlarena.console.launch.commands import Commands
from arlarena.console.runconfig import RunConfig
from arlarena.console.rundir import ExistingRunPolicy, RunDirectory
from arlarena.console.settings import ADMIN_TOKEN, API_KEY, BROKER_URL, ENVIRONMENT_TOKEN

WHERE = Address("127.0.0.1", 8000)


def commands(folder: Path, text: str) -> Commands:
    (folder / "some.toml").write_text(text)
    run = RunDirectory(folder / "run")
    run.open("some", ExistingRunPolicy.NEW)
    return Commands(RunConfig.load(folder / "some.toml"), run)


def test_without_gpus_a_trainer_is_one_process_that_sees_what_the_libraries_see(tmp_path: Path) -> None:
    command = commands(tmp_path, "").train(False, WHERE, WHERE, "redis://localhost")
    assert command.argv[1:4] == ("-m", "arlarena.trainer", "train")
    assert "CUDA_VISIBLE_DEVICES" not in command.env


def test_a_trainer_with_several_gpus_is_one_rank_for_each(tmp_path: Path) -> None:
    made = commands(tmp_path, "[console.gpus]\nclone = [0]\ntrainer = [0, 1]\ninference = [2, 3]\n")
    command = made.train(True, WHERE, WHERE, "redis://localhost")
    assert command.argv[1:8] == (
        "-m", "arlarena.trainer.torchrun", "--standalone", "--nproc-per-node", "2", "-m", "arlarena.trainer"
    )  # fmt: skip
    assert command.argv[-1] == "--resume"
    assert command.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert made.inference(WHERE, 0).env["CUDA_VISIBLE_DEVICES"] == "2,3"
    clone = made.clone()
    assert clone.env["CUDA_VISIBLE_DEVICES"] == "0"
    assert "arlarena.trainer.torchrun" not in clone.argv
    assert "CUDA_VISIBLE_DEVICES" not in made.environment_server(WHERE, 0).env


def test_secrets_are_in_the_environment_of_a_process_and_not_in_its_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (ADMIN_TOKEN, API_KEY, ENVIRONMENT_TOKEN):
        monkeypatch.delenv(name, raising=False)
    made = commands(tmp_path, '[environment]\ntoken = "secret-token"\n[inference]\napi_key = "secret-key-sixteen"\n')
    broker = "redis://:secret-password@localhost:6379/0"
    environment, inference = made.environment_server(WHERE, 0), made.inference(WHERE, 0)
    worker, trainer = (
        made.worker("rollout-0", "worker-0-0", WHERE, WHERE, broker),
        made.train(False, WHERE, WHERE, broker),
    )
    for command in (environment, inference, worker, trainer):
        line = " ".join(command.argv)
        assert "secret-" not in line
        assert made.admin_token not in line
    assert environment.env[ENVIRONMENT_TOKEN] == worker.env[ENVIRONMENT_TOKEN] == "secret-token"
    assert inference.env[API_KEY] == worker.env[API_KEY] == "secret-key-sixteen"
    assert inference.env[ADMIN_TOKEN] == trainer.env[ADMIN_TOKEN] == made.admin_token
    assert worker.env[BROKER_URL] == trainer.env[BROKER_URL] == broker
