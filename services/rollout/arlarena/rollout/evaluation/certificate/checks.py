"""The result of one check of a certificate: number of comparisons, failures, and impossible comparisons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

import msgspec
from rich.table import Table as RichTable
from rich.text import Text

from arlarena.proto.text.wording import counted, printable

# `failed`: a failure was found. `not checked`: nothing could be compared. `not applicable`: the check does not concern
# the run, because the run has no behaviour cloning. `passed`: at least one thing was compared, without a failure.
Verdict = Literal["passed", "failed", "not checked", "not applicable"]
STYLES: dict[Verdict, str] = {"passed": "green", "failed": "bold red", "not checked": "yellow", "not applicable": "dim"}
# For each check, the table shows at most this many failures, and at most this many texts of `not_checked`.
# certificate.json contains all of them.
SHOWN = 5


class Evidence(msgspec.Struct):
    """Collects the evidence of one check.

    Attributes:
        name: the claim that the check tests.
        unit: the unit of `checked` in the singular, for example "episode".
        checked: number of things that were compared.
        failures: one text for each failure. The text names the task, the file or the group.
        not_checked: one text for each impossible comparison, with the reason.
        notes: other facts.
        applies: False if the check does not concern the run; without a failure, the verdict is then "not applicable".
    """

    name: str
    unit: str
    checked: int = 0
    failures: list[str] = []
    not_checked: list[str] = []
    notes: list[str] = []
    applies: bool = True

    def compare(self, failures: Iterable[str], count: int = 1) -> None:
        """Add `count` comparisons and their failures."""
        self.checked += count
        self.failures.extend(failures)

    @property
    def verdict(self) -> Verdict:
        """The verdict. A check without comparisons never passes."""
        if self.failures:
            return "failed"
        if not self.applies:
            return "not applicable"
        return "passed" if self.checked else "not checked"


class CheckRecord(msgspec.Struct, frozen=True):
    """A check in `certificate.json`. `Evidence` describes the fields."""

    name: str
    verdict: Verdict
    unit: str
    checked: int
    failures: list[str]
    not_checked: list[str]
    notes: list[str]

    @classmethod
    def of(cls, evidence: Evidence) -> CheckRecord:
        """Returns the record of finished evidence."""
        e = evidence
        return cls(e.name, e.verdict, e.unit, e.checked, list(e.failures), list(e.not_checked), list(e.notes))


class Certificate(msgspec.Struct, frozen=True):
    """`certificate.json`. `passed`: every check passed or does not apply, and at least one check passed."""

    schema: int
    run: str
    written: str
    environment: dict[str, str]
    passed: bool
    checks: list[CheckRecord]


def all_passed(checks: Iterable[Evidence]) -> bool:
    """Returns True if at least one check passed, and all other checks passed or do not apply."""
    verdicts = [check.verdict for check in checks]
    return "passed" in verdicts and not {"failed", "not checked"} & set(verdicts)


def table(checks: Iterable[CheckRecord], title: str) -> RichTable:
    """Returns a table of the checks for the terminal."""
    shown = RichTable(title=title, title_justify="left")
    for heading in ("check", "verdict", "evidence"):
        shown.add_column(heading, overflow="fold")
    for check in checks:
        lines = [counted(check.checked, check.unit)]
        lines += [f"failed: {text}" for text in _first(check.failures)]
        lines += [f"not checked: {text}" for text in _first(check.not_checked)]
        lines += check.notes
        verdict = Text(check.verdict, style=STYLES[check.verdict])
        shown.add_row(check.name, verdict, Text(printable("\n".join(lines)).replace("\\n", "\n")))
    return shown


def _first(texts: list[str]) -> list[str]:
    more = len(texts) - SHOWN
    return texts if more <= 0 else [*texts[:SHOWN], f"… and {more} more, see certificate.json"]
