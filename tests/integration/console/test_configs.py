"""Every recipe of the repository is one that every service takes."""

from pathlib import Path

import pytest

from arlarena.console.runconfig import RunConfig, find_problems

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "configs").glob("*.toml"))


# Each asks five services, which takes ten seconds.
RECIPES = [path if path.stem == "demo" else pytest.param(path, marks=pytest.mark.slow) for path in CONFIGS]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
async def test_every_service_takes_the_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    config = RunConfig.load(path)
    assert await find_problems(config) == ([], None)
    assert config.run.name == path.stem
