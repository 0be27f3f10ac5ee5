"""The state and the progress of one stage of a run. The progress is read from files that the stage writes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import msgspec

from arlarena.proto.text.wording import counted, duration

TAIL_BYTES = 16 * 1024
# The remaining time is estimated from this number of recent steps. A larger number would average more noise, but the
# estimate would follow changes in speed later.
WINDOW = 20
# If the estimate of the remaining time increases by less than this factor, the increase is not shown.
NOISE = 1.2
# A step that began before the stage is ignored. This tolerance in seconds allows for a system clock that was set back.
CLOCK_STEP_S = 1.0
# The share of the tasks that must finish before the speed is estimated. Tasks are played in parallel: at first no task
# finishes, and then many tasks finish at about the same time.
LEAST_FINISHED = 0.1
Status = Literal["waiting", "running", "done", "skipped", "stopped", "failed"]


@dataclass(slots=True)
class Stage:
    """One stage of a run.

    `sources`: files with progress records, in the order in which the stage writes them. `total`: the
    number of items in all sources together. If it is None, the progress records contain the total number. `step_file`:
    file with the state of the current step. `offsets`: the size of each source in bytes when the stage began.

    `began`: start time on the monotonic clock. `began_at`: start time in seconds since the epoch. `seconds`: duration.
    `note`: the result of the stage as text. `seconds_left`: the last estimate of the remaining time.
    """

    name: str
    sources: tuple[Path, ...] = ()
    total: int | None = None
    step_file: Path | None = None
    status: Status = "waiting"
    began: float = 0.0
    began_at: float = 0.0
    seconds: float = 0.0
    note: str = ""
    offsets: dict[Path, int] = field(default_factory=dict)
    seconds_left: float | None = None

    def begin(self) -> None:
        """Set the status to "running" and record the start time. Progress records that already exist are ignored."""
        self.status, self.began, self.began_at, self.seconds_left = "running", time.monotonic(), time.time(), None
        self.offsets = {path: path.stat().st_size for path in self.sources if path.exists()}

    def end(self, status: Status) -> None:
        """Set the final status and the duration of the stage."""
        self.status = status
        self.seconds = time.monotonic() - self.began

    def smoothed_estimate(self, seconds_left: float | None) -> float | None:
        """Returns `seconds_left`, or the last estimate if the increase is smaller than the factor `NOISE`."""
        old = self.seconds_left
        if seconds_left is None or old is None or not old < seconds_left < NOISE * old:
            self.seconds_left = seconds_left
        return self.seconds_left


@dataclass(frozen=True, slots=True)
class Reading:
    """How much of each limit of a stage was used at the time `at` (seconds since the epoch).

    `shares`: the used share (0 to 1) by the name of the limit, such as `max_minutes`. The limit on the number of steps
    has the name "".
    """

    at: float
    shares: dict[str, float]


@dataclass(frozen=True, slots=True)
class StageProgress:
    """The latest progress of a stage. Unknown values are None.

    `share`: the finished share of the stage, 0 to 1. `limit`: the setting that will probably end the stage before its
    last step, or "". `doing`: text with the state and duration of the current step.
    """

    step: int | None = None
    steps: int | None = None
    share: float | None = None
    success: float | None = None
    tokens_per_s: float | None = None
    seconds_left: float | None = None
    limit: str = ""
    message: str = ""
    doing: str = ""

    def as_text(self) -> str:
        """Returns the progress as text."""
        parts = []
        if self.step is not None:
            parts.append(f"{self.step:,}" + (f" of {self.steps:,}" if self.steps else ""))
        if self.message:
            parts.append(self.message)
        if self.success is not None:
            parts.append(f"success {100 * self.success:.1f} %")
        if self.tokens_per_s is not None:
            parts.append(f"{self.tokens_per_s:,.0f} tokens/s")
        if self.seconds_left is not None:
            parts.append(f"{duration(self.seconds_left)} left{f' until {self.limit}' if self.limit else ''}")
        if self.doing:
            parts.append(self.doing)
        return ", ".join(parts)


class _Step(msgspec.Struct):
    """The trainer's record of its current step.

    `began`: seconds since the epoch. `groups_kept`: number of groups in the batch so far. `groups_wanted`: number of
    groups that the batch needs. `episodes`: number of episodes so far. `filtered`: number of groups that the filter
    dropped. `unsolved`: number of dropped groups without a successful episode. During the update of the policy, the
    fields after `groups_kept` are not set.
    """

    step: int
    doing: Literal["collecting", "learning"]
    began: float
    groups_kept: int = msgspec.field(name="groups")
    groups_wanted: int = 0
    episodes: int = 0
    filtered: int = 0
    unsolved: int = 0

    def collected(self) -> str:
        """Returns text such as `3 of 24 needed groups, 55 filtered out (…), 464 episodes`."""
        reason = ""
        if self.unsolved:
            part = "" if self.unsolved == self.filtered else f"in {self.unsolved:,} of them "
            reason = f" ({part}no episode succeeded)"
        filtered = f", {self.filtered:,} filtered out{reason}" if self.filtered else ""
        wanted = counted(self.groups_wanted, "needed group")
        return f"{self.groups_kept:,} of {wanted}{filtered}, {counted(self.episodes, 'episode')}"


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def read_progress(stage: Stage, now: float | None = None) -> StageProgress:
    """Returns the progress of `stage` at the time `now` (seconds since the epoch; default: the current time)."""
    now = time.time() if now is None else now
    newest: dict[str, Any] = {}
    readings: list[Reading] = []
    last_step = -1.0
    for step, steps, record in _progress(stage):
        if step <= last_step:  # a restarted process repeats steps
            readings = []
        newest, last_step = record | {"step": step, "steps": steps}, step
        at = _number(record.get("ts"))
        if at is not None and steps:
            readings.append(Reading(at, {"": step / steps} | _limits(record)))
    if not newest:
        return StageProgress(doing=_current_step_text(stage, now, 0))
    shares = [newest["step"] / newest["steps"]] if newest["steps"] else []
    least = LEAST_FINISHED if "finished" in newest else 0.0
    left = time_left(readings, now, least)
    if left is not None and left[0] <= 0:  # the estimated time has passed
        left = None
    return StageProgress(
        step=int(newest["step"]),
        steps=int(newest["steps"]) if newest["steps"] else None,
        share=min(1.0, max([*shares, *_limits(newest).values()])) if shares else None,
        success=_number(newest.get("success")),
        tokens_per_s=_number(newest.get("tokens_per_s")),
        seconds_left=stage.smoothed_estimate(left[0] if left else None),
        limit=left[1] if left else "",
        message=str(newest.get("message") or newest.get("source") or ""),
        doing=_current_step_text(stage, now, int(newest["step"])),
    )


def _current_step_text(stage: Stage, now: float, done: int) -> str:
    """Returns text such as `step 1: 7 of 24 needed groups, 96 episodes, 31 s`.

    `done`: number of the last finished step. Returns "" if the step file cannot be read, if its step is not later than
    `done`, or if its step began before the stage.
    """
    if stage.step_file is None:
        return ""
    try:
        step = msgspec.json.decode(stage.step_file.read_bytes(), type=_Step)
    except (OSError, msgspec.MsgspecError):
        return ""
    if step.began < stage.began_at - CLOCK_STEP_S or step.step <= done:
        return ""
    activity = f"training on {counted(step.groups_kept, 'group')}"
    if step.doing == "collecting":
        activity = step.collected()
    return f"step {step.step:,}: {activity}, {duration(now - step.began)}"


def time_left(readings: Sequence[Reading], now: float, least: float = 0.0) -> tuple[float, str] | None:
    """Returns (seconds, name): the time until the first limit is reached, and the name of this limit.

    The limit on the number of steps has the name "". Returns None if there are too few readings, if no limit can be
    estimated, or if a limit has been reached.

    Between two readings, the estimate decreases with the clock, but at most by the mean interval of the readings.
    `least`: a limit is ignored if less than this share of the limit was used between the first and the last reading.
    """
    if len(readings) > 2:  # skip the first step, because its time includes the start of processes
        readings = readings[1:]
    readings = readings[-WINDOW - 1 :]
    if len(readings) < 2 or max(readings[-1].shares.values()) >= 1:
        return None
    first, last = readings[0], readings[-1]
    elapsed = last.at - first.at
    estimates = []
    for name, share in last.shares.items():
        gained = share - first.shares.get(name, share)
        if gained > 0 and gained >= least:
            estimates.append((elapsed / gained * (1 - share), name))
    if not estimates:
        return None
    seconds, name = min(estimates)
    since = min(max(0.0, now - last.at), elapsed / (len(readings) - 1))
    return max(0.0, seconds - since), name


def _progress(stage: Stage) -> Iterator[tuple[float, float | None, dict[str, Any]]]:
    """Yields (step, number of steps, record) for each progress record in the last `TAIL_BYTES` of each source."""
    before = 0.0
    for path in stage.sources:
        step = None
        for line in _lines(path, stage.offsets.get(path, 0)):
            record = _record(line)
            number = _number(record.get("step", record.get("finished")))
            if number is not None:
                step = number
                name = {"source": path.stem} if len(stage.sources) > 1 else {}
                yield before + step, stage.total or _number(record.get("steps", record.get("total"))), record | name
        before += step or 0.0


def _limits(record: dict[str, Any]) -> dict[str, float]:
    limits = record.get("limits")
    shares = {name: _number(share) for name, share in limits.items()} if isinstance(limits, dict) else {}
    return {name: share for name, share in shares.items() if share is not None}


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
