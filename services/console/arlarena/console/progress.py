"""What a person sees while a run goes on: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

TAIL_BYTES = 16 * 1024
REFRESH_HZ = 4
Status = Literal["waiting", "running", "done", "skipped", "failed"]
MARKS: dict[Status, tuple[str, str]] = {
    "waiting": ("·", "dim"),
    "running": ("▸", "bold cyan"),
    "done": ("✓", "green"),
    "skipped": ("✓", "dim"),
    "failed": ("✗", "bold red"),
}


@dataclass(slots=True)
class Stage:
    """One line of the table. `sources`: files in which the stage writes what it does."""

    name: str
    sources: tuple[Path, ...] = ()
    status: Status = "waiting"
    began: float = 0.0
    seconds: float = 0.0
    note: str = ""
    offsets: dict[Path, int] = field(default_factory=dict)

    def begin(self) -> None:
        """From now on; what earlier attempts wrote does not count."""
        self.status, self.began = "running", time.monotonic()
        self.offsets = {path: path.stat().st_size for path in self.sources if path.exists()}

    def end(self, status: Status) -> None:
        """Finished, in one way or the other."""
        self.status = status
        self.seconds = time.monotonic() - self.began


@dataclass(frozen=True, slots=True)
class Figures:
    """The newest of what a stage says about itself; a value that it does not know is None."""

    step: int | None = None
    steps: int | None = None
    success: float | None = None
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    message: str = ""

    @property
    def share(self) -> float | None:
        """How much of the stage is done, 0 to 1."""
        return min(1.0, self.step / self.steps) if self.step is not None and self.steps else None

    def words(self) -> str:
        """For a person."""
        parts = []
        if self.step is not None:
            parts.append(f"{self.step:,}" + (f" of {self.steps:,}" if self.steps else ""))
        if self.success is not None:
            parts.append(f"success {100 * self.success:.1f} %")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left")
        return ", ".join([*parts, *([self.message] if self.message else [])])


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `2 m 05 s`, `1 h 10 m`."""
    if seconds < 9.95:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} m {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} m"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_figures(stage: Stage) -> Figures:
    """From the last line of progress in any of the stage's files; time left is worked out where it leaves it out."""
    for path in stage.sources:
        for line in reversed(_lines(path, stage.offsets.get(path, 0))):
            record = _record(line)
            step = _number(record.get("step", record.get("finished")))
            if step is None:
                continue
            steps = _number(record.get("steps", record.get("total")))
            left = _number(record.get("seconds_left"))
            if left is None and steps and step:
                left = (time.monotonic() - stage.began) / step * (steps - step)
            return Figures(
                step=int(step),
                steps=int(steps) if steps else None,
                success=_number(record.get("success")),
                tokens_per_s=_number(record.get("tokens_per_s")),
                seconds_left=left,
                message=str(record.get("message") or ""),
            )
    return Figures()


def _lines(path: Path, start: int) -> list[str]:
    try:
        with path.open("rb") as file:
            end = file.seek(0, 2)
            file.seek(max(start, end - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []


def _record(line: str) -> dict[str, Any]:
    if not line.startswith("{"):
        return {}
    try:
        return msgspec.json.decode(line, type=dict[str, Any])
    except msgspec.MsgspecError:
        return {}


class View:
    """Shows the stages of a run. Use it as a context; `notice` and `begin`, `end` may be called at any time inside."""

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
        self._said = ""
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
        self.console.print(Text(text, style=style or ""), soft_wrap=True)

    def notice(self, text: str) -> None:
        """Something that the user should know, above the table."""
        self._print(f"[{duration(self._elapsed())}] {text}", "yellow")

    def begin(self, name: str) -> None:
        """A stage begins."""
        self._stages[name].begin()
        if not self._live:
            self._print(f"[{duration(self._elapsed())}] {name} …")

    def end(self, name: str, status: Status = "done", note: str = "") -> None:
        """A stage has ended; `note` says with what."""
        stage = self._stages[name]
        stage.end(status) if stage.status == "running" else setattr(stage, "status", status)
        stage.note = note
        if not self._live:
            what = "done before" if status == "skipped" else f"{status} after {duration(stage.seconds)}"
            self._print(f"[{duration(self._elapsed())}] {name}: {what}{f', {note}' if note else ''}")

    def tick(self) -> None:
        """Called now and then: the plain view says where the running stage is, if that is news."""
        if self._live or time.monotonic() - self._last < self._interval:
            return
        self._last = time.monotonic()
        for stage in self._stages.values():
            words = read_figures(stage).words() if stage.status == "running" else ""
            if words and words != self._said:
                self._said = words
                self._print(f"[{duration(self._elapsed())}] {stage.name}: {words}")

    def _elapsed(self) -> float:
        return time.monotonic() - self._started

    def _render(self) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for stage in self._stages.values():
            mark, style = MARKS[stage.status]
            table.add_row(Text(mark, style), Text(stage.name, style), *self._details(stage))
        services = "  ".join(f"{name} {state}" for name, state in self._services().items())
        head = Text.assemble((self._title, "bold"), "  ", (duration(self._elapsed()), "dim"))
        return Group(head, table, Text(services, "dim"))

    def _details(self, stage: Stage) -> tuple[RenderableType, RenderableType]:
        if stage.status != "running":
            took = duration(stage.seconds) if stage.status in ("done", "failed") else ""
            return Text(took, "dim"), Text(stage.note, "dim")
        figures = read_figures(stage)
        share = figures.share
        bar = ProgressBar(total=1.0, completed=share, width=24) if share is not None else Text("")
        return Text(duration(time.monotonic() - stage.began)), Group(
            *([bar] if share is not None else []), Text(figures.words())
        )
