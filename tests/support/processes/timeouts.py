"""Ends a test at its time limit: the test fails, and its report contains the stacks of all threads and tasks.

pytest-timeout's own methods print the stacks to the terminal, but processes of pytest-xdist have no terminal. This
plugin replaces pytest-timeout's method `signal`. If a test hangs in C code, no signal handler runs. In this case,
faulthandler prints the stacks to standard error, which all processes share, and ends the process
(`faulthandler_timeout`).
"""

import asyncio
import signal
import sys
import threading
import traceback
from typing import Any

import pytest

# The signal is repeated, because its exception can be lost, for example in a task without an awaiting caller.
REPEAT_S = 30.0


@pytest.hookimpl(tryfirst=True)
def pytest_timeout_set_timer(item: pytest.Item, settings: Any) -> bool | None:
    """Start the timer of a test. pytest-timeout stops it with `item.cancel_timeout`."""
    if settings.method != "signal" or threading.current_thread() is not threading.main_thread():
        return None

    def stop(*_: object) -> None:
        print_stacks()
        pytest.fail(f"timeout: {item.nodeid} has run for more than {settings.timeout:g} s")

    def cancel() -> None:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)

    item.cancel_timeout = cancel  # type: ignore[attr-defined]
    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, settings.timeout, REPEAT_S)
    return True


def print_stacks() -> None:
    """Print the stacks of the other threads, and of the tasks of a running event loop, to standard error.

    The traceback of the failure shows the stack of this thread.
    """
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        if ident != threading.get_ident():
            print(f"thread {names.get(ident, ident)}:", *traceback.format_stack(frame), file=sys.stderr)
    try:
        tasks = asyncio.all_tasks()
    except RuntimeError:  # no event loop runs
        return
    for task in tasks:
        task.print_stack(file=sys.stderr)
