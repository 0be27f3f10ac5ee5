"""`arlarena clone` as a process: its output folder and its log."""

import asyncio
import json
import sys

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from arlarena.proto.telemetry import get_logger
from arlarena.trainer.assembly import Invocation, _load_checkpoint
from arlarena.trainer.learning.ranks import Ranks
from arlarena.trainer.settings import TrainerSettings
from arlarena.trainer.state.checkpoint import CheckpointError

TALK = {"messages": [{"role": "user", "content": "up or down"}, {"role": "assistant", "content": "up"}]}


@pytest.mark.slow  # runs a cloning process; test_output_folder.py is quick
async def test_clone_writes_a_complete_policy_and_logs_only_json(tmp_path, tiny_directory):
    (tmp_path / "talk.jsonl").write_text((json.dumps(TALK) + "\n") * 4)
    (tmp_path / "run.toml").write_text("[clone]\nmax_epochs = 1\nbatch_rows = 2\n")
    out, talk = tmp_path / "run" / "cloned", tmp_path / "talk.jsonl"
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "arlarena.trainer", "clone", "--config", tmp_path / "run.toml", "--out", out),
        *("--model", tiny_directory, "--demonstrations", talk, "--validation", talk, "--run-dir", tmp_path / "run"),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    async with asyncio.timeout(60):
        text, _ = await process.communicate()
    assert process.returncode == 0, text.decode()
    assert [json.loads(line)["event"] for line in text.splitlines()][-1] == "cloned"
    assert b"weights:" not in text
    assert b"\r" not in text
    AutoModelForCausalLM.from_pretrained(out)
    AutoTokenizer.from_pretrained(out)
    record = json.loads((out / "arlarena.json").read_text())
    assert record["kind"] == "clone"
    assert {*record["files"], "arlarena.json"} == {file.name for file in out.iterdir()}
    assert not [entry.name for entry in out.parent.iterdir() if entry.name.startswith(".")]


@pytest.mark.parametrize("resume", [False, True])
def test_training_does_not_delete_weights_without_checkpoints(tmp_path, resume):
    weights = tmp_path / "weights" / "v000020-0123456789ab"
    weights.mkdir(parents=True)
    plan = Invocation(TrainerSettings(), "", tmp_path, "run", "", (), "", None, 0, "a", resume)
    with pytest.raises(CheckpointError, match=r"v000020-0123456789ab.*give another --run-dir"):
        _load_checkpoint(plan, None, Ranks(), get_logger("trainer"))
    weights.rename(weights.with_name("v000000-0123456789ab"))  # as after a crash before the first checkpoint
    if not resume:
        assert _load_checkpoint(plan, None, Ranks(), get_logger("trainer"))[1] is None
