"""Reads problems from JSON Lines files. Each line has the keys problem and answer, and optionally id, source, level and
subject.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.problems.rows import LocatedRow, ProblemRow
from arlarena.proto.text.files import TextFileError, read_text

_decoder = msgspec.json.Decoder(ProblemRow)


def read_file(path: Path) -> Iterator[LocatedRow]:
    """Yield the rows of a file. Empty lines are skipped.

    Raises:
        ProblemsError: the file cannot be read, or a line is not a valid row. The message names the file and the line.
    """
    try:
        text = read_text(path)
    except OSError as error:
        raise ProblemsError(f"{path}: cannot be read: {error.strerror}") from error
    except TextFileError as error:
        raise ProblemsError(str(error)) from error
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            place = f"{path}, line {number}"
            yield LocatedRow(_row(line, place), place, number)


def _row(line: str, place: str) -> ProblemRow:
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProblemsError(f"{place}: not a JSON object with the keys problem and answer: {error}") from error
