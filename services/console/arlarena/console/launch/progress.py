"""Prints the progress of a run: a live table on a terminal, else plain lines."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import replace

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from arlarena.console.stage import Stage, StageProgress, Status, read_progress
from arlarena.proto.text.redaction import redact
from arlarena.proto.text.wording import duration, printable

REFRESH_HZ = 4
# Without a terminal, the current stage is printed again after this many seconds without output.
QUIET_S = 15.0
MARKS: dict[Status, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("▸", "bold cyan"),
    "done": ("✓", "green"),
    "skipped": ("✓", "dim"),
    "stopped": ("■", "yellow"),
    "failed": ("✗", "bold red"),
}


def shown(text: str) -> str:
    """Returns `text` without secrets and with escaped control characters. `text` may contain output of services."""
    return printable(redact(text))


def _text(text: str, style: str | None = None) -> Text:
    return Text(shown(text), style=style or "")


class View:
    """A context manager that shows the stages of a run. Call its methods only inside the `with` block."""

    def __init__(
        self,
        title: str,
        stages: Iterable[Stage],
        services: Callable[[], dict[str, str]],
        *,
        console: Console | None = None,
        plain_interval_s: float = 5.0,
    ) -> None:
        self.console = console or Console(highlight=False)
        self._title, self._stages, self._services = title, {stage.name: stage for stage in stages}, services
        self._interval, self._started, self._last = plain_interval_s, time.monotonic(), 0.0
        self._last_shown, self._printed = StageProgress(), self._started
        self._live = (
            Live(get_renderable=self._render, console=self.console, refresh_per_second=REFRESH_HZ)
            if self.console.is_terminal
            else None
        )

    def __enter__(self) -> View:
        if self._live:
            self._live.__enter__()
        else:
            self._print(self._title)
        return self

    def __exit__(self, *_: object) -> None:
        if self._live:
            self._live.__exit__(None, None, None)

    def _print(self, text: str, style: str | None = None) -> None:
        self._printed = time.monotonic()
        self.console.print(_text(text, style), soft_wrap=True)

    def notice(self, text: str) -> None:
        """Print a message. On a terminal, the message is above the table."""
        self._print(f"[{duration(self._elapsed())}] {text}", "yellow")

    def begin(self, name: str) -> None:
        """Show that a stage begins."""
        self._stages[name].begin()
        if not self._live:
            self._print(f"[{duration(self._elapsed())}] {name} …")

    def end(self, name: str, status: Status = "done", note: str = "") -> None:
        """Show that a stage has ended. `note`: the result of the stage."""
        stage = self._stages[name]
        stage.end(status) if stage.status == "running" else setattr(stage, "status", status)
        stage.note = note
        if not self._live:
            outcome = "finished earlier" if status == "skipped" else f"{status} after {duration(stage.seconds)}"
            self._print(f"[{duration(self._elapsed())}] {name}: {outcome}{f', {note}' if note else ''}")

    def tick(self) -> None:
        """Print the progress if the output is not a terminal. Call `tick` at regular intervals.

        Prints a line for each new progress record. After `QUIET_S` seconds without output, prints the state of the
        stage again.
        """
        if self._live or time.monotonic() - self._last < self._interval:
            return
        self._last = time.monotonic()
        quiet = self._last - self._printed >= QUIET_S
        for stage in self._stages.values():
            if stage.status != "running":
                continue
            progress = read_progress(stage)
            record = replace(progress, seconds_left=None, limit="", doing="")
            if quiet or record not in (StageProgress(), self._last_shown):
                self._last_shown = record
                so_far = f"{duration(self._last - stage.began)} so far" if quiet and not progress.doing else ""
                text = ", ".join(filter(None, (progress.as_text(), so_far)))
                self._print(f"[{duration(self._elapsed())}] {stage.name}: {text}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for stage in self._stages.values():
            mark, style = MARKS[stage.status]
            table.add_row(Text(mark, style), Text(stage.name, style), *self._details(stage))
        services = "  ".join(f"{name} {state}" for name, state in self._services().items())
        head = Text.assemble((shown(self._title), "bold"), "  ", (duration(self._elapsed()), "dim"))
        return Group(head, table, _text(services, "dim"))

    def _details(self, stage: Stage) -> tuple[RenderableType, RenderableType]:
        if stage.status != "running":
            took = duration(stage.seconds) if stage.seconds else ""
            return Text(took, "dim"), _text(stage.note, "dim")
        progress = read_progress(stage)
        share = progress.share
        bar = ProgressBar(total=1.0, completed=share, width=24) if share is not None else Text("")
        return Text(duration(time.monotonic() - stage.began)), Group(
            *([bar] if share is not None else []), _text(progress.as_text())
        )
