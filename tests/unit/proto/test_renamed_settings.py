"""The error for a renamed key names the new key."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from arlarena.console.settings import ConsoleSettings
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.proto.config import ConfigError, Table, load_table
from arlarena.rollout.settings import RolloutSettings
from arlarena.trainer.settings import CloneSettings, TrainerSettings

TABLES: dict[str, type[Table]] = {
    "environment": EnvironmentSettings,
    "rollout": RolloutSettings,
    "clone": CloneSettings,
    "trainer": TrainerSettings,
    "console": ConsoleSettings,
}


def former_keys() -> Iterator[tuple[str, str, str]]:
    for table, model in TABLES.items():
        for former, present in model.renamed.items():
            yield table, former, present


@pytest.mark.parametrize(("table", "former", "present"), list(former_keys()))
def test_a_renamed_key_is_refused_with_the_new_name(tmp_path: Path, table: str, former: str, present: str) -> None:
    path = tmp_path / "run.toml"
    path.write_text(f"[{table}]\n{former} = 1\n")
    with pytest.raises(ConfigError, match=rf"\[{table}\] unknown key '{former}'; it was renamed to '{present}'"):
        load_table(path, table, TABLES[table])
    assert present in TABLES[table].model_fields
    assert former not in TABLES[table].model_fields


def subclasses(model: type[Table]) -> Iterator[type[Table]]:
    for each in model.__subclasses__():
        yield each
        yield from subclasses(each)


def test_every_table_with_renamed_keys_is_tested() -> None:
    assert {model for model in subclasses(Table) if "renamed" in vars(model)} == set(TABLES.values())
