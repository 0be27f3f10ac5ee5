"""Problems in files of one JSON object a line: {"problem", "answer"}, and, if one likes, id, source, level, subject."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec

from arlarena.env_server.tir_math.errors import ProblemsError
from arlarena.env_server.tir_math.rows import Placed, Row

_decoder = msgspec.json.Decoder(Row)


def read_file(path: Path) -> Iterator[Placed]:
    """The rows of a file; empty lines are none.

    Raises:
        ProblemsError: it cannot be read, or a line is no row; the message names file and line.
    """
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if line.strip():
                    yield Placed(_row(line, f"{path}, line {number}"), f"{path}, line {number}", number)
    except OSError as error:
        raise ProblemsError(f"{path}: cannot be read: {error.strerror}") from error


def _row(line: bytes, place: str) -> Row:
    try:
        return _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ProblemsError(f"{place}: {error}") from error
