"""A run's copy of its configuration works from any folder."""

import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
from pydantic import BaseModel

from arlarena.console.paths import PATHS
from arlarena.console.runconfig import RunConfig
from arlarena.environment.registry import load
from arlarena.inference.settings import InferenceSettings

CONFIG = """
[policy]
path = "policy"
tokenizer = "Qwen/Qwen3-0.6B"
[inference]
model = "../elsewhere/model"
weights_root = "not/there/yet"
[environment.options]
games = "games"
levels = "levels/a.txt"
template = "compact"
train = { name = "set" }
tests = { mine = "levels/a.txt", hub = { name = "other" } }
"""


def test_paths_that_exist_are_absolute_and_the_copy_gives_the_same_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work, other = tmp_path / "work", tmp_path / "other"
    for folder in (work / "policy", work / "games", work / "levels", work / "compact", tmp_path / "elsewhere/model"):
        folder.mkdir(parents=True)
    other.mkdir()
    (work / "levels/a.txt").write_text("#")
    (work / "my.toml").write_text(CONFIG)
    monkeypatch.chdir(work)
    given = RunConfig.load(Path("my.toml"), ["trainer.recipe=grpo"], seed=3)
    config = given.with_absolute_options(["games", "levels", "train", "tests.*"])
    assert config.differences(given) == []  # as where a finished run is resumed
    options = config.tables["environment"]["options"]
    assert config.tables["policy"] == {"path": str(work / "policy"), "tokenizer": "Qwen/Qwen3-0.6B"}
    assert Path(config.tables["inference"]["model"]).samefile(tmp_path / "elsewhere/model")
    assert config.tables["inference"]["weights_root"] == "not/there/yet"
    assert options["games"] == str(work / "games")
    assert options["levels"] == options["tests"]["mine"] == str(work / "levels/a.txt")
    assert (options["template"], options["train"], options["tests"]["hub"]) == (
        "compact", {"name": "set"}, {"name": "other"}
    )  # fmt: skip
    config.write(work / "copy.toml")

    monkeypatch.chdir(other)
    copy = RunConfig.load(work / "copy.toml")
    assert copy.run.path == work / "runs" / "my"
    assert copy.tables == config.tables | {"run": config.tables["run"] | {"directory": str(work / "runs" / "my")}}
    assert config.differences(copy) == []


def models(module: ModuleType) -> Iterator[type[BaseModel]]:
    for _, found in inspect.getmembers(module, inspect.isclass):
        if issubclass(found, BaseModel) and found.__module__ == module.__name__:
            yield found


def test_every_setting_that_is_a_path_is_known() -> None:
    for environment in ("alfworld", "sokoban", "tir_math"):
        known = {name.partition(".")[0] for name in load("test", environment, {}).info.paths}
        assert known
        for model in models(importlib.import_module(f"arlarena.environments.{environment}.options")):
            for name, field in model.model_fields.items():
                assert "Path" not in str(field.annotation) or name in known, f"{environment}: {name}"
    for name, field in InferenceSettings.model_fields.items():
        assert "Path" not in str(field.annotation) or f"inference.{name}" in PATHS, name


def test_dots_are_taken_out_of_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    work = tmp_path / "work"
    (tmp_path / "policy").mkdir()
    work.mkdir()
    (work / "my.toml").write_text('[policy]\npath = "../policy"\n[environment]\nname = "sokoban"\n')
    monkeypatch.chdir(work)
    config = RunConfig.load(Path("my.toml"), directory=Path("../runs/x"))
    assert config.run.directory == str(tmp_path / "runs" / "x")
    assert config.policy_path == str(tmp_path / "policy")
    assert RunConfig.load(Path("my.toml"), directory=Path()).run.directory == str(work)
    assert RunConfig.load(Path("my.toml"), directory=Path("runs/x")).run.directory == "runs/x"
