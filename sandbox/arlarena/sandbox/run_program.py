"""What a fork of the zygote, or a container, does: run a Python program as `__main__`, and print its traceback where it
raises. The last line of standard error then names the error, whatever else is written there. A container is given the
text of this module, so it stands alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TextIO

import numpy

NAME = "<program>"
MAX_TRACEBACK, MAX_LINE = 8192, 1000  # characters: an error that holds a large formula is not too much output
RESERVE = 8 << 20  # bytes of address space that are given back to name an error when memory has run out


def load() -> tuple[Callable[[bytes], int], list[Path]]:
    """See `zygote`."""
    from arlarena.sandbox import libraries

    sys.dont_write_bytecode = True
    libraries.preload()
    return run, list(libraries.readable())


def run(payload: bytes) -> int:
    """Run the last of a JSON list of programs in what the others have made. Returns its exit code."""
    *before, program = json.loads(payload)
    main = ModuleType("__main__")
    main.__dict__["final_answer"] = final_answer
    sys.modules["__main__"], sys.argv = main, [""]
    reserve = [bytearray(RESERVE)]
    random.seed(0)  # the same program draws the same numbers
    numpy.random.seed(0)
    sys.set_int_max_str_digits(100_000)  # 2**10000 is asked for more often than a quadratic algorithm is abused
    for earlier in before:
        sys.stdout, sys.stderr = _Nowhere(), _Nowhere()
        _executed(earlier, main.__dict__, [])
    sys.stdout, sys.stderr = streams = _stream(1), _stream(2)
    ended = _executed(program, main.__dict__, reserve)
    for stream in (sys.stdout, sys.stderr, *streams):
        with contextlib.suppress(BaseException):
            stream.flush()
    if ended.error:
        _report(ended)
    return ended.code


def final_answer(answer: object) -> None:
    r"""Give the answer: print it as \boxed{…}, which ends the episode."""
    print(f"\\boxed{{{answer}}}")


class _Nowhere(io.TextIOBase):
    """Takes text and forgets it."""

    def write(self, text: str) -> int:
        return len(text)


def _stream(descriptor: int) -> TextIO:
    """Text to a descriptor, line by line: what was printed before a program is ended can be seen."""
    return open(descriptor, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)


class _Ended(NamedTuple):
    """How a program ended. `error`: one line that names its error, "" where there is none."""

    code: int
    error: str = ""
    traceback: str = ""


def _executed(program: str, namespace: dict[str, Any], reserve: list[bytearray]) -> _Ended:
    try:
        exec(compile(program, NAME, "exec"), namespace)
    except SystemExit as end:
        reserve.clear()
        code = (end.code or 0) & 0xFF if end.code is None or isinstance(end.code, int) else 1
        return _Ended(code, _named(end) if code else "")
    except BaseException as error:
        reserve.clear()
        return _Ended(1, _named(error), _traceback(error))
    return _Ended(0)


def _named(error: BaseException) -> str:
    """The kind of an error and the first line of its message. The message is the program's text, and may fail."""
    kind = type(error)
    name, message = "an error without a name", ""
    with contextlib.suppress(BaseException):
        name = kind.__qualname__
        if kind.__module__ not in ("builtins", "__main__"):
            name = f"{kind.__module__}.{name}"
    try:
        text = (error.msg or "") if isinstance(error, SyntaxError) else str(error)
        message = next((line.strip() for line in str(text).splitlines() if line.strip()), "")
    except BaseException:
        message = "(its message cannot be shown)"
    return (f"{name}: {message}" if message else name)[:MAX_LINE]


def _traceback(error: BaseException) -> str:
    """The traceback, from the program's own lines on; "" where it cannot be shown. Of a long one, the end."""
    with contextlib.suppress(BaseException):
        trace = error.__traceback__
        lines = traceback.format_exception(type(error), error, trace and trace.tb_next)
        return "".join(lines)[-MAX_TRACEBACK:]
    return ""


def _report(ended: _Ended) -> None:
    """Write the traceback, then the line that names the error if that is not its last one, and nothing behind it."""
    text = ended.traceback.rstrip()
    if text.rpartition("\n")[2] != ended.error:
        text = f"{text}\n{ended.error}"
    left = memoryview(f"\n{text.lstrip()}\n".encode("utf-8", "replace"))
    with contextlib.suppress(OSError):  # the program may have closed it
        while left:
            left = left[os.write(2, left) :]
        os.close(2)
