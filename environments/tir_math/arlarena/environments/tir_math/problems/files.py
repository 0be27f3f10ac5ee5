"""Problems in files of one JSON object a line: {"problem", "answer"}, and, if one likes, id, source, level, subject."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from arlarena.environments.tir_math.errors import ProblemsError
from arlarena.environments.tir_math.problems.rows import Placed, ProblemRow
from arlarena.proto.text.files import TextFileError, read_text

_decoder = msgspec.json.Decoder(ProblemRow)


def read_file(path: Path) -> Iterator[Placed]:
    """The rows of a file; empty lines are none.

    Raises:
        ProblemsError: it cannot be read, or a line is no row; the message names file and line.
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
            yield Placed(_row(line, place), place, number)


def _row(line: str, place: str) -> ProblemRow:
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise ProblemsError(f"{place}: no JSON object of a problem: {error}") from error
