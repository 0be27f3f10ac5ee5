"""Reads JSON files. A large array is read one object at a time. The entries of an object are not decoded."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

import msgspec

from arlarena.environments.webshop.errors import CatalogueError

CHUNK = 1 << 22  # characters per read
LONGEST = 1 << 25  # maximum characters of an object; in a longer object, a bracket is probably missing
WHITE_SPACE = " \t\r\n"
# First bytes of files that are not JSON in UTF-8, with the format of the file and the fix.
OTHER_FILES = {
    b"\x1f\x8b": ("compressed with gzip", "decompress it with gunzip"),
    b"PK\x03\x04": ("a zip archive", "extract its files"),
    b"BZh": ("compressed with bzip2", "decompress it with bunzip2"),
    b"\xfd7zXZ": ("compressed with xz", "decompress it with unxz"),
    b"\x28\xb5\x2f\xfd": ("compressed with Zstandard", "decompress it with unzstd"),
    b"<": ("a web page", "download the file again; a page of the download site was stored instead"),
    b"version https://git-lfs": ("a pointer of Git LFS", "get the file with git lfs pull"),
}
WIDE = ("UTF-16 or UTF-32", "convert it to UTF-8")
_decoder = json.JSONDecoder()


class ReadPosition:
    """How far a file has been read, for a progress bar. `bytes`: the position in bytes."""

    bytes = 0


def read_array(path: Path, position: ReadPosition | None = None) -> Iterator[Any]:
    """Yield the elements of a JSON array. `position` is updated while the file is read.

    Raises:
        CatalogueError: the file cannot be read, or is not an array of JSON values. The message names the file and the
            position.
    """
    try:
        with path.open("rb") as file:
            _check_beginning(path, file.read(32))
        with path.open(encoding="utf-8-sig") as file:
            yield from _Stream(path, file, position or ReadPosition()).elements()
    except OSError as error:
        raise unreadable(path, error) from error
    except UnicodeDecodeError as error:
        wrong = error.object[error.start : error.start + 20]
        raise CatalogueError(
            f"{path}: not UTF-8: {error.reason} at the bytes {wrong!r}; convert it to UTF-8"
        ) from error


def read_object(path: Path) -> dict[str, msgspec.Raw]:
    """Return the values of a JSON object by key, without decoding them.

    Raises:
        CatalogueError: the file cannot be read, or is not a JSON object.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise unreadable(path, error) from error
    _check_beginning(path, content[:32])
    if content.startswith(codecs.BOM_UTF8):
        content = content[len(codecs.BOM_UTF8) :]
    try:
        return msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise CatalogueError(
            f"{path}: invalid or truncated JSON ({error}); it must be an object whose keys are asins; download the "
            "file again"
        ) from error


def unreadable(path: Path, error: OSError) -> CatalogueError:
    """Return the error for a file that cannot be read."""
    return CatalogueError(f"{path}: cannot be read: {error.strerror}; let the user of this process read the file")


def _check_beginning(path: Path, beginning: bytes) -> None:
    """Check that a file with these first bytes can be JSON in UTF-8.

    Raises:
        CatalogueError: the file has another format or another encoding.
    """
    known = next((text for start, text in OTHER_FILES.items() if beginning.startswith(start)), None)
    if known is None and (beginning.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in beginning[:4]):
        known = WIDE
    if known:
        raise CatalogueError(f"{path}: is {known[0]}, not JSON in UTF-8; {known[1]}")


class _Stream:
    """Reads the file through a window: a part of the file's text.

    `_text`: the window. `_before`: number of characters before the window. `_at`: position in the window. `_number`:
    number of elements read so far.
    """

    def __init__(self, path: Path, file: TextIO, position: ReadPosition) -> None:
        self._path, self._file, self._position = path, file, position
        self._text, self._before, self._at, self._number = "", 0, 0, 0

    def elements(self) -> Iterator[Any]:
        self._expect("[")
        while self._next() != "]":
            if self._number:
                self._expect(",")
            yield self._element()
            self._number += 1
        self._at += 1
        self._expect_end()

    def _more(self) -> bool:
        """Append the next chunk of the file to the window, and drop the text before `_at`. Return False at the end of
        the file.
        """
        chunk = self._file.read(CHUNK)
        self._position.bytes = self._file.buffer.tell()
        self._before += self._at
        self._text, self._at = self._text[self._at :] + chunk, 0
        return bool(chunk)

    def _skip_white_space(self) -> bool:
        """Consume white space. Return False at the end of the file."""
        while True:
            while self._at < len(self._text) and self._text[self._at] in WHITE_SPACE:
                self._at += 1
            if self._at < len(self._text):
                return True
            if not self._more():
                return False

    def _next(self) -> str:
        """Return the next character that is not white space, without consuming it."""
        if not self._skip_white_space():
            raise self._error("the file is truncated: it ends", self._before + self._at)
        return self._text[self._at]

    def _expect_end(self) -> None:
        if self._skip_white_space():
            raise self._error("the array ends, but more text follows", self._before + self._at)

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
            except ValueError as error:  # Python refuses integers of more than 4,300 digits
                raise self._error(f"a number that cannot be read ({error})", self._before + self._at) from error
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
    position of the error to the end.
    """
    if error.msg.startswith("Unterminated string"):
        return True
    # Apart from strings, the longest pieces that can be incomplete at the end of the text are "false" and escapes such
    # as "\u20ac".
    cut = rest.strip()
    return len(cut) < len("\\u20ac") and not cut.startswith((",", ":", "]", "}"))
