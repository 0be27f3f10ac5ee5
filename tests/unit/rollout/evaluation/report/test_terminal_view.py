"""What the terminal shows while an evaluation runs and at its end."""

import io

import pytest
from rich.console import Console
from scipy.stats import binomtest
from support.evaluation.recorded import environment_of, record_of, summarise

from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.report.prices import read_prices
from arlarena.rollout.evaluation.report.summary_view import environment_figures
from arlarena.rollout.evaluation.report.terminal import EvaluationView, results_table

PRICE = read_prices().price("openai/gpt-5")


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def view_of(clock, *, terminal=False, price=PRICE, totals=None):
    output = io.StringIO()
    console = Console(file=output, width=140, force_terminal=terminal, highlight=False)
    totals = totals or {"sokoban": 10}
    view = EvaluationView("demo", totals, summarise, 1, price=price, console=console, plain_interval_s=5, clock=clock)
    return view, output


def test_without_a_terminal_a_line_appears_only_after_the_interval():
    clock = Clock()
    view, output = view_of(clock)
    with view:
        for index in range(4):
            view.add(record_of(index=index, success=index == 0))
            clock.now += 2
            view.tick()
    lines = output.getvalue().splitlines()
    bounds = binomtest(1, 3).proportion_ci(0.95, "exact")
    assert lines[0] == "[0.0 s] demo: 10 attempts, 0 finished earlier"
    assert lines[1].startswith(f"[6.0 s] 3 of 10, success 33.3 % ({100 * bounds.low:.1f} to {100 * bounds.high:.1f}), ")
    assert "3,000 tokens in (1,200 cached), 600 out (150 reasoning), $0.0084, 12 s left" in lines[1]
    assert lines[2].startswith("[8.0 s] 4 of 10")
    assert len(lines) == 3
    assert "\x1b" not in output.getvalue()


def test_errors_stand_apart_and_do_not_change_success():
    clock = Clock()
    view, _ = view_of(clock)
    view.add(record_of(index=0, success=True))
    view.add(record_of(index=1, success=False, status="infra_error"))
    view.add(record_of(index=2, success=False, status="model_error"))
    view.add(record_of(index=3, success=False, status="model_error"))
    text = view.as_text()
    assert text.startswith("4 of 10, success 100.0 %")
    assert "1 infrastructure error, 2 errors of the model's API" in text


def test_an_attempt_that_is_played_again_counts_once():
    view, output = view_of(Clock())
    view.add(record_of(index=0, success=True), earlier=True)
    view.add(record_of(index=1, success=False, status="model_error"), earlier=True)
    with view:
        view.add(record_of(index=1, success=True))
    assert output.getvalue().splitlines()[0] == "[0.0 s] demo: 10 attempts, 1 finished earlier"
    assert view.as_text().startswith("2 of 10, success 100.0 %")
    assert "error" not in view.as_text()


def test_an_unknown_price_is_shown_as_unknown_and_never_as_zero():
    view, _ = view_of(Clock(), price=None)
    view.add(record_of())
    assert "cost unknown" in view.as_text()
    assert "$" not in view.as_text()


def test_an_expert_without_requests_shows_no_tokens_and_no_cost():
    view, _ = view_of(Clock())
    view.add(record_of(usage=TokenUsage(), requests=0))
    assert "token" not in view.as_text()
    assert "cost" not in view.as_text()


def test_tokens_are_unknown_if_the_model_does_not_report_those_of_a_reply():
    view, _ = view_of(Clock())
    view.add(record_of(usage=TokenUsage(0, 0, 0, 0), requests=1, status="model_error"))  # no reply
    view.add(record_of(index=1, usage=TokenUsage(1_000, 200)))
    assert "1,000 tokens in, 200 out, $" in view.as_text()
    view.add(record_of(index=2, usage=TokenUsage(1_000)))
    assert "2,000 tokens in, unknown out, cost unknown" in view.as_text()


def test_the_time_left_ignores_attempts_before_a_resume():
    clock = Clock()
    view, _ = view_of(clock)
    for index in range(5):
        view.add(record_of(index=index), earlier=True)
    assert view.seconds_left() is None
    for index in range(5, 8):
        clock.now += 3
        view.add(record_of(index=index))
    assert view.finished == 8
    assert view.seconds_left() == pytest.approx(2 * 3)
    clock.now += 1
    assert view.seconds_left() == pytest.approx(5)
    clock.now += 60
    assert view.seconds_left() == 0


def test_the_terminal_shows_each_environment_with_its_progress():
    clock = Clock()
    view, output = view_of(clock, terminal=True, totals={"sokoban": 10, "alfworld": 20})
    with view:
        view.add(record_of("sokoban"))
        view.add(record_of("alfworld", success=False))
    shown = output.getvalue()
    assert "1 of 10" in shown
    assert "1 of 20" in shown
    assert "success 100.0 %" in shown


def test_hostile_text_cannot_control_the_terminal():
    view, output = view_of(Clock())
    with view:
        view.notice("\x1b]0;owned\x07 [red]text[/red] \u202e")
    assert "\x1b" not in output.getvalue()
    assert "[red]text[/red]" in output.getvalue()


def rendered(environments, records, price=PRICE, width=160):
    output = io.StringIO()
    Console(file=output, width=width).print(results_table("t", environments, records, price))
    return output.getvalue()


def test_the_final_table_has_a_row_per_environment_and_kind_with_intervals():
    records = [
        record_of("alfworld", index, success=index < 6, kind="pick_up" if index % 2 else "[clean]")
        for index in range(8)
    ]
    records.append(record_of("alfworld", 8, status="infra_error", kind="[clean]"))
    figures = environment_figures(environment_of("alfworld", range(9)), records, 1, summarise)
    text = rendered([figures], records)
    bounds = binomtest(6, 8).proportion_ci(0.95, "exact")
    row = next(line for line in text.splitlines() if line.startswith("alfworld"))
    assert [part.strip() for part in row.split("  ") if part.strip()] == [
        "alfworld", "8", "8", "75.0", f"{100 * bounds.low:.1f} to {100 * bounds.high:.1f}", "0.750", "2.0", "1",
    ]  # fmt: skip
    assert "- pick up" in text
    assert "- [clean]" in text
    assert "Not scored: 1 infrastructure error." in text
    assert "$0.0252 (prices of 2025-11-13)" in text


def test_the_final_table_of_an_unpriced_model_says_so():
    records = [record_of("sokoban", index) for index in range(2)]
    figures = environment_figures(environment_of(), records, 1, summarise)
    text = rendered([figures], records, None)
    assert "cost unknown" in text
    assert "not scored" not in text


def test_a_table_of_several_environments_is_complete_at_80_columns():
    kind = "pick_cool_then_place_in_recep"
    names = ["sokoban", "alfworld", "tir_math"]
    records = [
        record_of(name, index, attempt=attempt, kind=kind)
        for name in names
        for index in range(20)
        for attempt in range(4)
    ]
    records.append(record_of("sokoban", 20, status="infra_error", kind=kind))
    figures = [
        environment_figures(
            environment_of(name, range(21)), [one for one in records if one.key.environment == name], 4, summarise
        )
        for name in names
    ]
    lines = rendered(figures, records, width=80).splitlines()
    assert max(map(len, lines)) <= 80
    heading = " ".join(lines[1 : next(number for number, line in enumerate(lines) if line.startswith("─"))])
    for word in ("tasks", "attempts", "success", "interval", "score", "turns", "scored"):
        assert word in heading.split()
    bounds = figures[0].all.ci95
    for name in names:
        row = next(line for line in lines if line.startswith(name))
        assert " ".join(row.split()[1:]).startswith(f"20 80 100.0 {100 * bounds[0]:.1f} to 100.0 1.000 100.0")
    assert "…" not in "".join(lines)
