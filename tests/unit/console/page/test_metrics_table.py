"""metrics.jsonl is read while it grows, and thinned without losing extremes."""

import json
import math

import numpy as np
import pytest

from arlarena.console.page.reading.metrics_table import MetricsTable, thin
from arlarena.console.page.reading.run_files import BoundedFiles


def lines(steps, **more):
    return "".join(json.dumps({"step": step, "loss": step / 2} | more) + "\n" for step in steps)


@pytest.fixture
def table(tmp_path):
    return MetricsTable(BoundedFiles(tmp_path))


def test_a_half_written_line_is_read_when_it_is_complete(tmp_path, table):
    path = tmp_path / "metrics.jsonl"
    table.refresh()
    assert (table.last_step, table.names()) == (0, [])
    path.write_text(lines([1, 2]) + '{"step": 3, "lo')
    table.refresh()
    assert table.last_step == 2
    with path.open("a") as file:
        file.write('ss": 9.5, "late": 1}\n' + lines([4]))
    table.refresh()
    assert table.column("loss").tolist() == [0.5, 1.0, 9.5, 2.0]
    late = table.column("late").tolist()
    assert math.isnan(late[0])
    assert math.isnan(late[3])
    assert late[2] == 1
    assert table.column("none") is None


def test_the_value_at_a_step_is_that_of_the_step_or_none(tmp_path, table):
    (tmp_path / "metrics.jsonl").write_text(lines([2, 4, 6]) + '{"step": 8, "loss": null}\n')
    table.refresh()
    assert [table.at(step, "loss") for step in (2, 4, 6)] == [1.0, 2.0, 3.0]
    assert [table.at(step, "loss") for step in (1, 3, 8, 9, None)] == [None] * 5
    assert table.at(2, "none") is None


def test_a_resumed_run_replaces_the_file(tmp_path, table):
    path = tmp_path / "metrics.jsonl"
    path.write_text(lines(range(1, 9)))
    table.refresh()
    replaced = tmp_path / "new"
    replaced.write_text(lines([1, 2], extra=5))
    replaced.replace(path)
    table.refresh()
    assert (table.last_step, table.names()) == (2, ["loss", "extra"])
    with path.open("a") as file:
        file.write(lines([2, 3]).replace("1.0", "7.0"))
    table.refresh()
    assert table.column("loss").tolist() == [0.5, 7.0, 1.5]  # the later record of step 2


def test_damaged_lines_are_skipped(tmp_path, table):
    bad = [
        "[1]",
        '{"loss": 1}',
        '{"step": "x"}',
        "\0\0",
        '{"step": 1, "loss": null, "text": "a", "list": [1]}',
        "{" * 5_000,
    ]
    (tmp_path / "metrics.jsonl").write_text("\n".join(bad) + "\n" + lines([5]) + "x" * (2 << 20) + "\n" + lines([6]))
    table.refresh()
    assert table.steps().tolist() == [1, 5, 6]
    assert np.isnan(table.column("loss")[0])
    assert np.isnan(table.column("text")).all()


def test_thinning_keeps_mean_minimum_and_maximum():
    x, y = np.arange(1.0, 10_001), np.sin(np.arange(10_000))
    y[7_777], y[5], y[:3] = 40.0, -30.0, math.nan
    xs, mean, low, high = thin(x, y, 100)
    assert len(xs) == 100
    assert xs[-1] == 10_000
    assert (high.max(), low.min()) == (40.0, -30.0)
    assert mean[77] == pytest.approx(np.nanmean(y[7_700:7_800]))
    assert thin(x[:50], y[:50], 100)[2:] == (None, None)
    assert np.isnan(thin(x, np.full(10_000, math.nan), 10)[1]).all()
