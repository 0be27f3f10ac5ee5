"""Shows an evaluation on the terminal: the progress of a running evaluation, and the table of results."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from arlarena.proto.text.redaction import redact
from arlarena.proto.text.wording import counted, duration, interval, percent, printable
from arlarena.rollout.evaluation.models.protocol import NO_TOKENS, TokenUsage
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord
from arlarena.rollout.evaluation.report.cost import money
from arlarena.rollout.evaluation.report.prices import ModelPrice
from arlarena.rollout.evaluation.report.rows import attempt_dollars
from arlarena.rollout.evaluation.report.summary_view import EnvironmentFigures, GroupFigures, Summarise
from arlarena.rollout.evaluation.report.tables import FigureTable
from arlarena.rollout.evaluation.statistics.paired import PairedComparison
from arlarena.rollout.evaluation.totals import total_dollars, total_usage

REFRESH_HZ = 4
# Number of recent attempts from which the remaining time is estimated. More attempts would follow changes too slowly.
WINDOW = 200
# Widths of the bar, and of the gap between the parts of a line, in columns of the terminal.
BAR_WIDTH, MIN_BAR_WIDTH, GAP = 20, 5, 2
STATUS_NAMES = {"infra_error": "infrastructure error", "model_error": "error of the model's API"}


def shown(text: str) -> str:
    """Returns `text` with masked secrets and escaped control characters. The text may come from a service."""
    return printable(redact(text))


def success_text(figures: GroupFigures) -> str:
    """Returns text such as `success 41.7 % (19.3 to 68.0)`, or "" if no attempt is scored."""
    if figures.success is None:
        return ""
    bounds = f" ({interval(figures.ci95)})" if figures.ci95 else ""
    return f"success {percent(figures.success)} %{bounds}"


def errors_text(errors: Mapping[str, int]) -> str:
    """Returns text such as `2 infrastructure errors`, or "" if there are no errors."""
    parts = []
    for status, count in sorted(errors.items()):
        if count and status == "model_error":
            parts.append(f"{count:,} {'error' if count == 1 else 'errors'} of the model's API")
        elif count:
            parts.append(counted(count, STATUS_NAMES.get(status, status)))
    return ", ".join(parts)


def tokens_text(usage: TokenUsage) -> str:
    """Returns text such as `31,204 tokens in, 1,022 out (300 reasoning)`."""
    if usage.input is None and usage.output is None:
        return "tokens unknown"
    cached = f" ({usage.cached:,} cached)" if usage.cached else ""
    reasoning = f" ({usage.reasoning:,} reasoning)" if usage.reasoning else ""
    read = "unknown" if usage.input is None else f"{usage.input:,}"
    written = "unknown" if usage.output is None else f"{usage.output:,}"
    return f"{read} tokens in{cached}, {written} out{reasoning}"


def cost_text(cost: float | None) -> str:
    """Returns the cost, such as `$0.0042`, or `cost unknown`."""
    return "cost unknown" if cost is None else money(cost)


class EvaluationView:
    """A context manager that shows the progress of an evaluation. Use the view from one event loop, inside `with`.

    On a terminal, the view is a table. On other outputs, the view prints a line at regular intervals. If `live` is
    False, the view prints only the first and the last line.
    """

    def __init__(
        self,
        title: str,
        totals: Mapping[str, int],
        summarise: Summarise,
        k: int,
        *,
        price: ModelPrice | None = None,
        console: Console | None = None,
        live: bool = True,
        plain_interval_s: float = 15.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare the view.

        Args:
            title: name of the evaluation.
            totals: for each environment of the plan, the number of attempts.
            summarise: computes the success rate and its interval.
            k: attempts per task.
            price: price of the model.
            console: where to print.
            live: whether to show the progress while attempts are played.
            plain_interval_s: seconds between two lines if the output is not a terminal.
            clock: returns the time in seconds.
        """
        self.console = console or Console(highlight=False)
        self._title, self._totals, self._summarise, self._k = shown(title), dict(totals), summarise, k
        self._price, self._interval, self._clock = price, plain_interval_s if live else math.inf, clock
        self._records: dict[str, dict[AttemptKey, AttemptRecord]] = {name: {} for name in totals}
        self._added: Counter[str] = Counter()  # number of records by environment
        self._figures: dict[str, tuple[int, int, GroupFigures]] = {}
        self._usage, self._cost = NO_TOKENS, 0.0
        self._unpriced = False
        self._requests = 0
        self._ends: list[float] = []
        self._started = self._printed = clock()
        self._printed_count = 0
        self._live = (
            Live(get_renderable=self._render, console=self.console, refresh_per_second=REFRESH_HZ)
            if live and self.console.is_terminal
            else None
        )

    def __enter__(self) -> EvaluationView:
        self._started = self._printed = self._clock()
        if self._live:
            self._live.__enter__()
        else:
            earlier = sum(record.scored for records in self._records.values() for record in records.values())
            self._print(f"{self._title}: {counted(self.total, 'attempt')}, {earlier:,} finished earlier")
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.__exit__(None, None, None)
        elif self.finished != self._printed_count:
            self._print(self.as_text())

    @property
    def total(self) -> int:
        """Number of attempts in the plan."""
        return sum(self._totals.values())

    @property
    def finished(self) -> int:
        """Number of finished attempts, including those that finished before the evaluation was resumed."""
        return sum(map(len, self._records.values()))

    def add(self, record: AttemptRecord, *, earlier: bool = False) -> None:
        """Count a finished attempt.

        `earlier`: True if the attempt finished before the evaluation was resumed. The estimate of the remaining time
        does not use these attempts. A resumed evaluation plays attempts without a score again. The new record of an
        attempt replaces the earlier record.
        """
        self._records.setdefault(record.key.environment, {})[record.key] = record
        self._added[record.key.environment] += 1
        if record.requests:
            self._usage += record.usage
        self._requests += record.requests
        cost = attempt_dollars(record, self._price)
        self._unpriced |= cost is None
        self._cost += cost or 0.0
        if not earlier:
            self._ends = [*self._ends[-WINDOW:], self._clock()]

    def notice(self, text: str) -> None:
        """Print a message above the table, for example about a pause after a rate limit."""
        self._print(text, "yellow")

    def tick(self) -> None:
        """Print a line if the output is not a terminal and the last line is older than `plain_interval_s`.

        Call `tick` at regular intervals.
        """
        if not self._live and self._clock() - self._printed >= self._interval:
            self._printed_count = self.finished
            self._print(self.as_text())

    def seconds_left(self) -> float | None:
        """Returns the estimated time in seconds until all attempts are finished, or None if it is unknown."""
        left = self.total - self.finished
        if left <= 0 or len(self._ends) < 2 or self._ends[-1] <= self._ends[0]:
            return None
        each = (self._ends[-1] - self._ends[0]) / (len(self._ends) - 1)
        return max(0.0, each * left - (self._clock() - self._ends[-1]))

    def as_text(self) -> str:
        """Returns the progress as text."""
        parts = [f"{self.finished:,} of {self.total:,}"]
        for name, records in self._records.items():
            if records:
                _, figures = self._group(name)
                label = f"{name} " if len(self._records) > 1 else ""
                parts += [label + text for text in (success_text(figures), errors_text(figures.errors)) if text]
        return ", ".join([*parts, *self._spent()])

    def _spent(self) -> list[str]:
        parts = []
        if self._requests:
            parts = [tokens_text(self._usage), cost_text(None if self._unpriced else self._cost)]
        left = self.seconds_left()
        return parts if left is None else [*parts, f"{duration(left)} left"]

    def _group(self, name: str) -> tuple[int, GroupFigures]:
        """Returns (number of records, their figures) of the environment `name`.

        The display thread may call this method while `add` runs. The method therefore reads a copy of the records.
        """
        added, records = self._added[name], list(self._records[name].values())
        cached = self._figures.get(name)
        if cached is None or cached[0] != added:
            cached = self._figures[name] = added, len(records), self._summarise(records, self._k)
        return cached[1], cached[2]

    def _print(self, text: str, style: str = "") -> None:
        self._printed = self._clock()
        elapsed = duration(self._clock() - self._started)
        self.console.print(Text(f"[{elapsed}] {shown(text)}", style), soft_wrap=True)

    def _render(self) -> RenderableType:
        head = Text.assemble((self._title, "bold"), "  ", (duration(self._clock() - self._started), "dim"))
        rows, errors = [], []
        for name, records in self._records.items():
            number, figures = self._group(name) if records else (0, None)
            count = f"{number:,} of {self._totals.get(name, 0):,}"
            rows.append((shown(name), count, success_text(figures) if figures else ""))
            if text := errors_text(figures.errors) if figures else "":
                errors.append(Text(f"{shown(name)}: {text}" if len(self._records) > 1 else text, "yellow"))
        # The bar gets the space beside the texts. If this space is too small, there is no bar.
        bar = min(
            BAR_WIDTH, self.console.width - sum(max(map(cell_len, texts)) + GAP for texts in zip(*rows, strict=True))
        )
        table = Table.grid(padding=(0, GAP, 0, 0), pad_edge=False)
        for (name, records), (label, count, success) in zip(self._records.items(), rows, strict=True):
            total = max(1, self._totals.get(name, 0))
            bars = [ProgressBar(total=total, completed=len(records), width=bar)] if bar >= MIN_BAR_WIDTH else []
            table.add_row(Text(label), *bars, Text(count, justify="right"), Text(success))
        return Group(head, table, *errors, Text(", ".join(self._spent()), "dim"))


def results_table(
    title: str, environments: Sequence[EnvironmentFigures], records: Sequence[AttemptRecord], price: ModelPrice | None
) -> Group:
    """Returns the table of results: one row per environment.

    If an environment has several kinds of tasks, its row is followed by one row per kind.
    The table shows pass@k only for the largest k. report.html and summary.json also contain pass@k for powers of 2.
    """
    passes = sorted({k for one in environments for k in one.all.pass_at if k > 1})[-1:]
    errors = any(one.all.errors.get(status) for one in environments for status in one.all.errors)
    headings = [
        "tasks",
        "attempts",
        "success\n%",
        "95 %\ninterval",
        "score",
        *(f"pass@{k}\n%" for k in passes),
        "turns",
    ]
    table = FigureTable([*headings, "not\nscored"] if errors else headings)
    for one in environments:
        figures = _figures(one.all, passes, errors=errors)
        table.add(shown(one.plan.name), figures, "bold" if one.kinds else "")
        for kind, group in one.kinds.items():
            name = kind.replace("_", " ") or "(no kind)"
            table.add(f"- {shown(name)}", _figures(group, passes, errors=errors))
    # Title and notes are separate texts, because rich wraps a table's title and caption at the table's width.
    notes = "\n".join(map(shown, _notes(environments, records, price)))
    return Group(Text(shown(title), "bold"), table, *([Text(notes)] if notes else []))


def comparison_text(found: PairedComparison, names: Sequence[str]) -> str:
    """Returns the text of a comparison of two evaluations. `names`: names of the evaluations."""
    low, high, equal = *found.ci95, found.tasks - found.better - found.worse
    lines = [
        f"{shown(names[0])}: {percent(found.first)} %",
        f"{shown(names[1])}: {percent(found.second)} %",
        f"difference: {100 * found.difference:+.1f} points ({100 * low:+.1f} to {100 * high:+.1f}), "
        f"p = {found.p_value:.3g}",
        f"{counted(found.tasks, 'task')}: the second evaluation is better on {found.better:,}, "
        f"worse on {found.worse:,}, equal on {equal:,}",
    ]
    if found.left_out:
        lines.append(f"left out: {counted(found.left_out, 'task')}, because one of the evaluations has no result")
    return "\n".join(lines)


def _figures(figures: GroupFigures, passes: Iterable[int], *, errors: bool) -> list[str]:
    cells = [
        f"{figures.n:,}",
        f"{figures.attempts:,}",
        percent(figures.success),
        interval(figures.ci95) if figures.ci95 else "-",
        "-" if figures.score is None else f"{figures.score:.3f}",
        *(percent(figures.pass_at.get(k)) for k in passes),
        "-" if figures.turns is None else f"{figures.turns:.1f}",
    ]
    return [*cells, f"{sum(figures.errors.values()):,}"] if errors else cells


def _notes(
    environments: Sequence[EnvironmentFigures], records: Sequence[AttemptRecord], price: ModelPrice | None
) -> list[str]:
    notes = []
    total: Counter[str] = Counter()
    for one in environments:
        total.update(one.all.errors)
    if text := errors_text(total):
        notes.append(f"Not scored: {text}. To play these attempts again, repeat the command.")
    if any(record.requests for record in records):
        cost = total_dollars(attempt_dollars(record, price) for record in records)
        dated = f" (prices of {price.date})" if price and cost is not None else ""
        notes.append(f"{tokens_text(total_usage(records))}; {cost_text(cost)}{dated}")
    return notes
