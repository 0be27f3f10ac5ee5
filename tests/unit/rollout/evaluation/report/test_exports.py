"""CSV and Inspect logs of an evaluation; other programs read them in tests/integration."""

import csv
import io
import json
import zipfile

import pytest
from support.evaluation.recorded import (
    environment_of,
    plan_of,
    png,
    record_of,
    small_evaluation,
    summarise,
    turn_of,
    write_evaluation,
)

from arlarena.rollout.evaluation.directory import read_evaluation
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.report.exports import neutral, write_csv
from arlarena.rollout.evaluation.report.inspect_log import write_inspect_logs
from arlarena.rollout.evaluation.report.prices import read_prices

PRICE = read_prices().price("openai/gpt-5")


@pytest.mark.parametrize(
    "text", ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", "  =1", "\uff1d1", '=HYPERLINK("x")']
)
def test_a_formula_is_neutralised(text):
    assert neutral(text)[0] == "'" or neutral(text).startswith("\\x")


@pytest.mark.parametrize("text", ["plain", "a=1", "1-2", "", "it's"])
def test_other_text_stays_as_it_is(text):
    assert neutral(text) == text


def test_csv_has_one_line_per_attempt_and_a_reader_gets_the_values(tmp_path):
    error = '=cmd|"/c calc"!A0, "quoted"\nsecond line'
    records = [
        record_of(index=0, kind="=2+2"),
        record_of(index=1, status="infra_error", error=error),
        record_of(index=2, success=False, metrics={"turns": 2.0, "special": -0.5}),
    ]
    results = read_evaluation(
        write_evaluation(tmp_path / "e", plan_of(environment_of(), model="openai/gpt-5"), records)
    )
    write_csv(results, tmp_path / "a.csv", PRICE)
    raw = (tmp_path / "a.csv").read_bytes()
    # Of all line ends, only the one inside of the quoted error has no carriage return.
    assert raw.count(b"\r\n") == 4
    assert raw.count(b"\n") == 5
    rows = list(csv.DictReader(io.StringIO(raw.decode("utf-8"), newline="")))
    assert [row["index"] for row in rows] == ["0", "1", "2"]
    assert rows[0]["kind"] == "'=2+2"
    assert rows[1]["error"] == "'" + error
    assert [row["success"] for row in rows] == ["true", "", "false"]
    assert [row["score"] for row in rows] == ["1.0", "", "0.0"]
    assert [row["metric_special"] for row in rows] == ["", "", "-0.5"]
    assert {float(row["dollars"]) for row in rows} == {0.0028}
    assert rows[0]["evaluation"] == results.plan.identity()


def test_csv_of_a_model_without_a_price_has_empty_costs(tmp_path):
    results = read_evaluation(write_evaluation(tmp_path / "e", plan_of(environment_of()), [record_of()]))
    write_csv(results, tmp_path / "a.csv", None)
    row = next(csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text(), newline="")))
    assert row["dollars"] == ""


def test_inspect_log_has_a_sample_per_attempt_a_header_and_summaries(tmp_path):
    results = read_evaluation(small_evaluation(tmp_path / "e"))
    paths = write_inspect_logs(results, tmp_path, summarise, PRICE)
    assert [path.name for path in paths] == ["sokoban.eval", "alfworld.eval"]
    with zipfile.ZipFile(paths[1]) as archive:
        names = archive.namelist()
        header = json.loads(archive.read("header.json"))
        failed = json.loads(archive.read("samples/test-11_epoch_2.json"))
        rejected = json.loads(archive.read("samples/test-5_epoch_1.json"))
    assert len([name for name in names if name.startswith("samples/")]) == 24
    assert len(names) == len(set(names)) == 26
    score = header["results"]["scores"][0]
    assert (score["scored_samples"], score["unscored_samples"]) == (23, 1)
    assert score["metrics"]["accuracy"]["value"] == pytest.approx(8 / 12)  # the mean over tasks
    assert failed["scores"] is None
    assert failed["error"]["message"] == "the server did not answer"
    assert rejected["scores"]["success"]["value"] == "I"
    assert rejected["error"] is None


def test_inspect_log_of_an_unfinished_evaluation_is_cancelled(tmp_path):
    directory = write_evaluation(tmp_path / "e", plan_of(environment_of(indices=range(3))), [record_of()])
    (path,) = write_inspect_logs(read_evaluation(directory), tmp_path, summarise)
    with zipfile.ZipFile(path) as archive:
        assert json.loads(archive.read("header.json"))["status"] == "cancelled"


def test_a_name_of_an_image_cannot_lead_out_of_the_folder(tmp_path):
    (tmp_path / "secret.png").write_bytes(png())
    records = [record_of(turns=[turn_of(images=("../../secret.png", "/etc/hostname", "gone.png"))])]
    directory = write_evaluation(tmp_path / "e", plan_of(environment_of()), records, {"a.png": png()})
    (path,) = write_inspect_logs(read_evaluation(directory), tmp_path, summarise)
    with zipfile.ZipFile(path) as archive:
        sample = json.loads(archive.read("samples/test-0_epoch_1.json"))
    assert isinstance(sample["messages"][0]["content"], str)


def test_reading_takes_the_last_record_of_an_attempt_and_ignores_a_cut_line(tmp_path):
    records = [record_of(index=1), record_of(index=0, status="infra_error"), record_of(index=0, success=False)]
    results = read_evaluation(write_evaluation(tmp_path / "e", plan_of(environment_of()), records))
    assert [(one.key.index, one.status, one.success) for one in results.records] == [(0, "ok", False), (1, "ok", True)]


def test_reading_names_what_is_wrong(tmp_path):
    with pytest.raises(EvaluationError, match="not the directory of an evaluation"):
        read_evaluation(tmp_path)
    directory = write_evaluation(tmp_path / "e", plan_of(environment_of()), [record_of()])
    (directory / "journal.jsonl").write_bytes(b'{"event":"end","key":1}\n')
    with pytest.raises(EvaluationError, match="line 1 is damaged"):
        read_evaluation(directory)
