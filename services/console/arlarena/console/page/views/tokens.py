"""Decodes token ids with the tokenizer in the run directory."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from tokenizers import Tokenizer

from arlarena.console.page.reading.run_files import BoundedFiles, DamagedFile

# Maximum size of a tokenizer's file in bytes. The file of a tokenizer with 150,000 tokens has 11 MB.
TOKENIZER_BYTES = 64 << 20


class RunTokenizer:
    """The tokenizer of one run, loaded at its first use. Safe for several threads."""

    def __init__(self, files: BoundedFiles) -> None:
        """Create the object without loading the tokenizer."""
        self._files = files
        self._lock = threading.Lock()
        self._tokenizer: Tokenizer | None = None
        self._tried: tuple[str, ...] = ()

    def _loaded(self) -> Tokenizer | None:
        with self._lock:
            if self._tokenizer is None:
                names = tuple(self._names())
                if names != self._tried:  # a live run may write its tokenizer later
                    self._tried = names
                    self._tokenizer = self._load(names)
            return self._tokenizer

    def _names(self) -> list[str]:
        versions = sorted(path.name for path in (self._files.root / "weights").glob("v*"))
        names = ["policy", "cloned", *(f"weights/{version}" for version in versions[-1:])]
        return [f"{name}/tokenizer.json" for name in names if self._files.state(f"{name}/tokenizer.json")]

    def _load(self, names: Sequence[str]) -> Tokenizer | None:
        for name in names:
            try:
                data = self._files.read(name, TOKENIZER_BYTES)
                if data is not None:
                    return Tokenizer.from_str(data.decode())
            except (DamagedFile, UnicodeDecodeError):
                continue
            except Exception:  # for a malformed tokenizer, the library raises only this type
                continue
        return None

    def text(self, ids: Sequence[int]) -> str | None:
        """Returns the text of token ids, or None if the run has no tokenizer."""
        tokenizer = self._loaded()
        return None if tokenizer is None else str(tokenizer.decode(list(ids), skip_special_tokens=False))

    def texts(self, ids: Sequence[int]) -> list[str] | None:
        """Returns the text of each token, or None if the run has no tokenizer."""
        tokenizer = self._loaded()
        if tokenizer is None:
            return None
        return tokenizer.decode_batch([[number] for number in ids], skip_special_tokens=False)
