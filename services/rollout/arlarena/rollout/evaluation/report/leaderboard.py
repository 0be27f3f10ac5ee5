"""Several evaluations in one table: `arlarena leaderboard DIR…`. Each column is one set of tasks.

Two evaluations share a column only if they played the same tasks: the digests of the tasks' contents must be equal. The
table also contains figures from the paper. These figures are marked as quoted.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

import msgspec
from rich.console import Console, Group
from rich.text import Text

from arlarena.proto.text.wording import interval, percent
from arlarena.rollout.evaluation.directory import EvaluationResults, read_evaluation
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.records import EnvironmentPlan
from arlarena.rollout.evaluation.report.summary_view import (
    GroupFigures,
    Summarise,
    environment_figures,
)
from arlarena.rollout.evaluation.report.tables import FigureTable
from arlarena.rollout.evaluation.report.terminal import shown


@dataclass(frozen=True, slots=True)
class TaskSet:
    """A set of tasks: a column of the leaderboard.

    Attributes:
        environment: name in the plan.
        label: name of the standard set, else the split and the number of tasks.
        digest: digest of the contents of all tasks, 16 hex digits.
    """

    environment: str
    label: str
    digest: str


@dataclass(frozen=True, slots=True)
class LeaderboardRow:
    """The figures of one evaluation, by set of tasks."""

    name: str
    path: Path
    figures: dict[TaskSet, GroupFigures]


class QuotedValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A figure from the paper, in per cent, for a metric other than success."""

    value: float
    metric: str
    tasks: str

    def __str__(self) -> str:
        return f"{self.value:.1f} ({self.metric}, {self.tasks})"


class QuotedRow(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The paper's figures for one model. `quoted.toml` describes the fields."""

    name: str
    kind: str
    table: str
    values: dict[str, float | QuotedValue]


class QuotedFile(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The contents of `quoted.toml`."""

    schema: int
    paper: str
    source: str
    quoted: tuple[QuotedRow, ...]


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """A leaderboard. `rows`: the best mean success first. `columns`: in the order of the environments' names."""

    columns: tuple[TaskSet, ...]
    rows: tuple[LeaderboardRow, ...]
    quoted: QuotedFile


def read_quoted() -> QuotedFile:
    """Returns the figures of the paper."""
    data = (resources.files(__package__) / "quoted.toml").read_bytes()
    return msgspec.toml.decode(data, type=QuotedFile)


def task_set(results: EvaluationResults, plan: EnvironmentPlan) -> TaskSet:
    """Returns the set of tasks that an evaluation played.

    Raises:
        EvaluationError: a task has no result, so the contents of the set are unknown.
    """
    contents = {one.key.index: one.content_key for one in results.of(plan.name) if one.content_key and one.scored}
    missing = [index for index in plan.indices if index not in contents]
    if missing:
        raise EvaluationError(
            f"{results.path} has no result for {len(missing)} of {len(plan.indices)} tasks of {plan.name}, for example "
            f"task {missing[0]}. Either resume this evaluation or leave it out"
        )
    tasks = json.dumps(sorted({contents[index] for index in plan.indices})).encode()
    digest = hashlib.blake2b(tasks, digest_size=8).hexdigest()
    return TaskSet(plan.name, plan.set or f"{plan.split}, {len(plan.indices)} tasks", digest)


def row_name(results: EvaluationResults) -> str:
    """Returns the name of an evaluation in the table: the model, and the strategy.

    The strategy is left out if it is `plain` or has the same name as the model.
    """
    plan = results.plan
    return plan.model if plan.strategy in ("plain", plan.model) else f"{plan.model}, {plan.strategy}"


def build(directories: Sequence[Path], summarise: Summarise) -> Leaderboard:
    """Read the evaluations in `directories` and merge them into one leaderboard.

    Raises:
        EvaluationError: a directory has no finished evaluation, or two evaluations have a set of tasks with the same
            environment and label, but with different tasks.
    """
    rows, owners = [], dict[tuple[str, str], tuple[TaskSet, Path]]()
    for directory in directories:
        results = read_evaluation(directory)
        figures: dict[TaskSet, GroupFigures] = {}
        for plan in results.plan.environments:
            tasks = task_set(results, plan)
            first, owner = owners.setdefault((tasks.environment, tasks.label), (tasks, directory))
            if first.digest != tasks.digest:
                raise EvaluationError(
                    f"{owner} and {directory} played different tasks of {plan.name} ({tasks.label}): their digests are "
                    f"{first.digest} and {tasks.digest}. Make a separate leaderboard for each evaluation"
                )
            records = results.of(plan.name)
            figures[tasks] = environment_figures(plan, records, results.plan.attempts, summarise).all
        rows.append(LeaderboardRow(row_name(results), directory, figures))
    columns = sorted({tasks for row in rows for tasks in row.figures}, key=lambda one: (one.environment, one.label))
    return Leaderboard(tuple(columns), tuple(sorted(rows, key=_rank)), read_quoted())


def _rank(row: LeaderboardRow) -> tuple[float, str]:
    found = [one.success for one in row.figures.values() if one.success is not None]
    return (-sum(found) / len(found) if found else 1.0, row.name)


def cell(figures: GroupFigures | None) -> str:
    """Returns two lines such as `41.7 (19.3 to 68.0)` and `n = 12, k = 4`. Returns "-" if no attempt is scored."""
    if figures is None or figures.success is None:
        return "-"
    bounds = f" ({interval(figures.ci95)})" if figures.ci95 else ""
    return f"{percent(figures.success)}{bounds}\nn = {figures.n:,}, k = {figures.k:,}"


def quoted_cell(row: QuotedRow, environment: str) -> str:
    """Returns text such as `92.7`, or "-" if the paper gives no figure."""
    value = row.values.get(environment)
    return "-" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def quoted_rows(board: Leaderboard) -> list[QuotedRow]:
    """Returns the quoted rows with a figure for an environment of the leaderboard."""
    environments = {column.environment for column in board.columns}
    return [row for row in board.quoted.quoted if environments & row.values.keys()]


def quoted_name(row: QuotedRow) -> str:
    """Returns the name of a quoted row, with the number of the paper's table if it is known."""
    return f"{row.name} [quoted{f', table {row.table}' if row.table else ''}]"


def leaderboard_table(board: Leaderboard) -> Group:
    """Returns the leaderboard for the terminal."""
    headings = [shown(f"{column.environment}\n{column.label}\n{column.digest}") for column in board.columns]
    table = FigureTable(headings, one_a_line=True)
    names = Counter(row.name for row in board.rows)
    for row in board.rows:
        cells = [cell(row.figures.get(column)) for column in board.columns]
        name = row.name if names[row.name] == 1 else f"{row.name} ({row.path})"
        table.add(shown(name), cells, ends_section=row is board.rows[-1])
    quoted = quoted_rows(board)
    for one in quoted:
        table.add(quoted_name(one), [quoted_cell(one, column.environment) for column in board.columns], "dim")
    source = f"[quoted]: figures of the paper, {board.quoted.source}, on the paper's tasks; not measured here."
    return Group(Text("Success in per cent (95 % interval)", "bold"), table, *([Text(source)] if quoted else []))


def leaderboard_json(board: Leaderboard) -> list[dict[str, object]]:
    """Returns the leaderboard for JSON. Success, intervals and quoted values are in [0, 1].

    There is one object for each evaluation and each of its sets of tasks. There is also one object for each quoted row
    and each environment with a figure.
    """
    measured: list[dict[str, object]] = [
        {
            "name": row.name, "directory": str(row.path), "environment": tasks.environment, "set": tasks.label,
            "digest": tasks.digest, "n": found.n, "k": found.k, "success": found.success, "ci95": found.ci95,
            "quoted": False,
        }
        for row in board.rows
        for tasks, found in row.figures.items()
    ]  # fmt: skip
    quoted: list[dict[str, object]] = [
        {
            "name": row.name, "environment": name, "source": board.quoted.source, "table": row.table or None,
            "metric": "success" if isinstance(value, float) else value.metric, "quoted": True,
            "success": value / 100 if isinstance(value, float) else None,
            "value": value / 100 if isinstance(value, float) else value.value / 100,
        }
        for row in quoted_rows(board)
        for name, value in row.values.items()
        if name in {column.environment for column in board.columns}
    ]  # fmt: skip
    return [*measured, *quoted]


def print_leaderboard(
    directories: Sequence[Path], summarise: Summarise, console: Console, *, as_json: bool = False
) -> None:
    """Print the leaderboard of the evaluations in `directories`.

    Raises:
        EvaluationError: as in `build`.
    """
    board = build(directories, summarise)
    if as_json:
        console.print(json.dumps(leaderboard_json(board), indent=1), markup=False, soft_wrap=True)
    else:
        console.print(leaderboard_table(board))
