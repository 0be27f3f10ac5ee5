"""Reads text files of users: UTF-8, with or without a byte-order mark.

    text = read_text(Path("run.toml"))

Editors on Windows write a byte-order mark at the start of a file. In a file that was concatenated from several files,
later lines can also start with a mark. `read_text` removes all these marks. If a file has another encoding, the error
message contains a command that converts the file.
"""

from __future__ import annotations

import codecs
import shlex
from pathlib import Path

BYTE_ORDER_MARK = "\ufeff"
_WIDE_MARKS = {  # UTF-32 first, because its little-endian mark begins with the mark of UTF-16
    codecs.BOM_UTF32_LE: "UTF-32",
    codecs.BOM_UTF32_BE: "UTF-32",
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
}
_GZIP = b"\x1f\x8b"


class TextFileError(ValueError):
    """A file is not UTF-8 text. The message contains the path, the problem and a command that solves the problem."""


def read_text(path: Path) -> str:
    r"""Returns the text of the file `path`. All line ends become `\n`.

    Raises:
        OSError: the file cannot be read.
        TextFileError: the file is not UTF-8.
    """
    return decode_text(path.read_bytes(), path)


def decode_text(data: bytes, path: Path) -> str:
    r"""Returns `data`, the content of the file `path`, as text. All line ends become `\n`.

    Raises:
        TextFileError: `data` is not UTF-8.
    """
    if data.startswith(_GZIP):
        raise TextFileError(f"{path}: is compressed with gzip; unpack it first: gunzip -k {shlex.quote(str(path))}")
    if wide := _wide_encoding(data):
        raise TextFileError(f"{path}: is {wide}, not UTF-8; {_conversion(wide, path)}")
    try:
        text = data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise TextFileError(
            f"{path}: byte 0x{data[error.start]:02x} at offset {error.start} (line {line}) is not UTF-8; save the file "
            f"as UTF-8 or, if it has a Western European encoding, {_conversion('WINDOWS-1252', path)}"
        ) from error
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text.removeprefix(BYTE_ORDER_MARK).replace(f"\n{BYTE_ORDER_MARK}", "\n")


def _wide_encoding(data: bytes) -> str:
    """Returns the name of the encoding if `data` is UTF-16 or UTF-32 (with or without a byte-order mark), else ""."""
    for mark, name in _WIDE_MARKS.items():
        if data.startswith(mark):
            return name
    # All text files of ARLArena begin with an ASCII character. UTF-16 and UTF-32 encode it with additional zero bytes.
    zeros = "".join("0" if byte == 0 else "x" for byte in data[:4])
    return {"x0x0": "UTF-16LE", "0x0x": "UTF-16BE", "x000": "UTF-32LE", "000x": "UTF-32BE"}.get(zeros, "")


def _conversion(encoding: str, path: Path) -> str:
    target = f"{path.stem}-utf8{path.suffix}"
    return f"convert it: iconv -f {encoding} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(target)}"
