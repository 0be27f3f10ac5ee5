"""The command line in this process: messages and exit statuses that need no service."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.processes import forking_support

from arlarena.console.cli import app as cli
from arlarena.proto.config import exit_on_config_error


def run(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["arlarena", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return int(ended.value.code or 0)


@pytest.mark.parametrize(
    ("config", "arguments", "message"),
    [
        ("[consol]\n", (), "unknown table [consol]; did you mean 'console'?"),
        ("not toml", (), "not valid TOML"),
        ("[run]\nseed = -1\n", (), "[run] seed = -1"),
        ("[run]\nname = '../up'\n", (), "[run] name = '../up'"),
        ("", ("--set", "trainer"), "write it as table.key=value"),
        ("", ("--set", "trainr.lr=1"), "there is no table [trainr]"),
    ],
)
def test_a_wrong_configuration_is_2_and_one_line(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    config: str,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a.toml").write_text(config)
    assert run(monkeypatch, "up", "a.toml", *arguments) == 2
    said = capsys.readouterr().err
    assert said.startswith("error: ")
    assert message in said
    assert "Traceback" not in said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.toml"]


def test_a_missing_file(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert run(monkeypatch, "up", str(tmp_path / "none.toml")) == 2
    assert "no such configuration file" in capsys.readouterr().err


def test_resume_and_fresh_exclude_each_other(monkeypatch: pytest.MonkeyPatch) -> None:
    assert run(monkeypatch, "up", "a.toml", "--resume", "--fresh") == 2


def test_version(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--version") == 0
    assert capsys.readouterr().out.startswith("arlarena 0.")


def test_help_names_every_command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(monkeypatch, "--help") == 0
    said = capsys.readouterr().out
    for command in ("up", "serve", "train", "clone", "eval", "report", "doctor"):
        assert command in said


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("serve", "env", "sokoban", "--port", "0"), ("arlarena.env_server", "sokoban", "--port", "0")),
        (("serve", "inference", "--model", "m"), ("arlarena.inference", "--model", "m")),
        (("train", "--resume", "--help"), ("arlarena.trainer", "train", "--resume", "--help")),
        (("clone",), ("arlarena.trainer", "clone")),
        (("eval", "expert", "--count", "3"), ("arlarena.rollout.evaluation", "expert", "--count", "3")),
        (("leaderboard", "a", "b"), ("arlarena.rollout.evaluation.report", "leaderboard", "a", "b")),
    ],
)
def test_thin_entries_become_the_service(
    monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: tuple[str, ...]
) -> None:
    seen: list[list[str]] = []

    def become(path: str, argv: list[str], environment: dict[str, str]) -> None:
        seen.append(argv)
        raise SystemExit(0)

    monkeypatch.setattr(os, "execve", become)
    run(monkeypatch, *arguments)
    assert seen == [[sys.executable, "-m", *expected]]


COMMANDS = ("replay", "train", "clone", "eval", "serve env", "serve inference")


@pytest.mark.parametrize(
    ("command", "arguments"), [*((command, ("--help",)) for command in COMMANDS), ("train", ("--no-such-option",))]
)
def test_the_usage_of_a_command_that_becomes_a_service_names_the_command(
    monkeypatch: pytest.MonkeyPatch, command: str, arguments: tuple[str, ...]
) -> None:
    ended: list[subprocess.CompletedProcess[str]] = []

    def become(path: str, argv: list[str], environment: dict[str, str]) -> None:
        ended.append(forking_support.run(argv[2:], env=environment))
        raise SystemExit(ended[0].returncode)

    monkeypatch.setattr(os, "execve", become)
    run(monkeypatch, *command.split(), *arguments)
    said = ended[0].stdout or ended[0].stderr
    assert said.lower().startswith(f"usage: arlarena {command} [")  # argparse, or Typer
    assert "python -m" not in said


def test_the_usage_of_a_service_by_itself_names_its_module() -> None:
    done = forking_support.run(["arlarena.rollout", "demonstrate", "--help"])
    assert done.stdout.startswith("usage: python -m arlarena.rollout demonstrate [-h]")


INTERRUPTED_IMPORT = """
import os, sys, types

class Interrupted(types.ModuleType):
    def __getattr__(self, name):
        os.kill(os.getpid(), {number})

sys.modules["arlarena.console.cli.app"] = Interrupted("arlarena.console.cli.app")
from arlarena.console.__main__ import main
main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_during_the_imports_gives_no_stack_trace(number: int) -> None:
    program = INTERRUPTED_IMPORT.format(number=int(number))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (128 + number, "")
    assert ended.stderr == f"stopped by {signal.Signals(number).name}\n"


def test_ctrl_c_in_a_service_command_is_130_without_a_stack_trace(capsys: pytest.CaptureFixture[str]) -> None:
    def interrupted() -> int:
        raise KeyboardInterrupt

    assert exit_on_config_error(interrupted) == 130
    assert capsys.readouterr().err == "stopped by SIGINT (Ctrl-C)\n"


def test_doctor_finds_what_is_missing(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from arlarena.console.cli import doctor

    monkeypatch.setattr(doctor, "TORCH_TIMEOUT_S", 0.0001)
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    assert run(monkeypatch, "doctor") == 1
    said = capsys.readouterr().out
    assert "✓ python" in said
    assert "✗ torch" in said
    assert "no Redis at redis://127.0.0.1:1/0" in said
