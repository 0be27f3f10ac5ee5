"""The run's configuration: overrides, seeds, threads, and what may differ on --resume."""

from pathlib import Path

import pytest

from arlarena.console.runconfig import RunConfig, parse_override
from arlarena.proto.config import ConfigError


def write(folder: Path, text: str) -> Path:
    path = folder / "some.toml"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trainer.recipe=grpo", (["trainer", "recipe"], "grpo")),
        ("trainer.lr=1e-4", (["trainer", "lr"], 1e-4)),
        ("trainer.steps=3", (["trainer", "steps"], 3)),
        ("environment.options.boxes=2", (["environment", "options", "boxes"], 2)),
        ("trainer.recipe_overrides={clip_low = 0.1}", (["trainer", "recipe_overrides"], {"clip_low": 0.1})),
        ('run.name="a=b"', (["run", "name"], "a=b")),
        ("trainer.backfill=false", (["trainer", "backfill"], False)),
        ("redis.url=redis://h:1/0?a=b", (["redis", "url"], "redis://h:1/0?a=b")),
    ],
)
def test_an_override_is_a_toml_value_or_else_text(text: str, expected: tuple[list[str], object]) -> None:
    assert parse_override(text) == expected


@pytest.mark.parametrize("text", ["trainer", "trainer=1", "=1", "trainer.=1", ".lr=1", ""])
def test_a_malformed_override_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"table\.key=value"):
        parse_override(text)


def test_an_override_through_a_value_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "[trainer]\nlr = 1.0\n")
    with pytest.raises(ConfigError, match="lr is a value"):
        RunConfig.load(path, ["trainer.lr.x=1"])
    with pytest.raises(ConfigError, match=r"no table \[trainr\]"):
        RunConfig.load(path, ["trainr.lr=1"])


def test_seed_flag_wins_over_the_variable_which_wins_over_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path, "[run]\nseed = 1\n")
    monkeypatch.delenv("ARLARENA_SEED", raising=False)
    assert RunConfig.load(path).run.seed == 1
    monkeypatch.setenv("ARLARENA_SEED", "2")
    assert RunConfig.load(path).run.seed == 2
    assert RunConfig.load(path, seed=0).run.seed == 0


@pytest.mark.parametrize("text", ["seven", "-1", "1.5", "²"])
def test_a_seed_that_is_no_number_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setenv("ARLARENA_SEED", text)
    with pytest.raises(ConfigError, match="ARLARENA_SEED"):
        RunConfig.load(write(tmp_path, ""))


def test_the_name_comes_from_the_file_and_the_directory_from_the_name(tmp_path: Path) -> None:
    assert RunConfig.load(write(tmp_path, "")).run.path == Path("runs/some")
    assert RunConfig.load(write(tmp_path, "[run]\nname = 'other'\n")).run.path == Path("runs/other")
    assert RunConfig.load(write(tmp_path, "[run]\ndirectory = 'd'\n")).run.path == Path("d")
    assert RunConfig.load(write(tmp_path, "[run]\ndirectory = 'd'\n"), directory=Path("e")).run.path == Path("e")


def test_a_name_cannot_leave_its_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name"):
        RunConfig.load(write(tmp_path, "[run]\nname = '../up'\n"))


def test_threads_are_shared_out_and_the_users_choice_stays(tmp_path: Path) -> None:
    config = RunConfig.load(write(tmp_path, "[clone]\n[trainer]\nthreads = 3\n")).with_thread_budget(8)
    assert (config.threads("clone"), config.threads("trainer"), config.threads("inference")) == (8, 3, 4)
    chosen = RunConfig.load(write(tmp_path, "[clone]\n[console.threads]\nclone = 1\n")).with_thread_budget(8)
    assert (chosen.threads("clone"), chosen.threads("trainer")) == (1, 4)
    one = RunConfig.load(write(tmp_path, "[clone]\n")).with_thread_budget(1)
    assert (one.threads("clone"), one.threads("trainer"), one.threads("inference")) == (1, 1, 1)


def test_without_a_clone_table_nothing_is_cloned(tmp_path: Path) -> None:
    config = RunConfig.load(write(tmp_path, "[trainer]\n")).with_thread_budget(2)
    assert not config.clones
    assert "clone" not in config.tables


def test_what_is_written_reads_back_the_same(tmp_path: Path) -> None:
    text = (
        f'[run]\nname = "x"\ndirectory = "{tmp_path}"\n'
        "[trainer]\nlr = 1e-4\nbetas = [0.9, 0.99]\n[trainer.recipe_overrides]\nbackfill = false\n"
    )
    config = RunConfig.load(write(tmp_path, text + 'recipe_note = "öä\\u007f\\"\\\\"\n'))
    copy = tmp_path / "copy.toml"
    config.write(copy)
    assert RunConfig.load(copy).tables == config.tables


def test_settings_of_the_machine_may_differ_and_those_of_the_experiment_not(tmp_path: Path) -> None:
    old = RunConfig.load(write(tmp_path, "[trainer]\nlr = 1.0\n[inference]\nport = 1\n")).with_thread_budget(2)
    same = RunConfig.load(write(tmp_path, "[trainer]\nlr = 1.0\n[console]\nrestarts = 1\n")).with_thread_budget(64)
    other = RunConfig.load(write(tmp_path, "[trainer]\nlr = 2.0\n"))
    assert old.differences(same) == []
    assert old.differences(other) == ["trainer.lr"]


def test_every_wrong_override_is_said_at_once(tmp_path: Path) -> None:
    file = tmp_path / "a.toml"
    file.write_text("")
    with pytest.raises(ConfigError, match=r"(?s)no table \[trainr\].*--set x: write it as table\.key=value"):
        RunConfig.load(file, ["trainr.lr=1", "x"])


def test_plugins_of_the_command_line_are_added_to_those_of_the_file_and_written(tmp_path: Path) -> None:
    path = write(tmp_path, "[trainer]\nplugins = ['a', 'b']\n")
    config = RunConfig.load(path, plugins=["b", "c.d"])
    assert config.tables["trainer"]["plugins"] == ["a", "b", "c.d"]
    config.write(tmp_path / "out" / "config.toml")
    again = RunConfig.load(tmp_path / "out" / "config.toml")
    assert again.tables["trainer"]["plugins"] == ["a", "b", "c.d"]
    assert "trainer.plugins" in RunConfig.load(path).differences(config)
    with pytest.raises(ConfigError, match="plugins = 'a'"):
        RunConfig.load(write(tmp_path, "[trainer]\nplugins = 'a'\n"), plugins=["b"])
