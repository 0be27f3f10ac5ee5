"""Fixtures that every kind of test shares."""

import os
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from support.processes import forking_support
from support.processes.timeouts import pytest_timeout_set_timer  # noqa: F401

# Before torch is imported, here and in the processes that tests start: as many threads as cores in each of several
# processes make all of them many times slower.
os.environ.setdefault("OMP_NUM_THREADS", "1")

REPOSITORY = Path(__file__).resolve().parents[1]


def pytest_configure(config: pytest.Config) -> None:
    """A process of pytest-xdist forks services where the other processes of the session do."""
    if hasattr(config, "workerinput"):
        forking_support.share(config.workerinput["forking_process"])


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist where to fork."""
    node.workerinput["forking_process"] = forking_support.address()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any, error: object) -> None:
    """Print the exit status of a crashed process of pytest-xdist, which is negative for a signal."""
    if error:
        print(f"\nexit status of {node.gateway.id}: {node.gateway._io.popen.wait(10)}", file=sys.stderr)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """One line for each reason of skipped tests, instead of one for each place."""
    skipped = terminalreporter.stats.get("skipped", [])
    reasons = Counter(str(report.longrepr[2]).removeprefix("Skipped: ") for report in skipped)
    for reason, count in reasons.most_common():
        terminalreporter.write_line(f"SKIPPED [{count}] {reason}")
