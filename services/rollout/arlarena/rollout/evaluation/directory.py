"""Names of the files in an evaluation's directory, and functions that read these files."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.records import AttemptKey, AttemptRecord, EvaluationPlan, Event

PLAN, JOURNAL, IMAGES = "plan.json", "journal.jsonl", "images"


@dataclass(frozen=True, slots=True)
class EvaluationResults:
    """The stored plan and results of an evaluation.

    Attributes:
        path: the evaluation's directory.
        records: the last record of each attempt, in the order of the plan.
    """

    path: Path
    plan: EvaluationPlan
    records: tuple[AttemptRecord, ...]

    def of(self, environment: str) -> list[AttemptRecord]:
        """Return the records of one environment of the plan."""
        return [record for record in self.records if record.key.environment == environment]


def read_plan(directory: Path) -> EvaluationPlan | None:
    """Return the plan of a directory, or None if there is none.

    Raises:
        EvaluationError: plan.json is not a plan, or cannot be read.
    """
    path = directory / PLAN
    try:
        return msgspec.json.decode(path.read_bytes(), type=EvaluationPlan)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise EvaluationError(f"{path} is not a plan of an evaluation: {error}") from error


def read_journal(path: Path) -> Iterator[Event]:
    """Yield the events of a journal in file order. A last line without a line end is incomplete and is ignored.

    Raises:
        EvaluationError: a complete line is damaged. The message names the line.
        OSError: the file cannot be read.
    """
    decoder = msgspec.json.Decoder(Event)
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield decoder.decode(line)
            except (msgspec.MsgspecError, UnicodeDecodeError) as error:
                raise EvaluationError(
                    f"{path}, line {number} is damaged ({error}); restore the file from a copy, or delete this line to "
                    "play the affected attempt again"
                ) from error


def read_evaluation(directory: Path) -> EvaluationResults:
    """Read the plan and the results of an evaluation. The evaluation need not be finished.

    Raises:
        EvaluationError: a file is missing or damaged.
    """
    plan = read_plan(directory)
    if plan is None:
        raise EvaluationError(f"{directory} is not the directory of an evaluation: it has no {PLAN}")
    try:
        ends = [event for event in read_journal(directory / JOURNAL) if isinstance(event, AttemptRecord)]
    except OSError as error:
        raise EvaluationError(f"{directory / JOURNAL} cannot be read: {error}") from error
    last: dict[AttemptKey, AttemptRecord] = {record.key: record for record in ends}
    order = {one.name: place for place, one in enumerate(plan.environments)}
    records = sorted(last.values(), key=lambda one: (order.get(one.key.environment, len(order)), one.key))
    return EvaluationResults(directory, plan, tuple(records))
