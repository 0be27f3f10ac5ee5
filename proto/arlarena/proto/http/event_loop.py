"""The event loop and the garbage collection of a process with many concurrent requests."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# By default, Python collects garbage each time when 700 more objects exist. A batch of steps creates thousands of
# objects. With 16,384 sessions in one client, garbage collection took a third of the client's CPU time.
THRESHOLDS = (20_000, 20, 20)


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Returns the event loop factory of uvloop, or None for asyncio's default loop if uvloop is not installed."""
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


@contextmanager
def rare_garbage_collection() -> Iterator[None]:
    """Inside the `with` block, collect garbage rarely, and ignore objects that were created before the block.

    Large objects in reference cycles are freed late, so use this function only in processes without such objects.
    """
    before = gc.get_threshold()
    gc.freeze()
    gc.set_threshold(*THRESHOLDS)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()
