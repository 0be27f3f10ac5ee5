"""The command lines of a run's processes."""

from pathlib import Path

from arlarena.console.launch.child import Address
from arlarena.console.launch.commands import Commands
from arlarena.console.runconfig import RunConfig
from arlarena.console.rundir import ExistingRunPolicy, RunDirectory

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
        "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "arlarena.trainer"
    )  # fmt: skip
    assert command.argv[-1] == "--resume"
    assert command.env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert made.inference(WHERE, 0).env["CUDA_VISIBLE_DEVICES"] == "2,3"
    clone = made.clone()
    assert clone.env["CUDA_VISIBLE_DEVICES"] == "0"
    assert "torch.distributed.run" not in clone.argv
    assert "CUDA_VISIBLE_DEVICES" not in made.environment(WHERE, 0).env
