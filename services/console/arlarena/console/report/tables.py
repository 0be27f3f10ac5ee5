"""The tables of a run's report, for the HTML page and for the terminal.

A class of tasks contains all tasks of one difficulty or of one kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.markup import escape
from rich.table import Table

from arlarena.console.report.ending import describe_ending
from arlarena.console.report.summary import (
    count_unit,
    data_warning,
    describe_eval_set,
    describe_filtered,
)
from arlarena.proto.text.wording import interval, percent, printable

Score = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a table. `cell`: a function that returns the text of the column's cell in a row.

    `page_only`: True if the terminal does not show the column.
    """

    heading: str
    cell: Callable[[Any], str]
    page_only: bool = False


@dataclass(frozen=True, slots=True)
class ClassRow:
    """The results for one class of tasks, before and after training. `n`: number of tasks or attempts."""

    name: str
    n: int
    before: Score | None
    after: Score | None


def _number_cell(key: str, digits: int) -> Callable[[Score], str]:
    return lambda score: "-" if score.get(key) is None else f"{score[key]:.{digits}f}"


def _share(score: Score | None) -> str:
    return percent(score["success"]) if score else "-"


def _bounds(score: Score | None) -> str:
    return interval(score["ci95"]) if score else "-"


SCORE_COLUMNS = (  # the rows are the evaluation before and the evaluation after training
    Column("success %", _share),
    Column("95 % interval", _bounds),
    Column("well-formed %", lambda score: percent(score.get("format_valid"))),
    Column("valid action %", lambda score: percent(score.get("action_valid")), page_only=True),
    Column("return", _number_cell("return", 2)),
    Column("turns", _number_cell("turns", 1)),
)


def class_columns(counted: str) -> tuple[Column, ...]:
    """Returns the columns of a table with one row per class of tasks. `counted`: heading of the column of counts."""
    return (
        Column(counted, lambda row: str(row.n)),
        Column("before %", lambda row: _share(row.before)),
        Column("95 % interval", lambda row: _bounds(row.before), page_only=True),
        Column("after %", lambda row: _share(row.after)),
        Column("95 % interval", lambda row: _bounds(row.after)),
    )


def class_rows(before: Score, after: Score, breakdown: str, key: str) -> list[ClassRow]:
    """Returns one row per class of tasks.

    Args:
        before: the result of the evaluation before training.
        after: the result of the evaluation after training.
        breakdown: the key of a result's list with one record per class: `by_difficulty` or `by_kind`.
        key: the field of these records with the name of the class: `optimal_moves` or `kind`.
    """
    old, new = ({record[key]: record for record in each.get(breakdown, [])} for each in (before, after))
    rows = []
    for name in sorted(old.keys() | new.keys()):
        first, second = old.get(name), new.get(name)
        rows.append(ClassRow(str(name).replace("_", " "), (second or first or {}).get("n", 0), first, second))
    return rows


def scores_table(summary: dict[str, Any]) -> Table:
    """Returns the table that the terminal shows at the end of a run."""
    eval_set = summary["eval_set"]
    title = f"{summary['env']}, {describe_eval_set(summary)}, T = {eval_set.get('temperature', '?')}"
    parts = describe_ending(summary.get("training")), describe_filtered(summary.get("groups", {}).get("filtered", 0))
    ending = f"Training: {', '.join(filter(None, parts))}" if any(parts) else None
    caption = "\n".join(filter(None, (ending, data_warning(summary))))
    rows = (("before", summary["before"]), (f"after {summary['method']}", summary["after"]))
    return _terminal_table(title, SCORE_COLUMNS, rows, caption)


def kinds_table(summary: dict[str, Any]) -> Table | None:
    """Returns a table of the success rates by kind of task. Returns None if the environment has no kinds of tasks."""
    rows = class_rows(summary["before"], summary["after"], "by_kind", "kind")
    if not rows:
        return None
    columns = class_columns(count_unit(summary))
    return _terminal_table("By kind of task", columns, [(row.name or "(no kind)", row) for row in rows])


def _terminal_table(title: str, columns: Sequence[Column], rows: Iterable[tuple[str, Any]], caption: str = "") -> Table:
    shown = [column for column in columns if not column.page_only]
    table = Table(title=_plain(title), title_justify="left", caption=_plain(caption) or None, caption_justify="left")
    table.add_column("", justify="left", no_wrap=True)
    for column in shown:
        table.add_column(column.heading, justify="right", no_wrap=True)
    for name, row in rows:
        table.add_row(_plain(name), *(column.cell(row) for column in shown))
    return table


def _plain(text: str) -> str:
    """Returns `text` with escaped markup of rich and escaped control characters. `text` may come from a service."""
    return escape(printable(text))
