"""The bytes that each token of a response adds to the response's text."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_INCOMPLETE = "\ufffd"


def _byte_alphabet() -> dict[str, int]:
    """Returns the byte for each character of a byte-level vocabulary (the inverse of GPT-2's `bytes_to_unicode`)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


_ALPHABET = _byte_alphabet()


def printed(raw: bytes) -> str:
    r"""Returns a token's bytes as text. Each byte of an incomplete character becomes `\xNN`, as in OpenAI's API."""
    return raw.decode(errors="backslashreplace")


class TokenBytes:
    """Returns the bytes that a single token adds to a text.

    The bytes of some tokens are read from the vocabulary: all tokens of a byte-level vocabulary, and byte tokens such
    as `<0xE2>` (SentencePiece). If such a token is only a part of a character, the decoder would return U+FFFD. The
    bytes of all other tokens are the output of the tokenizer's decoder.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._kinds = _decoder_kinds(tokenizer)
        self._cache: dict[int, bytes] = {}
        self._special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
        self._before = self._plain_token()  # see `_from_decoder`

    def is_special(self, token: int) -> bool:
        """True if the token is special: with `skip_special_tokens`, it adds no text."""
        return token in self._special

    def following(self, token: int) -> bytes:
        """Returns the bytes that a token adds to a text after other tokens."""
        raw = self._cache.get(token)
        if raw is None:
            raw = self._from_vocabulary(token)
            raw = self._cache[token] = self._from_decoder(token) if raw is None else raw
        return raw

    def first(self, token: int) -> bytes:
        """Returns the bytes that a token adds as the first token of a text. They can differ from the result of
        `following`, because some decoders remove a space at the start of a text.
        """
        alone = self._decode([token])
        return self.following(token) if _INCOMPLETE in alone else alone.encode()

    def _from_vocabulary(self, token: int) -> bytes | None:
        """Returns the token's bytes according to the vocabulary. Returns None if the decoder must be used."""
        text = self._tokenizer.id_to_token(token) or ""
        if "ByteLevel" in self._kinds:
            known = all(character in _ALPHABET for character in text)
            return bytes(_ALPHABET[character] for character in text) if known else text.encode()
        byte = _BYTE.fullmatch(text) if "ByteFallback" in self._kinds else None
        return bytes([int(byte[1], 16)]) if byte else None

    def _from_decoder(self, token: int) -> bytes:
        """Returns the bytes that the decoder adds for the token after an ordinary token."""
        if self._before is None:
            return self._decode([token]).encode()
        before = self._decode([self._before])
        return self._decode([self._before, token]).removeprefix(before).encode()

    def _plain_token(self) -> int | None:
        """Returns a token that consists of letters and digits, or None if there is no such token."""
        for token in range(self._tokenizer.get_vocab_size()):
            if token not in self._special and (self._tokenizer.id_to_token(token) or "").isalnum():
                return token
        return None

    def _decode(self, ids: list[int]) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False))


def _decoder_kinds(tokenizer: Tokenizer) -> frozenset[str]:
    """Returns the names of the types of the tokenizer's decoder and of all decoders that it contains."""
    state: Any = None if tokenizer.decoder is None else json.loads(tokenizer.decoder.__getstate__())

    def kinds(part: Any) -> Iterator[str]:
        if isinstance(part, dict):
            yield str(part.get("type"))
            for inner in part.get("decoders", ()):
                yield from kinds(inner)

    return frozenset(kinds(state))


class _Characters:
    """Counts the characters of a text that arrives byte by byte. `complete`: the number of complete characters. Invalid
    bytes count as the character U+FFFD.
    """

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.complete = 0

    def add(self, byte: int) -> int:
        """Add the next byte. Returns the index of the character that contains this byte."""
        self.complete += len(self._decoder.decode(bytes([byte])))
        incomplete = bool(self._decoder.getstate()[0])
        return self.complete if incomplete else self.complete - 1


@dataclass(slots=True)
class TokenText:
    """One token of a response. `token`: the token as text. `raw`: the bytes that the token adds to the response's text.
    The characters [begin, end) of the response's text contain these bytes.
    """

    token: str
    raw: bytes
    begin: int
    end: int


class TokenTexts:
    """The texts of all tokens of a growing response."""

    def __init__(self, source: TokenBytes, *, skip_special: bool) -> None:
        self._source, self._skip_special = source, skip_special
        self._characters = _Characters()
        self._started = False
        self.tokens: list[TokenText] = []

    def extend(self, tokens: list[int]) -> None:
        """Add the texts of new tokens. `tokens`: all tokens of the response, old and new."""
        for token in tokens[len(self.tokens) :]:
            self.tokens.append(self._text(token))

    def _text(self, token: int) -> TokenText:
        if self._skip_special and self._source.is_special(token):
            at = self._characters.complete
            return TokenText(printed(self._source.following(token)), b"", at, at)
        raw = self._source.following(token) if self._started else self._source.first(token)
        self._started = True
        places = [self._characters.add(byte) for byte in raw] or [self._characters.complete]
        return TokenText(printed(raw), raw, places[0], places[-1] + bool(raw))

    def count_within(self, characters: int) -> int:
        """Returns the number of tokens whose bytes are all in the first `characters` characters of the text."""
        return next((i for i, text in enumerate(self.tokens) if text.end > characters), len(self.tokens))

    def cut(self, characters: int) -> None:
        """Remove all bytes after the first `characters` characters of the text. Called to remove a stop string."""
        count = _Characters()
        for text in self.tokens:
            text.raw = bytes(byte for byte in text.raw if count.add(byte) < characters)
            text.begin = min(text.begin, characters)
