"""Runs a Python program as `__main__`, in a fork of the zygote or in a container, and prints the traceback of an error.
The last line of standard error then always names the error. A container gets the source of this module, which
therefore imports no other module of the sandbox at its top level.
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
MAX_TRACEBACK, MAX_LINE = 8192, 1000  # most characters, so that an error with a large formula fits the output limit
RESERVE = 8 << 20  # bytes of address space, freed to report an error after memory has run out


def load() -> tuple[Callable[[bytes], int], list[Path]]:
    """Return `run` and the files that forks may read. See `arlarena.sandbox.zygote`."""
    from arlarena.sandbox import libraries

    sys.dont_write_bytecode = True
    libraries.preload()
    return run, list(libraries.readable())


def run(payload: bytes) -> int:
    """Run a JSON list of programs in one namespace. Return the exit code of the last program."""
    *before, program = json.loads(payload)
    main = ModuleType("__main__")
    main.__dict__["final_answer"] = final_answer
    sys.modules["__main__"], sys.argv = main, [""]
    reserve = [bytearray(RESERVE)]
    random.seed(0)  # deterministic: the same program draws the same numbers
    numpy.random.seed(0)
    sys.set_int_max_str_digits(
        100_000
    )  # programs print numbers such as 2**10000, beyond Python's default of 4300 digits
    for earlier in before:
        sys.stdout, sys.stderr = _NullStream(), _NullStream()
        _execute(earlier, main.__dict__, [])
    sys.stdout, sys.stderr = streams = _stream(1), _stream(2)
    ended = _execute(program, main.__dict__, reserve)
    for stream in (sys.stdout, sys.stderr, *streams):
        with contextlib.suppress(BaseException):
            stream.flush()
    if ended.error:
        _write_error(ended)
    return ended.code


def final_answer(answer: object) -> None:
    r"""Print the answer as \boxed{…}. The environment then ends the episode."""
    print(f"\\boxed{{{answer}}}")


class _NullStream(io.TextIOBase):
    """A stream that discards all text."""

    def write(self, text: str) -> int:
        return len(text)


def _stream(descriptor: int) -> TextIO:
    """Return a line-buffered text stream, so that output printed before a program is killed is not lost."""
    return open(descriptor, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)


class _Ended(NamedTuple):
    """How a program ended. `error`: one line with the error's type and message, or "" without an error."""

    code: int
    error: str = ""
    traceback: str = ""


def _execute(program: str, namespace: dict[str, Any], reserve: list[bytearray]) -> _Ended:
    try:
        exec(compile(program, NAME, "exec"), namespace)
    except SystemExit as end:
        reserve.clear()
        code = (end.code or 0) & 0xFF if end.code is None or isinstance(end.code, int) else 1
        return _Ended(code, _error_line(end) if code else "")
    except BaseException as error:
        reserve.clear()
        return _Ended(1, _error_line(error), _traceback(error))
    return _Ended(0)


def _error_line(error: BaseException) -> str:
    """Return an error's type and the first line of its message. The program's own code may compute the message, so an
    exception raised there is caught.
    """
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
    """Return the end of the traceback, from the program's first frame on. Return "" if the traceback cannot be
    formatted.
    """
    with contextlib.suppress(BaseException):
        trace = error.__traceback__
        lines = traceback.format_exception(type(error), error, trace and trace.tb_next)
        return "".join(lines)[-MAX_TRACEBACK:]
    return ""


def _write_error(ended: _Ended) -> None:
    """Write the traceback to standard error, with `error` as the last line. Then close standard error."""
    text = ended.traceback.rstrip()
    if text.rpartition("\n")[2] != ended.error:
        text = f"{text}\n{ended.error}"
    left = memoryview(f"\n{text.lstrip()}\n".encode("utf-8", "replace"))
    with contextlib.suppress(OSError):  # the program may have closed it
        while left:
            left = left[os.write(2, left) :]
        os.close(2)
