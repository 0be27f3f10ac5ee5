"""The end of a test that reaches its time limit: it fails, and its report has the stacks of all threads and tasks.

pytest-timeout's own methods print the stacks to the terminal, which a process of pytest-xdist does not have. This
plugin replaces its method `signal`. While a call of C does not return, no signal handler runs. Then faulthandler ends
the process (`faulthandler_timeout`), and prints the stacks to standard error, which all processes share.
"""

import asyncio
import signal
import sys
import threading
import traceback
from typing import Any

import pytest

# The exception of the first signal can be lost, for example in a task that no one waits for.
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
    """Print the stacks of the other threads and of the tasks of a running event loop to standard error. The traceback
    of the failure is the stack of this thread.
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
