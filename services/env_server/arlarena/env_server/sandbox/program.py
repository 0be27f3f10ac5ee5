"""What a fork of the zygote, or a container, does: run a Python program as `__main__`, and print its traceback where it
raises. A container is given the text of this module, so it stands alone.
"""

from __future__ import annotations

import contextlib
import io
import json
import random
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any, TextIO

import numpy

NAME = "<program>"


def load() -> tuple[Callable[[bytes], int], list[Path]]:
    """See `zygote`."""
    from arlarena.env_server.sandbox import libraries

    sys.dont_write_bytecode = True
    libraries.preload()
    return run, list(libraries.readable())


def run(payload: bytes) -> int:
    """Run the last of a JSON list of programs in what the others have made. Returns its exit code."""
    *before, program = json.loads(payload)
    main = ModuleType("__main__")
    main.__dict__["final_answer"] = final_answer
    sys.modules["__main__"], sys.argv = main, [""]
    random.seed(0)  # the same program draws the same numbers
    numpy.random.seed(0)
    sys.set_int_max_str_digits(100_000)  # 2**10000 is asked for more often than a quadratic algorithm is abused
    for earlier in before:
        sys.stdout, sys.stderr = _Nowhere(), _Nowhere()
        _executed(earlier, main.__dict__)
    sys.stdout, sys.stderr = _stream(1), _stream(2)
    code = _executed(program, main.__dict__)
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(BaseException):
            stream.flush()
    return code


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


def _executed(program: str, namespace: dict[str, Any]) -> int:
    try:
        exec(compile(program, NAME, "exec"), namespace)
    except SystemExit as end:
        return _exit_code(end.code)
    except BaseException as error:
        _report(error)
        return 1
    return 0


def _exit_code(code: Any) -> int:
    if code is None or isinstance(code, int):
        return (code or 0) & 0xFF
    with contextlib.suppress(BaseException):
        sys.stderr.write(f"{code}\n")
    return 1


def _report(error: BaseException) -> None:
    """The traceback, from the program's own lines on. Its text is the program's too, and may fail in any way."""
    with contextlib.suppress(BaseException):
        trace = error.__traceback__
        lines = traceback.format_exception(type(error), error, trace and trace.tb_next)
        sys.stderr.write("".join(lines))
