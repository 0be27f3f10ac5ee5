"""Runs a Python program as `__main__`, either in a fork of the zygote (see `arlarena.sandbox`) or in a container.

If the program fails, `run` writes the traceback to standard error. The last line contains the error's type and message.
A container gets only the source code of this module, so the module must not import the sandbox at its top level.
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
# Maximum number of characters of the traceback, and of the error line. Without these limits, an error message with a
# large formula could exceed the output limit.
MAX_TRACEBACK, MAX_LINE = 8192, 1000
RESERVE = 8 << 20  # bytes that `run` frees after an error, so that there is enough memory to report a MemoryError


def load() -> tuple[Callable[[bytes], int], list[Path]]:
    """Load the libraries. Return (`run`, paths that forks may read). The zygote calls this function at its start."""
    from arlarena.sandbox import libraries

    sys.dont_write_bytecode = True
    libraries.preload()
    return run, list(libraries.readable())


def run(payload: bytes) -> int:
    """Run one or more programs in one global namespace, one after the other. Return the exit code of the last program.

    `payload`: a JSON list with the source code of the programs. Only the output of the last program is kept.
    """
    *before, program = json.loads(payload)
    main = ModuleType("__main__")
    main.__dict__["final_answer"] = final_answer
    sys.modules["__main__"], sys.argv = main, [""]
    reserve = [bytearray(RESERVE)]
    random.seed(0)  # each run of the same program draws the same numbers
    numpy.random.seed(0)
    # Programs print numbers such as 2**100000. Python's default limit of 4300 digits would cause an error.
    sys.set_int_max_str_digits(100_000)
    for earlier in before:
        sys.stdout, sys.stderr = _NullStream(), _NullStream()
        _execute(earlier, main.__dict__, [])
    sys.stdout, sys.stderr = streams = _stream(1), _stream(2)
    outcome = _execute(program, main.__dict__, reserve)
    for stream in (sys.stdout, sys.stderr, *streams):
        with contextlib.suppress(BaseException):
            stream.flush()
    if outcome.error:
        _write_error(outcome)
    return outcome.code


def final_answer(answer: object) -> None:
    r"""Print `answer` as \boxed{…}. Programs can call this function: TIR Math ends the episode after this output."""
    print(f"\\boxed{{{answer}}}")


class _NullStream(io.TextIOBase):
    """A stream that discards all text."""

    def write(self, text: str) -> int:
        return len(text)


def _stream(descriptor: int) -> TextIO:
    """Return a text stream that writes to a file descriptor. It writes each complete line at once, so that the output
    is not lost if the program is killed.
    """
    return open(descriptor, "w", encoding="utf-8", errors="replace", closefd=False, buffering=1)


class _Outcome(NamedTuple):
    """How a program ended. `code`: exit code. `error`: one line with the error's type and message; "" if none."""

    code: int
    error: str = ""
    traceback: str = ""


def _execute(program: str, namespace: dict[str, Any], reserve: list[bytearray]) -> _Outcome:
    try:
        exec(compile(program, NAME, "exec"), namespace)
    except SystemExit as end:
        reserve.clear()
        code = (end.code or 0) & 0xFF if end.code is None or isinstance(end.code, int) else 1
        return _Outcome(code, _error_line(end) if code else "")
    except BaseException as error:
        reserve.clear()
        return _Outcome(1, _error_line(error), _traceback(error))
    return _Outcome(0)


def _error_line(error: BaseException) -> str:
    """Return one line with the error's type and the first line of its message.

    The program's own code may compute the message. If this code fails, a placeholder replaces the message.
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
    """Return the last `MAX_TRACEBACK` characters of the error's traceback, without the frame of this module.

    Return "" if the traceback cannot be formatted.
    """
    with contextlib.suppress(BaseException):
        trace = error.__traceback__
        lines = traceback.format_exception(type(error), error, trace and trace.tb_next)
        return "".join(lines)[-MAX_TRACEBACK:]
    return ""


def _write_error(outcome: _Outcome) -> None:
    """Write the traceback, and then the error line, to standard error. Then close standard error."""
    text = outcome.traceback.rstrip()
    if text.rpartition("\n")[2] != outcome.error:
        text = f"{text}\n{outcome.error}"
    left = memoryview(f"\n{text.lstrip()}\n".encode("utf-8", "replace"))
    with contextlib.suppress(OSError):  # the program may have closed standard error
        while left:
            left = left[os.write(2, left) :]
        os.close(2)
