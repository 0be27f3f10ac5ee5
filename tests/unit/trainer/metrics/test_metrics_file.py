"""Metrics files are strict JSON even if metrics are NaN or infinite. A resumed run removes later records."""

import json
import math

import pytest

from arlarena.trainer.metrics.diagnostics import MetricsFile, not_finite
from arlarena.trainer.metrics.progress import Progress

FIGURES = {"loss": math.nan, "grad_norm": math.inf, "entropy": -math.inf, "rows": 3.0}


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refuse)


def test_non_finite_figures_are_null(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1} | FIGURES | {"share": 1 / 3})
    record = strict(file.path.read_text())
    assert record == {"step": 1, "loss": None, "grad_norm": None, "entropy": None, "rows": 3.0, "share": 0.3333333}


def test_progress_records_are_strict_json(tmp_path):
    Progress(tmp_path, "clone", 10).report(1, **FIGURES)
    assert strict((tmp_path / "progress" / "clone.jsonl").read_text())["loss"] is None


def test_non_finite_figures_are_named():
    assert not_finite(FIGURES) == ["entropy", "grad_norm", "loss"]
    assert not_finite({"rows": 3.0}) == []


@pytest.mark.parametrize("step", [0, 2, 9])
def test_remove_after_keeps_the_records_up_to_a_step(tmp_path, step):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    for number in (1, 2, 3):
        file.append({"step": number})
    with file.path.open("a") as open_file:
        open_file.write('{"step": 4, "lo')  # truncated by a crash
    file.remove_after(step)
    assert [json.loads(line)["step"] for line in file.path.read_text().splitlines()] == list(range(1, min(step, 3) + 1))


@pytest.mark.parametrize("garbage", [b"\xff\xfe\x00", b"17", b"null", b'{"step": null}', b'{"step": Infinity}'])
def test_remove_after_removes_invalid_lines(tmp_path, garbage):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append({"step": 1})
    with file.path.open("ab") as open_file:
        open_file.write(garbage + b"\n")
    file.remove_after(5)
    assert file.path.read_text().splitlines() == ['{"step": 1}']
