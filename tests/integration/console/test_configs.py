"""Every recipe of the repository is one that every service takes."""

from pathlib import Path

import pytest

from arlarena.console.runconfig import RunConfig, check_everywhere

CONFIGS = sorted((Path(__file__).resolve().parents[3] / "configs").glob("*.toml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
async def test_every_service_takes_the_recipe(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)
    config = RunConfig.load(path)
    await check_everywhere(config)
    assert config.run.name == path.stem
