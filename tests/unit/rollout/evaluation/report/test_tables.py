"""All tables of evaluations are complete at 60, 80 and 120 columns."""

import io
import re

import pytest
from rich.console import Console
from rich.text import Text
from support.evaluation.record_support import attempt
from support.evaluation.recorded import (
    environment_of,
    plan_of,
    record_of,
    small_evaluation,
    summarise,
    write_evaluation,
)

from arlarena.rollout.evaluation.certificate.__main__ import show_rescored
from arlarena.rollout.evaluation.certificate.rescore import Rescored, RescoredFile
from arlarena.rollout.evaluation.directory import read_evaluation
from arlarena.rollout.evaluation.report.leaderboard import build, leaderboard_table
from arlarena.rollout.evaluation.report.summary_view import figures_of
from arlarena.rollout.evaluation.report.tables import FigureTable
from arlarena.rollout.evaluation.report.terminal import EvaluationView, comparison_text, results_table
from arlarena.rollout.evaluation.statistics.paired import compare

WIDTHS = [60, 80, 120]
FILES = [
    RescoredFile("journal.jsonl webshop-2", 1024, 1000, 998, 24, 2, 0.5, 0.503),
    RescoredFile("episodes/validation-000080.jsonl", 16, 16, 0, 0, 0, None, None),
]


def printed(shown, width):
    """What the terminal shows. Nothing is cut, and no line is longer than the terminal is wide."""
    output = io.StringIO()
    console = Console(file=output, width=width, highlight=False)
    shown(console) if callable(shown) else console.print(shown)
    text = output.getvalue()
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    return text


def words(text):
    """The text without line ends and the spaces of columns, for names and notes that are folded."""
    return re.sub(r"\s+", "", text)


@pytest.mark.parametrize("width", WIDTHS)
def test_rescored_files_have_all_counts(width):
    text = printed(lambda console: show_rescored(Rescored(1, "d", "t", [], FILES, [], []), console), width)
    for value in ("1,000 of 1,024", "50.0 %", "50.3 %", "998", "24", "16 of 16"):
        assert re.search(rf"\b{value}", text)
    for heading in ("judged", "changed", "diverged", "unfinished", "before", "now"):
        assert heading in text


@pytest.mark.parametrize("width", WIDTHS)
def test_results_have_names_headings_and_figures(width, tmp_path):
    results = read_evaluation(small_evaluation(tmp_path / "e"))
    text = printed(results_table("t", figures_of(results, summarise), results.records, None), width)
    for name in ("sokoban", "alfworld", "- clean", "- pick and place"):
        assert words(name) in words(text)
    for value in ("31.2", "11.0 to 58.7", "29.2 to 100.0", "0.312", "62.5"):
        assert words(value) in words(text)
    for heading in ("tasks", "attempts", "success", "interval", "score", "pass@2", "turns"):
        assert heading in text


@pytest.mark.parametrize("width", WIDTHS)
def test_a_leaderboard_has_names_digests_and_intervals(width, tmp_path):
    names = ("sokoban", "alfworld", "webshop")
    plan = plan_of(*(environment_of(name, range(4)) for name in names), model="runs/demo/checkpoints/step-000080")
    records = [record_of(name, index, attempt) for name in names for index in range(4) for attempt in range(2)]
    board = build([write_evaluation(tmp_path / "e", plan, records)], summarise)
    text = printed(leaderboard_table(board), width)
    assert "runs/demo/checkpoi" in text  # folded at 80 columns
    assert "step-000080" in text
    for column in board.columns:
        assert column.digest in text
        assert column.environment in text
    assert words(text).count("100.0(39.8to100.0)") == 3
    assert "Qwen3-4B, SAMPO" in text
    assert "[quoted, table 3]" in text
    assert "92.7" in text


def test_equal_names_in_a_leaderboard_have_their_directories(tmp_path):
    board = build([small_evaluation(tmp_path / name) for name in ("one", "two")], summarise)
    text = words(printed(leaderboard_table(board), 200))
    assert all(words(str(tmp_path / name)) in text for name in ("one", "two"))


@pytest.mark.parametrize("width", WIDTHS)
def test_the_progress_has_counts_success_and_errors(width, tmp_path):
    console = Console(file=io.StringIO(), width=width)
    totals = {"sokoban": 16, "alfworld": 24, "webshop": 400}
    view = EvaluationView("runs/demo/checkpoints/step-000080, plain", totals, summarise, 2, console=console)
    for record in read_evaluation(small_evaluation(tmp_path / "e")).records:
        view.add(record)
    lines = printed(view._render(), width).splitlines()
    (row,) = [line for line in lines if line.startswith("alfworld ")]
    assert "24 of 24  success 66.7 % (34.9 to 90.1)" in row
    assert "━" in row
    assert "alfworld: 1 infrastructure error" in [line.strip() for line in lines]
    assert any(line.startswith("webshop ") and "0 of 400" in line for line in lines)


@pytest.mark.parametrize("width", WIDTHS)
def test_a_comparison_has_both_rates_the_interval_and_the_counts_of_tasks(width):
    first = [attempt(index, success=index < 3) for index in range(10)]
    second = [attempt(index, success=2 <= index < 8) for index in range(9)] + [attempt(9, status="infra_error")]
    found = compare(first, second)
    low, high = found.ci95
    text = printed(Text(comparison_text(found, ["openai/gpt-5", "runs/demo, react"])), width)
    assert text.startswith("openai/gpt-5: 33.3 %\nruns/demo, react: 66.7 %\n")
    assert words(f"difference: +33.3 points ({100 * low:+.1f} to {100 * high:+.1f}), p = ") in words(text)
    assert words("9 tasks: the second evaluation is better on 5, worse on 2, equal on 2") in words(text)
    assert words("left out: 1 task") in words(text)


def test_a_table_moves_together_before_it_becomes_paragraphs():
    table = FigureTable(["one", "two\n%"])
    table.add("a name of some length [red]", ["1.0", "22.2"])
    # 16 columns of the name, 3 and 4 of the figures.
    assert "22.2" in printed(table, 27).splitlines()[3]
    assert "1.0  22.2" in printed(table, 27)
    assert "1.0 22.2" in printed(table, 25)
    assert "[red]" in printed(table, 27)
    lines = [line.rstrip() for line in printed(table, 24).splitlines()]
    assert lines == ["a name of some length", "[red]", "  one: 1.0, two %: 22.2"]
