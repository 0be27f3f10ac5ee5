"""`python -m arlarena.trainer.torchrun` passes on the exit status of a rank."""

import subprocess
import sys

import pytest

LAUNCH = [sys.executable, "-m", "arlarena.trainer.torchrun", "--standalone", "--max-restarts=0"]
ENDINGS = {
    "import sys; sys.exit(0)": 0,
    "import os, sys; sys.exit(4 if os.environ['RANK'] == '1' else 0)": 4,
    "import os; os.kill(os.getpid(), 9)": 1,
}


@pytest.mark.parametrize(("program", "status"), ENDINGS.items())
def test_the_exit_status_is_that_of_the_rank_that_failed(tmp_path, program, status):
    script = tmp_path / "rank.py"
    script.write_text(program)
    done = subprocess.run([*LAUNCH, "--nproc-per-node=2", script], capture_output=True, text=True, timeout=100)
    assert done.returncode == status, done.stderr


def test_a_wrong_configuration_has_exit_status_2_and_names_the_file(tmp_path):
    command = ["-m", "arlarena.trainer", "train", "--config", tmp_path / "missing.toml", "--model", tmp_path,
               "--run-dir", tmp_path / "run", "--redis-url", "redis://127.0.0.1:1"]  # fmt: skip
    done = subprocess.run([*LAUNCH, "--nproc-per-node=1", *command], capture_output=True, text=True, timeout=100)
    assert done.returncode == 2, done.stderr
    assert "missing.toml" in done.stderr
