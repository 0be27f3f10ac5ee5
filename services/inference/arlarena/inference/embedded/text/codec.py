"""The tokenizer of the served model, stop strings, and the text of a growing response."""

from __future__ import annotations

import inspect
import json
import threading
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from arlarena.inference.api.errors import RequestError
from arlarena.inference.embedded.sequence import StopCheck
from arlarena.inference.embedded.text.token_bytes import TokenBytes, TokenTexts, printed
from arlarena.proto.text.files import read_text

if TYPE_CHECKING:  # the import takes a second, and only chat requests need transformers
    from transformers import PreTrainedTokenizerBase

# A stop string of n bytes is searched in the newest n + _STOP_EXTRA_TOKENS tokens, because some tokens have no text.
_STOP_EXTRA_TOKENS = 32
# Fields of a chat request that are also parameters of transformers' `apply_chat_template`.
_REQUEST_FIELDS = ("messages", "add_generation_prompt", "continue_final_message")
_INCOMPLETE = "\ufffd"  # the decoder returns this character for the bytes of an incomplete character


class TextCodec:
    """The tokenizer of a model. If the model has no tokenizer, the property `tokenizer` raises an error."""

    def __init__(self, tokenizer: Tokenizer | None, directory: Path | None = None) -> None:
        self._tokenizer = tokenizer
        self._directory = directory
        self._chat: PreTrainedTokenizerBase | None = None
        self._token_bytes: TokenBytes | None = None
        self._chat_lock = threading.Lock()

    @classmethod
    def load(cls, *directories: Path) -> TextCodec:
        """Load the tokenizer from the first directory that contains `tokenizer.json`. If there is no such directory,
        return a codec without a tokenizer.
        """
        for directory in directories:
            if (directory / "tokenizer.json").is_file():
                tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
                tokenizer.no_truncation()
                tokenizer.no_padding()
                return cls(tokenizer, directory)
        return cls(None)

    @property
    def present(self) -> bool:
        """True if the model has a tokenizer."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The model's tokenizer.

        Raises:
            RequestError: status 400 if the model has no tokenizer.
        """
        if self._tokenizer is None:
            raise RequestError("the served model has no tokenizer: use token ids (/inference/v1/generate)")
        return self._tokenizer

    def eos_id(self) -> int | None:
        """Returns the id of the end-of-sequence token. The token is read from `tokenizer_config.json`. Returns None if
        there is no such file, the file names no token, or the vocabulary does not contain the token.
        """
        path = None if self._directory is None else self._directory / "tokenizer_config.json"
        if path is None or not path.is_file():
            return None
        named = json.loads(read_text(path)).get("eos_token")
        content = named.get("content") if isinstance(named, dict) else named
        return None if content is None else self.tokenizer.token_to_id(content)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Returns the token ids of `text`. `special`: add the tokenizer's begin and end tokens. This method uses
        `encode_batch_fast`, which releases the GIL. (The tokenizer's method `encode` does not release the GIL.)
        """
        return list(self.tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids)

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Returns the text of token ids. `skip_special`: leave out special tokens."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special))

    def decode_long(self, ids: list[int]) -> str:
        """Returns the text of token ids, including special tokens. Releases the GIL while it works."""
        return str(self.tokenizer.decode_batch([ids], skip_special_tokens=False)[0])

    def piece(self, token: int) -> str:
        """Returns the text that a token adds after other tokens. Special tokens also have text."""
        return printed(self._bytes().following(token))

    def bytes_of(self, token: int, *, skip_special: bool) -> bytes:
        """Returns the bytes that a token adds after other tokens. `skip_special`: a special token adds no bytes."""
        skipped = skip_special and self._bytes().is_special(token)
        return b"" if skipped else self._bytes().following(token)

    def token_texts(self, *, skip_special: bool) -> TokenTexts:
        """Returns an empty `TokenTexts` for a new response. `skip_special`: special tokens add no text."""
        return TokenTexts(self._bytes(), skip_special=skip_special)

    def _bytes(self) -> TokenBytes:
        if self._token_bytes is None:
            self._token_bytes = TokenBytes(self.tokenizer)
        return self._token_bytes

    @property
    def chat_ready(self) -> bool:
        """True if `load_chat` has already loaded the chat template, or if the model has no tokenizer."""
        return self._chat is not None or not self.present

    def load_chat(self) -> None:
        """Import transformers and read the chat template. Call this method in a thread, because it takes a second or
        more.
        """
        with self._chat_lock:  # the lazy imports of transformers are not thread-safe
            if self._chat is None:
                from transformers import AutoTokenizer

                self._chat = AutoTokenizer.from_pretrained(self._directory, local_files_only=True)

    def render(self, messages: list[dict[str, Any]], options: dict[str, Any] | None = None, **flags: Any) -> str:
        """Returns a conversation as text, rendered with the tokenizer's chat template. `options`: variables of the
        template, from the request. `flags`: other keyword arguments of `apply_chat_template`.

        Raises:
            RequestError: status 400 if the model has no tokenizer or no template, if the template refuses the messages,
                or if an option is not allowed (see `_check_options`).
        """
        if self._chat is None:
            _ = self.tokenizer
            self.load_chat()
        assert self._chat is not None
        _check_options(options or {}, inspect.signature(self._chat.apply_chat_template).parameters)
        try:
            rendered = self._chat.apply_chat_template(messages, tokenize=False, **(options or {}), **flags)
        except Exception as error:  # the template is a program by the model's author and can raise any error
            raise RequestError(f"the chat template refused the messages: {error}", param="messages") from error
        return str(rendered)

    def stop_check(self, stops: tuple[str, ...], *, skip_special: bool) -> StopCheck | None:
        """Returns a function that checks whether the newest token completes a stop string. If several stop strings are
        complete, the function returns the string that begins first in the text. If `stops` is empty, this method
        returns None instead of a function.
        """
        if not stops:
            return None
        window = max(len(stop.encode()) for stop in stops) + _STOP_EXTRA_TOKENS

        def check(tokens: list[int]) -> str | None:
            tail = self.decode(tokens[-window:], skip_special=skip_special)
            matches = [(tail.find(stop), stop) for stop in stops if stop in tail]
            return min(matches)[1] if matches else None

        return check


def _check_options(options: dict[str, Any], parameters: Iterable[str]) -> None:
    """Refuse options with the same name as a parameter of transformers' `apply_chat_template`. The options `tools` and
    `documents` are allowed, because `apply_chat_template` passes them to the template. `parameters`: the names of the
    parameters.

    Raises:
        RequestError: status 400 if an option is refused.
    """
    for name in ({"messages", *parameters} - {"tools", "documents"}) & options.keys():
        hint = "it is a field of the request itself" if name in _REQUEST_FIELDS else "leave it out"
        raise RequestError(
            f"chat_template_kwargs.{name} is not a variable of the chat template: {hint}",
            param=f"chat_template_kwargs.{name}",
        )


def cut(text: str, stop: str | None, *, include: bool) -> str:
    """Returns the part of `text` before the stop string `stop`. `include`: also return the stop string. If `stop` is
    None or does not occur, returns the complete text.
    """
    at = -1 if stop is None else text.find(stop)
    if stop is None or at < 0:
        return text
    return text[: at + len(stop)] if include else text[:at]


class GrowingText:
    """Returns the text of a growing response in parts (see `advance`). A part that was returned never changes later.
    Until the response is finished, `advance` returns no incomplete character, no stop string, and no text after a stop
    string. It also does not return the end of the text if this end could be the beginning of a stop string.
    """

    def __init__(self, text: TextCodec, stops: tuple[str, ...], *, skip_special: bool, include_stop: bool) -> None:
        self._text = text
        self._stops = stops
        self._skip_special = skip_special
        self._include_stop = include_stop
        self.sent = 0  # the number of characters that `advance` has returned

    def advance(self, tokens: list[int], *, finished: bool, stop: str | None) -> str:
        """Returns the next part of the text, after the parts of earlier calls. `tokens`: all tokens of the response.
        `finished`: whether the response is complete. `stop`: the stop string that ended the response, or None.
        """
        text = self._text.decode(tokens, skip_special=self._skip_special)
        text = cut(text, stop, include=self._include_stop) if finished else self._before_stop(text.rstrip(_INCOMPLETE))
        new, self.sent = text[self.sent :], max(self.sent, len(text))
        return new

    def _before_stop(self, text: str) -> str:
        # The engine's thread appends the last token before the event loop knows that the response is finished. So
        # `text` can already contain a complete stop string.
        text = text[: min((at for stop in self._stops if (at := text.find(stop)) >= 0), default=len(text))]
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return text[:-size]
        return text
