"""`arlarena config`: every setting of every table."""

import pytest
from typer.testing import CliRunner

from arlarena.console.cli.app import app
from arlarena.console.cli.configuration import describe, read_tables
from arlarena.proto.config import TABLES, ConfigError
from arlarena.rollout.settings import RolloutSettings
from arlarena.trainer.settings import TrainerSettings


def test_all_tables_and_all_keys_are_printed() -> None:
    tables = read_tables()
    text = describe(tables, None)
    assert set(TABLES) <= tables.keys()
    for name, settings in tables.items():
        assert f"[{name.partition(' ')[0]}]" in text
        for each in settings:
            assert f"\n  {each.key}" in text
            assert each.description, (name, each.key)


def test_a_table_has_the_keys_of_its_settings_with_default_unit_and_description() -> None:
    done = CliRunner().invoke(app, ["config", "[trainer]"])
    assert done.exit_code == 0
    keys = [line.split()[0] for line in done.output.splitlines() if line.startswith("  ") and line[2] != " "]
    assert keys == list(TrainerSettings.model_fields)
    lines = describe(read_tables(), "rollout").splitlines()
    default = RolloutSettings.model_fields["batch_window_s"].default
    (number,) = (number for number, line in enumerate(lines) if line.startswith("  batch_window_s"))
    assert lines[number] == f"  batch_window_s = {default}  (number, ≥ 0, seconds)"
    assert lines[number + 1].startswith(
        "      calls to the environment server within this time are sent as one request"
    )


def test_the_options_of_every_environment_are_printed_under_one_name() -> None:
    titles = [line for line in describe(read_tables(), "environment.options").splitlines() if line.startswith("[")]
    assert [title.partition("of ")[2] for title in titles] == ["sokoban", "alfworld", "tir_math", "webshop"]


def test_an_unknown_table_is_refused_with_the_nearest() -> None:
    with pytest.raises(ConfigError, match=r"there is no table \[trainr\]; did you mean 'trainer'\?"):
        describe(read_tables(), "trainr")
