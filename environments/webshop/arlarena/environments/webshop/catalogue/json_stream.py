"""Reads a JSON array of objects from a large file, one object at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from arlarena.environments.webshop.errors import CatalogueError

CHUNK = 1 << 22  # characters read at once
LONGEST = 1 << 25  # maximum characters of an object; in a longer object, a bracket is probably missing
WHITE_SPACE = " \t\r\n"
_decoder = json.JSONDecoder()


def read_array(path: Path) -> Iterator[Any]:
    """Yield the elements of a JSON array.

    Raises:
        CatalogueError: the file cannot be read, or is not an array of JSON values. The message names the file and the
            position.
    """
    try:
        with path.open(encoding="utf-8-sig") as file:
            yield from _Stream(path, file).elements()
    except OSError as error:
        raise CatalogueError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise CatalogueError(
            f"{path}: not UTF-8: {error.reason} in the block that begins {error.object[:20]!r}"
        ) from error


class _Stream:
    """Reads the file through a window, which is a part of its text.

    `_text`: the window. `_before`: number of characters before the window. `_at`: position in the window. `_number`:
    number of elements read so far.
    """

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path, self._file = path, file
        self._text, self._before, self._at, self._number = "", 0, 0, 0

    def elements(self) -> Iterator[Any]:
        self._expect("[")
        if self._next() == "]":
            return
        while True:
            yield self._element()
            self._number += 1
            if self._next() == "]":
                return
            self._expect(",")

    def _more(self) -> bool:
        """Append the next chunk of the file to the window, and drop the text before `_at`. Return False at the end of
        the file.
        """
        chunk = self._file.read(CHUNK)
        self._before += self._at
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)

    def _next(self) -> str:
        """Return the next character that is not white space, without consuming it."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in WHITE_SPACE:
                self._at += 1
            if self._at < len(self._text):
                return self._text[self._at]
            if not self._more():
                raise self._error("the file is truncated: it ends", self._before + self._at)

    def _expect(self, character: str) -> None:
        if self._next() != character:
            raise self._error(f"no JSON array of products: {character!r} is missing", self._before + self._at)
        self._at += 1

    def _element(self) -> Any:
        self._next()
        while True:
            try:
                value, end = _decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                place, rest = self._before + error.pos, self._text[error.pos :]
                too_long = len(self._text) - self._at >= LONGEST
                if not too_long and self._more():
                    continue
                if not too_long and _may_go_on(error, rest):
                    raise self._error("the file is truncated: it ends", self._before + len(self._text)) from error
                raise self._error(f"invalid JSON ({error.msg})", place) from error
            except RecursionError as error:
                raise self._error("invalid JSON (nested too deeply)", self._before + self._at) from error
            read = end - self._at
            # A number at the end of the window may continue with ".5" or "e+5" in the next chunk.
            if end + 2 >= len(self._text) and isinstance(value, (int, float)) and self._more():
                continue
            self._at += read
            return value

    def _error(self, problem: str, at: int) -> CatalogueError:
        """Return the error. `at`: position in the file, in characters."""
        place = f"at character {at:,}, in product {self._number + 1:,} of the file"
        fix = "download or write the file again"
        return CatalogueError(f"{self._path}: {problem} {place}; {fix}")


def _may_go_on(error: json.JSONDecodeError, rest: str) -> bool:
    """Return whether the parser may have failed only because the text ends within a token. `rest`: the text from the
    error on.
    """
    # The longest tokens that the end of the text can cut are "false" and escapes such as "\u20ac".
    return error.msg.startswith("Unterminated string") or len(rest.strip()) < len("\\u20ac")
