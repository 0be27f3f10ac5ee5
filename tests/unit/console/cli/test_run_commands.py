"""`arlarena runs`, `status` and `export` of runs, and the settings of `view`."""

import csv
import json

import pytest
from support.console.page_support import group, make_run, record, write_metrics, write_step
from typer.testing import CliRunner

from arlarena.console.cli.app import app
from arlarena.console.page.export import column_kinds
from arlarena.proto.config import ConfigError


def run_command(*arguments):
    """Returns exit status and output of a command. A ConfigError is raised."""
    result = CliRunner().invoke(app, list(map(str, arguments)))
    if isinstance(result.exception, ConfigError):
        raise result.exception
    return result.exit_code, result.output


@pytest.fixture
def folder(tmp_path):
    make_run(tmp_path / "runs" / "first")
    broken = make_run(tmp_path / "runs" / "group" / "second")
    (broken / "run.json").write_text('{"id": "b", "name": "second", "schema": 3}')
    ending = {"ended_by": "error", "step": 4, "steps": 9, "detail": "no data"}
    (broken / "training.json").write_text(json.dumps(ending))
    (broken / "logs").mkdir()
    line = {"ts": 1.0, "level": "error", "service": "trainer", "event": "failed", "reason": "no data"}
    (broken / "logs" / "trainer.log").write_text(json.dumps(line) + "\nplain text\n")
    return tmp_path / "runs"


def test_runs_are_listed_with_state_and_success(folder):
    code, text = run_command("runs", folder, "--json")
    found = {run["name"]: run for run in json.loads(text)}
    assert code == 0
    assert {name: run["state"] for name, run in found.items()} == {"small": "finished", "second": "failed"}
    assert found["small"]["success"] == 0.2
    assert (found["small"]["before"], found["small"]["after"], found["second"]["alarms"]) == (0.25, 0.75, 1)
    code, table = run_command("runs", folder)
    assert code == 0
    assert "20/9" in table
    assert "75.0" in table


def test_the_status_of_a_run_is_for_scripts(folder):
    code, text = run_command("status", folder / "first", "--json")
    found = json.loads(text)
    assert (code, found["state"], found["step"], found["metrics"]["success_rate"]) == (0, "finished", 20, 0.2)
    code, text = run_command("status", folder / "group" / "second", "--json")
    found = json.loads(text)
    assert (code, found["state"], found["ending"]["detail"]) == (1, "failed", "no data")
    assert found["newest_alarms"][0]["message"] == "no data"
    assert "failed" in run_command("status", folder / "group" / "second")[1]


def test_a_folder_without_a_run_is_an_error(tmp_path):
    with pytest.raises(ConfigError, match="contains no run"):
        run_command("runs", tmp_path)
    with pytest.raises(ConfigError, match="is not a directory"):
        run_command("status", tmp_path / "none")


def test_the_status_of_a_folder_with_several_runs_is_an_error(folder):
    with pytest.raises(ConfigError, match=r"contains 2 runs: pass the directory of one run, for example .*first"):
        run_command("status", folder)
    assert run_command("status", folder / "group")[0] == 1


def test_a_page_on_another_address_needs_a_token(folder, tmp_path, monkeypatch):
    monkeypatch.delenv("ARLARENA_PAGE_TOKEN", raising=False)
    with pytest.raises(ConfigError, match="either use --token-file"):
        run_command("view", folder, "--host", "0.0.0.0")
    (tmp_path / "token").write_text("\n")
    with pytest.raises(ConfigError, match="is empty"):
        run_command("view", folder, "--token-file", tmp_path / "token")
    (tmp_path / "token").unlink()
    with pytest.raises(ConfigError, match=r"--token-file: .*token cannot be read: No such file"):
        run_command("view", folder, "--token-file", tmp_path / "token")


@pytest.mark.parametrize("kind", ["csv", "json"])
def test_metrics_and_episodes_are_exported(folder, tmp_path, kind):
    code, text = run_command("export", folder / "first", "--format", kind, "--out", tmp_path / "out")
    paths = [tmp_path / "out" / f"{name}.{'csv' if kind == 'csv' else 'jsonl'}" for name in ("metrics", "episodes")]
    assert (code, text.split()) == (0, list(map(str, paths)))
    if kind == "csv":
        metrics, episodes = (list(csv.DictReader(path.open(newline=""))) for path in paths)
    else:
        metrics, episodes = ([json.loads(line) for line in path.read_text().splitlines()] for path in paths)
    assert [int(row["step"]) for row in metrics] == list(range(1, 21))
    assert [float(row["success_rate"]) for row in metrics] == [step / 100 for step in range(1, 21)]
    assert len(episodes) == 15
    (one,) = [row for row in episodes if row["id"] == "t8.0.1"]
    assert json.loads(one["actions"]) == ["up", "down"]
    assert json.loads(one["advantages"]) == [0.5, 0.75]
    assert (one["status"], str(one["success"]).lower(), float(one["advantage"])) == ("trained", "false", 0.625)
    (stale,) = [row for row in episodes if row["id"] == "t8.0.2"]
    assert stale["reason"] == "age 5 is above staleness = 1"


def test_a_metric_with_the_name_of_an_episode_column_is_a_number_with_decimals():
    assert column_kinds("metrics", ["step", "tokens", "turns"]) == {"step": int, "tokens": float, "turns": float}
    assert column_kinds("episodes", ["id", "tokens", "score"]) == {"id": str, "tokens": int, "score": float}


def test_parquet_is_exported(folder, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    write_metrics(folder / "first", range(21, 22), tokens=0.5)
    run_command("export", folder / "first", "--format", "parquet", "--out", tmp_path / "out")
    metrics, episodes = (parquet.read_table(tmp_path / "out" / f"{name}.parquet") for name in ("metrics", "episodes"))
    assert metrics.column("success_rate").to_pylist() == [step / 100 for step in range(1, 22)]
    assert metrics.column("tokens").to_pylist() == [None] * 20 + [0.5]
    assert (episodes.num_rows, sum(episodes.column("success").to_pylist())) == (15, 1 + 2 + 1 + 3)


def test_an_export_is_never_inside_the_run(folder):
    with pytest.raises(ConfigError, match="inside the run"):
        run_command("export", folder / "first", "--out", folder / "first" / "export")
    with pytest.raises(ConfigError, match="--inspect works only for evaluations"):
        run_command("export", folder / "first", "--inspect", "x")
    assert not (folder / "first" / "export").exists()


def test_formulas_in_an_export_are_neutral(tmp_path):
    run = make_run(tmp_path / "run")
    write_step(run, 9, [record(group("=cmd()", [True, False]), 9)])
    run_command("export", run, "--out", tmp_path / "out")
    rows = list(csv.DictReader((tmp_path / "out" / "episodes.csv").open(newline="")))
    assert "'=cmd()" in [row["group"] for row in rows]
