"""What `arlarena up` checks before it starts anything, beyond each service's own tables."""

import socket
from pathlib import Path

import pytest

from arlarena.console.launch import preflight
from arlarena.console.runconfig import RunConfig
from arlarena.proto.env_api import Info, Parser, Split, Template


def info(*capabilities: str) -> Info:
    splits = [
        Split("train", "train", 100, False),
        Split("validation", "validation", 20, True),
        Split("test", "test", 50, True),
    ]
    return Info(
        "made", "1", "", Template("", "1", ""), Parser("1", ""), {}, 5, None, splits, {}, list(capabilities)
    )  # fmt: skip


def config(folder: Path, text: str) -> RunConfig:
    path = folder / "a.toml"
    path.write_text(text)
    return RunConfig.load(path)


WHOLE = '[evaluation]\ncount = 50\n[environment]\nexpert_splits = ["validation"]\n[clone]\n'


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            WHOLE + '[trainer]\ntask_split = "trian"',
            "[trainer] task_split = 'trian': made has no such split; known: train, validation, test; did you",
        ),
        (
            '[evaluation]\nsplit = "tests"\ncount = 1',
            "[evaluation] split = 'tests': made has no such split; known: train, validation, test; did you",
        ),
        ('[evaluation]\nsplit = "x"\ncount = 1', "made has no such split; known: train, validation, test"),
        ("[evaluation]\ncount = 51", "first = 0, count = 51: split 'test' of made has 50 tasks; first + count must be"),
        ("[evaluation]\nfirst = 49\ncount = 2", "first = 49, count = 2"),
        ("[evaluation]\ncount = 50\n[clone]", 'only with [environment] expert_splits = ["validation"]'),
        (WHOLE + 'validation_split = "valid"', "[clone] validation_split = 'valid': made has no such split"),
        ('[evaluation]\ncount = 5\n[environment]\nexpert_splits = ["tset"]', "expert_splits = 'tset'"),
    ],
)
def test_splits_that_do_not_fit_the_environment_are_named(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = preflight.split_problems(config(tmp_path, text), info("expert"))
    assert said in problem
    assert problem.startswith(f"{tmp_path / 'a.toml'}: [")


def test_splits_that_fit_pass(tmp_path: Path) -> None:
    assert list(preflight.split_problems(config(tmp_path, WHOLE), info("expert"))) == []


def test_demonstrations_need_an_expert(tmp_path: Path) -> None:
    (problem,) = preflight.split_problems(config(tmp_path, WHOLE), info("fork"))
    assert "made has no expert with these options: either remove the table [clone]" in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[inference]\nengine = "vllm"\nvllm_python = "/no/python"', 'vllm_python = "/no/python" does not exist'),
        ('[trainer]\npush_transport = "gloo"', 'push_transport = "gloo" needs [inference] engine = "vllm"'),
        ('[trainer]\npush_transport = "nccl"', 'push_transport = "nccl" needs [inference] engine = "vllm"'),
        (
            '[trainer]\npush_transport = "nccl"\n[inference]\nengine = "vllm"\nvllm_device = "cpu"\nvllm_python = "/"',
            'vllm_device = "cpu": set [trainer] push_transport = "gloo"',
        ),
    ],
)
def test_engines_and_transports_must_go_together(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = preflight.engine_problems(config(tmp_path, text))
    assert said in problem


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[environment]\ncapacity = 4", "capacity = 4 must be at least [trainer] group_size = 8"),
        ("[environment]\ncapacity = 4\nworkers = 4", "capacity = 4 must be at least [trainer] group_size = 8"),
        ("[environment]\nmax_sessions_per_client = 7", "max_sessions_per_client = 7 must be at least"),
        ("[environment]\nmax_batch = 100", "[rollout] batch_size = 256 is above [environment] max_batch = 100"),
        ("[environment]\nmax_session_ttl_s = 60", "session_ttl_s = 180 is above [environment] max_session_ttl_s = 60"),
        (
            "[console]\nhang_timeout_s = 10\n[trainer]\nno_data_timeout_s = 9",
            "hang_timeout_s = 10 must be above [rollout] report_every_s = 10",
        ),
        (
            "[console]\nhang_timeout_s = 900",
            "[console] hang_timeout_s = 900 must be above [trainer] no_data_timeout_s = 900",
        ),
        (
            "[trainer]\nno_data_timeout_s = 1200",
            "[console] hang_timeout_s = 1200 must be above [trainer] no_data_timeout_s = 1200",
        ),
    ],
)
def test_limits_that_contradict_each_other_are_named(tmp_path: Path, text: str, said: str) -> None:
    (problem,) = preflight.limit_problems(config(tmp_path, text))
    assert said in problem


def test_the_defaults_fit_each_other(tmp_path: Path) -> None:
    default = config(tmp_path, "")
    for check in (preflight.engine_problems, preflight.limit_problems, preflight.port_problems):
        assert list(check(default)) == []


def test_ports_that_are_taken_or_asked_for_twice_are_named(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        text = f"[environment]\nport = {port}\n[inference]\nport = {port}"
        first, second = preflight.port_problems(config(tmp_path, text))
    problem = f"port {port} of [environment] is in use by another program"
    assert first == f"{problem}: set another port in [environment] (0: a free port)"
    assert f"port {port} is set in [environment] and [inference]" in second


def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (problem,) = preflight.write_problems(Path("/proc/runs/x"))
    assert problem.startswith("/proc cannot be written")
    (tmp_path / "file").write_text("")
    (problem,) = preflight.write_problems(tmp_path / "file" / "x")
    assert "file cannot be written (Not a directory)" in problem
    assert preflight.write_problems(tmp_path / "new" / "x") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
