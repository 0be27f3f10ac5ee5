"""The real `arlarena up` with the real services: what cannot work ends it with 2, and nothing is started or written."""

import json
import os
from pathlib import Path

import pytest
from support.processes import forking_support
from support.trainer.tiny_support import SOKOBAN

from arlarena.trainer.model.tiny import create_tiny_policy
from arlarena.trainer.policy_settings import TinyPolicy

SMALL = """
[environment]
name = "guess"
[trainer]
device = "cpu"
[evaluation]
count = 4
"""
# Seven seconds each: every service checks its tables in a process of its own. test_console_preflight has short tests.
SLOW = pytest.mark.slow
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def up(folder: Path, text: str, *arguments: str, timeout: float = 120, **variables: str) -> tuple[int, str]:
    (folder / "a.toml").write_text(text)
    clean = {key: value for key, value in os.environ.items() if key not in ("REDIS_URL", "ARLARENA_SEED")}
    done = forking_support.run(
        ["arlarena.console", "up", "a.toml", *arguments],
        cwd=folder,
        env={**clean, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", **variables},
        timeout=timeout,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            '[environment]\nname = "guess"\n[trainer]\ntask_split = "trian"\ngroup_size = 5000\npush_transport = "gloo"'
            '\n[evaluation]\nsplit = "tset"\nmax_tokens = 600\n[redis]\nurl = "redis://127.0.0.1:9/0"\n[clone]\n',
            [
                "a.toml: [trainer] task_split = 'trian': guess has no such split; known: train, ",
                "a.toml: [evaluation] split = 'tset': guess has no such split; known: train, ",
                "a.toml: [evaluation] max_tokens = 600 leaves no room for a prompt",
                "a.toml: [environment] capacity = 1024 must be at least [trainer] group_size = 5000",
                'push_transport = "gloo" needs [inference] engine = "vllm"',
                "broker: no Redis at redis://127.0.0.1:9/0",
            ],
        ),
        pytest.param(
            '[environment]\nname = "json"\n[policy]\npath = "half"\n[trainer]\nminibatch_groups = 99\n'
            '[inference]\nengine = "vllm"\n',
            [
                "a.toml: [trainer] minibatch_groups = 99 is above groups_per_step = 16",
                '[inference] vllm_python = ".venv-vllm/bin/python" does not exist',
                "is not a complete policy: it lacks weights",
                "a.toml: [environment] name = 'json': this module is not an environment, because its `load`",
            ],
            marks=SLOW,
        ),
        pytest.param(
            SMALL + '[policy]\npath = "half"\n',
            ["a.toml: [policy] path = ", "is not a complete policy: it lacks weights (*.safetensors), a tokenizer"],
            marks=SLOW,
        ),
        pytest.param(
            SMALL + '[policy]\npath = "nobody/nothing"\n',
            ["[policy] path: model 'nobody/nothing'", "HF_HUB_OFFLINE"],
            marks=SLOW,
        ),
        pytest.param(
            '[environment]\nname = "tir_math"\n[environment.options]\ntrain = "/no/train.jsonl"\n',
            ["/no/train.jsonl"],
            marks=SLOW,
        ),
        pytest.param(SMALL + '[run]\ndirectory = "/proc/runs"\n', ["/proc cannot be written"], marks=SLOW),
    ],
    ids=["cross-table", "tables", "policy", "hub", "data", "directory"],
)
def test_everything_wrong_is_said_and_nothing_is_left(tmp_path: Path, text: str, said: list[str]) -> None:
    half = tmp_path / "half"
    half.mkdir()
    (half / "config.json").write_text("{}")
    code, answer = up(tmp_path, text)
    assert code == 2, answer
    for part in said:
        assert part in answer
    assert "Traceback" not in answer
    lines = [line for line in answer.splitlines() if not line.startswith("checking ")]
    assert all(line.startswith("error: ") for line in lines), answer
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.toml", "half"]


def hub_cache(home: Path, name: str) -> Path:
    """A tiny policy as a repository in a cache of the Hub's layout."""
    repository = home / "hub" / f"models--{name.replace('/', '--')}"
    snapshot = repository / "snapshots" / COMMIT
    create_tiny_policy(
        snapshot, TinyPolicy(hidden=32, layers=1, heads=2, kv_heads=1, head_dim=16, ffn=64), seed=1, pieces=SOKOBAN
    )
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


@pytest.mark.slow  # all services start, clone and train: 20 s or more
def test_a_hub_name_runs_from_a_local_cache(tmp_path: Path) -> None:
    snapshot = hub_cache(tmp_path / "home", "someone/tiny-policy")
    text = """
[environment]
name = "guess"
expert_splits = ["test"]
[policy]
path = "someone/tiny-policy"
[clone]
demonstrations = 8
validation = 4
validation_split = "test"
[trainer]
recipe = "grpo"
steps = 1
groups_per_step = 2
minibatch_groups = 1
group_size = 2
max_response_tokens = 8
[evaluation]
count = 4
max_tokens = 8
"""
    code, said = up(tmp_path, text, timeout=300, HF_HOME=str(tmp_path / "home"))
    assert code == 0, said
    run = tmp_path / "runs" / "a"
    assert json.loads((run / "run.json").read_text())["finished"]
    assert 'path = "someone/tiny-policy"' in (run / "config.toml").read_text()
    for log in ("clone", "evaluate-before", "rollout-0"):
        assert str(snapshot) in (run / "logs" / f"{log}.log").read_text().splitlines()[0]
    assert (run / "cloned" / "tokenizer.json").exists()


@SLOW
@pytest.mark.parametrize(
    ("code", "said"),
    [
        (None, "a.toml: [trainer] plugin 'my_clip': there is no module 'my_clip': install its package"),
        ("1 / 0", "a.toml: [trainer] plugin 'my_clip': it cannot be imported: ZeroDivisionError: division by zero"),
        (
            "from arlarena.trainer.objectives import *\nregister_recipe(Recipe(name='mine', clip='gspoo'))",
            "a.toml: [trainer] plugin 'my_clip': mine.clip = 'gspoo': did you mean 'gspo'",
        ),
    ],
)
def test_a_plugin_that_cannot_be_loaded_ends_it_before_anything_starts(
    tmp_path: Path, code: str | None, said: str
) -> None:
    if code is not None:
        (tmp_path / "my_clip.py").write_text(code)
    status, output = up(tmp_path, SMALL, "--plugin", "my_clip")
    assert status == 2, output
    assert said in output
    assert "Traceback" not in output
    assert not (tmp_path / "runs").exists()
