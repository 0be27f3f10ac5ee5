"""The trainer's commands report configuration errors within seconds, with exit status 2 and the fix."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from support.environments.environment_support import environment_server
from support.processes import forking_support

from arlarena.proto.config import ConfigError
from arlarena.trainer.preflight import check_writable

NOBODY = "redis://127.0.0.1:9/0"


async def trainer(*arguments):
    """Run `python -m arlarena.trainer …`, and return its exit status and stderr."""
    command = ["arlarena.trainer", *map(str, arguments)]
    done = await asyncio.to_thread(forking_support.run, command, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return done.returncode, done.stderr


def config(folder, text=""):
    path = folder / "run.toml"
    path.write_text(text)
    return path


async def train(folder, model, text="", *more):
    arguments = ("--run-dir", folder / "run", "--redis-url", NOBODY, *more)
    return await trainer("train", "--config", config(folder, text), "--model", model, *arguments)


async def assert_refused(answer, *parts):
    code, output = await answer
    assert code == 2, output
    assert "Traceback" not in output
    for part in parts:
        assert part in output
    return output


@pytest.mark.parametrize("command", ["train", "clone"])
async def test_a_policy_without_weights_is_refused_before_anything_is_loaded(command, tmp_path, tiny_directory):
    half = shutil.copytree(tiny_directory, tmp_path / "half", ignore=shutil.ignore_patterns("*.safetensors"))
    missing = ("--out", tmp_path / "out", "--demonstrations", tmp_path / "none", "--validation", tmp_path / "none")
    more = {"train": ("--redis-url", NOBODY), "clone": missing}[command]
    answer = trainer(command, "--model", half, "--config", config(tmp_path), "--run-dir", tmp_path / "run", *more)
    await assert_refused(answer, f"--model = '{half}'", "it lacks weights (*.safetensors)")
    assert not (tmp_path / "run").exists()


async def clone(folder, model, out, demonstrations=None):
    here = folder / "here.jsonl"
    here.write_text("")
    files = ("--demonstrations", demonstrations or here, "--validation", here)
    run = ("--config", config(folder), "--run-dir", folder / "run")
    return await trainer("clone", "--model", model, *run, "--out", out, *files)


async def test_clone_refuses_a_folder_that_it_did_not_write(tmp_path, tiny_directory):
    (tmp_path / "papers").mkdir()
    (tmp_path / "papers" / "thesis.tex").write_text("precious")
    await assert_refused(clone(tmp_path, tiny_directory, tmp_path / "papers"), "--out", "thesis.tex")
    assert (tmp_path / "papers" / "thesis.tex").read_text() == "precious"
    assert not (tmp_path / "run").exists()


async def test_clone_does_not_overwrite_its_model(tmp_path, tiny_directory):
    model = shutil.copytree(tiny_directory, tmp_path / "model")
    await assert_refused(clone(tmp_path, model, model), f"--out {model} overlaps --model {model}")
    assert (model / "tokenizer.json").exists()


async def test_tiny_refuses_a_folder_that_it_did_not_write(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    await assert_refused(trainer("tiny", "--out", tmp_path), "--out", "thesis.tex")
    assert [entry.name for entry in tmp_path.iterdir()] == ["thesis.tex"]


async def test_a_missing_demonstrations_file_is_named_once(tmp_path, tiny_directory):
    output = await assert_refused(
        clone(tmp_path, tiny_directory, tmp_path / "out", tmp_path / "absent.jsonl"),
        f"error: demonstrations {tmp_path / 'absent.jsonl'} cannot be read: no such file or directory\n",
    )
    assert output.count("absent") == 1


async def test_an_uncached_hub_name_is_refused_offline(tmp_path):
    await assert_refused(train(tmp_path, "nobody/nothing"), "--model", "'nobody/nothing'", "HF_HUB_OFFLINE")


async def test_a_transport_that_needs_a_gpu_is_refused_without_one(tmp_path, tiny_directory):
    text = '[trainer]\ndevice = "cpu"\npush_transport = "nccl"'
    await assert_refused(train(tmp_path, tiny_directory, text), 'push_transport = "nccl" needs a GPU', '"gloo"')


async def test_a_response_that_fills_the_context_is_refused(tmp_path, tiny_directory):
    text = "[trainer]\nmax_response_tokens = 512"
    await assert_refused(train(tmp_path, tiny_directory, text), "max_response_tokens = 512 leaves no room")


@pytest.mark.parametrize("flag", ["--inference-url", "--environment-url"])
async def test_an_invalid_address_is_refused(flag, tmp_path, tiny_directory):
    await assert_refused(train(tmp_path, tiny_directory, "", flag, "127.0.0.1:8000"), flag, "http://127.0.0.1:8000")


@pytest.mark.slow  # starts an environment server and the trainer, each with all imports
async def test_an_unknown_split_is_refused_with_the_nearest_name(tmp_path, tiny_directory):
    with environment_server(tmp_path, "sokoban") as (url, _):
        answer = train(tmp_path, tiny_directory, '[trainer]\ntask_split = "trian"', "--environment-url", url)
        await assert_refused(answer, "task_split = 'trian'", "has no such split; known: train", "did you mean 'train'?")


async def test_a_run_directory_that_cannot_be_created_is_refused(tmp_path, tiny_directory):
    (tmp_path / "run").write_text("a file")
    await assert_refused(train(tmp_path, tiny_directory), f"directory {tmp_path / 'run'} cannot be written")


def test_a_directory_without_write_access_is_refused():
    with pytest.raises(ConfigError, match="directory /proc/arlarena cannot be written"):
        check_writable(Path("/proc/arlarena"))
