"""`arlarena leaderboard`: one column per set of tasks, measured rows, and figures of the paper marked as quoted."""

import io
import json

import pytest
from rich.console import Console
from scipy.stats import binomtest
from support.evaluation.recorded import environment_of, plan_of, record_of, summarise, write_evaluation

from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.report.leaderboard import build, print_leaderboard, read_quoted


def evaluation(folder, model, solved, *, set_name="alfworld-v1", n=6, name="alfworld", change="", attempts=1):
    records = [
        record_of(name, index, attempt, success=index < solved, content_key=f"room-{index}{change}")
        for index in range(n)
        for attempt in range(attempts)
    ]
    plan = plan_of(environment_of(name, range(n), set_name), model=model, attempts=attempts)
    return write_evaluation(folder / model.replace("/", "-"), plan, records)


def printed(directories, **options):
    output = io.StringIO()
    print_leaderboard(directories, summarise, Console(file=output, width=160), **options)
    return output.getvalue()


def test_evaluations_of_the_same_tasks_share_a_column_the_best_first(tmp_path):
    weak, strong = evaluation(tmp_path, "a/apt", 2), evaluation(tmp_path, "b/best", 5)
    board = build([weak, strong], summarise)
    assert [row.name for row in board.rows] == ["b/best", "a/apt"]
    assert [column.label for column in board.columns] == ["alfworld-v1"]
    found = board.rows[0].figures[board.columns[0]]
    bounds = binomtest(5, 6).proportion_ci(0.95, "exact")
    assert (found.n, found.k, found.success) == (6, 1, 5 / 6)
    assert found.ci95 == pytest.approx((bounds.low, bounds.high))


def test_the_table_shows_intervals_n_k_and_quoted_rows(tmp_path):
    text = printed([evaluation(tmp_path, "a/strong", 5)])
    bounds = binomtest(5, 6).proportion_ci(0.95, "exact")
    assert f"83.3 ({100 * bounds.low:.1f} to {100 * bounds.high:.1f})" in text
    assert "n = 6, k = 1" in text
    lines = [line for line in text.splitlines() if "Gemini 2.5 Pro" in line]
    assert len(lines) == 1
    assert "[quoted, table S3]" in lines[0]
    assert "66.4" in lines[0]
    assert "https://arxiv.org/abs/2602.21534" in text
    assert "not measured here" in " ".join(text.split())


def test_a_different_number_of_attempts_of_the_same_tasks_still_shares_the_column(tmp_path):
    board = build([evaluation(tmp_path, "a/one", 3), evaluation(tmp_path, "a/two", 3, attempts=2)], summarise)
    assert len(board.columns) == 1
    assert sorted(found.k for row in board.rows for found in row.figures.values()) == [1, 2]


def test_different_tasks_under_one_name_are_refused(tmp_path):
    directories = [evaluation(tmp_path, "a/one", 3), evaluation(tmp_path, "a/two", 3, change="!")]
    with pytest.raises(EvaluationError, match="played different tasks of alfworld") as caught:
        build(directories, summarise)
    assert str(directories[0]) in str(caught.value)
    assert str(directories[1]) in str(caught.value)


def test_sets_of_different_names_have_their_own_columns(tmp_path):
    directories = [evaluation(tmp_path, "a/one", 3), evaluation(tmp_path, "a/two", 3, set_name="", n=4)]
    board = build(directories, summarise)
    assert [column.label for column in board.columns] == ["alfworld-v1", "test, 4 tasks"]
    assert all(len(row.figures) == 1 for row in board.rows)


def test_an_evaluation_without_all_results_is_refused(tmp_path):
    plan = plan_of(environment_of("alfworld", range(3)), attempts=1)
    records = [record_of("alfworld", 0), record_of("alfworld", 1, status="infra_error")]
    directory = write_evaluation(tmp_path / "e", plan, records)
    with pytest.raises(EvaluationError, match=r"no result for 2 of 3 tasks of alfworld, for example task 1"):
        build([directory], summarise)


def test_figures_of_other_environments_are_not_shown(tmp_path):
    text = printed([evaluation(tmp_path, "a/one", 3, name="sokoban", set_name="sokoban-v1")])
    assert "Gemini" not in text
    assert "88.9" in text
    assert "92.7" not in text


def test_json_marks_quoted_figures_and_keeps_other_metrics_apart(tmp_path):
    rows = json.loads(printed([evaluation(tmp_path, "a/one", 3, name="tir_math", set_name="aime")], as_json=True))
    measured = [row for row in rows if not row["quoted"]]
    quoted = [row for row in rows if row["quoted"]]
    assert [(row["name"], row["n"], row["k"], row["success"]) for row in measured] == [("a/one", 6, 1, 0.5)]
    grpo = next(row for row in quoted if "GRPO" in row["name"])
    assert (grpo["metric"], grpo["value"], grpo["success"]) == ("pass@4", pytest.approx(0.4996), None)
    assert {row["table"] for row in quoted} == {"3"}


def test_quoted_figures_are_the_papers():
    quoted = read_quoted().quoted
    values = {row.name: row.values for row in quoted}
    assert len(values) == len(quoted), "two rows have the same name"
    assert values["Qwen3-4B, SAMPO"] == {"alfworld": 92.72, "webshop": 77.73, "sokoban": 88.86}
    assert values["GPT-5.2"] == {"alfworld": 51.56, "webshop": 26.56}
    assert {row.kind: sorted({one.table for one in quoted if one.kind == row.kind}) for row in quoted} == {
        "trained": ["3", "S2"],
        "closed": ["S3"],
    }
