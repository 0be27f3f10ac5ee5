"""Between text and token ids: the served directory's tokenizer, stop strings, text that grows token by token."""

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
from arlarena.inference.embedded.text.token_bytes import Spelling, TokenBytes, printed
from arlarena.proto.text.files import read_text

if TYPE_CHECKING:  # transformers takes a second to import and only chats need it
    from transformers import PreTrainedTokenizerBase

# A stop string is looked for in the newest tokens only: so many more than it has bytes, as some tokens have no text.
_STOP_SLACK = 32
_REQUEST_FIELDS = ("messages", "add_generation_prompt", "continue_final_message")
_INCOMPLETE = "\ufffd"  # what a decoder writes for bytes that are not yet a whole character


class TextCodec:
    """A tokenizer. A directory without one is served all the same: then only routes that need text refuse."""

    def __init__(self, tokenizer: Tokenizer | None, directory: Path | None = None) -> None:
        self._tokenizer = tokenizer
        self._directory = directory
        self._chat: PreTrainedTokenizerBase | None = None
        self._token_bytes: TokenBytes | None = None
        self._chat_lock = threading.Lock()

    @classmethod
    def load(cls, *directories: Path) -> TextCodec:
        """The tokenizer of the first directory that has a `tokenizer.json`."""
        for directory in directories:
            if (directory / "tokenizer.json").is_file():
                tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
                tokenizer.no_truncation()
                tokenizer.no_padding()
                return cls(tokenizer, directory)
        return cls(None)

    @property
    def present(self) -> bool:
        """Whether the model came with a tokenizer."""
        return self._tokenizer is not None

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            RequestError: the model came without one.
        """
        if self._tokenizer is None:
            raise RequestError("the served model has no tokenizer: use token ids (/inference/v1/generate)")
        return self._tokenizer

    def eos_id(self) -> int | None:
        """The id of the tokenizer's own end-of-sequence token, where `tokenizer_config.json` names one."""
        path = None if self._directory is None else self._directory / "tokenizer_config.json"
        if path is None or not path.is_file():
            return None
        named = json.loads(read_text(path)).get("eos_token")
        content = named.get("content") if isinstance(named, dict) else named
        return None if content is None else self.tokenizer.token_to_id(content)

    def encode(self, text: str, *, special: bool = True) -> list[int]:
        """Token ids of `text`, with the tokenizer's begin and end marks if `special`. Other threads run meanwhile, as
        they would not with the tokenizer's `encode`.
        """
        return list(self.tokenizer.encode_batch_fast([text], add_special_tokens=special)[0].ids)

    def decode(self, ids: list[int], *, skip_special: bool = True) -> str:
        """Text of token ids."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=skip_special))

    def decode_long(self, ids: list[int]) -> str:
        """Text of token ids, special tokens included. Other threads run meanwhile."""
        return str(self.tokenizer.decode_batch([ids], skip_special_tokens=False)[0])

    def piece(self, token: int) -> str:
        """Text of one token behind others, special tokens included."""
        return printed(self._bytes().behind(token))

    def bytes_of(self, token: int, *, skip_special: bool) -> bytes:
        """The bytes that one token behind others puts into a text."""
        skipped = skip_special and self._bytes().is_special(token)
        return b"" if skipped else self._bytes().behind(token)

    def spelling(self, *, skip_special: bool) -> Spelling:
        """For a response that begins."""
        return Spelling(self._bytes(), skip_special=skip_special)

    def _bytes(self) -> TokenBytes:
        if self._token_bytes is None:
            self._token_bytes = TokenBytes(self.tokenizer)
        return self._token_bytes

    @property
    def chat_ready(self) -> bool:
        """Whether `chat` answers at once."""
        return self._chat is not None or not self.present

    def load_chat(self) -> None:
        """Import transformers and read the chat template; takes a second or more, so run it in a thread. Of several
        threads one does it: transformers imports its parts on first use, and is not made for several threads that do.
        """
        with self._chat_lock:
            if self._chat is None:
                from transformers import AutoTokenizer

                self._chat = AutoTokenizer.from_pretrained(self._directory, local_files_only=True)

    def render(self, messages: list[dict[str, Any]], options: dict[str, Any] | None = None, **flags: Any) -> str:
        """A conversation through the tokenizer's chat template. `options` are variables of the template, `flags`
        parameters of transformers.

        Raises:
            RequestError: there is no template, it refuses the messages, or an option is no variable of a template.
        """
        if self._chat is None:
            _ = self.tokenizer
            self.load_chat()
        assert self._chat is not None
        _check_options(options or {}, inspect.signature(self._chat.apply_chat_template).parameters)
        try:
            rendered = self._chat.apply_chat_template(messages, tokenize=False, **(options or {}), **flags)
        except Exception as error:  # the template is the model author's program: it may raise anything
            raise RequestError(f"the chat template refused the messages: {error}", param="messages") from error
        return str(rendered)

    def stop_check(self, stops: tuple[str, ...], *, skip_special: bool) -> StopCheck | None:
        """A check whether the newest token completes one of `stops`; the earliest in the text counts."""
        if not stops:
            return None
        window = max(len(stop.encode()) for stop in stops) + _STOP_SLACK

        def check(tokens: list[int]) -> str | None:
            tail = self.decode(tokens[-window:], skip_special=skip_special)
            found = [(tail.find(stop), stop) for stop in stops if stop in tail]
            return min(found)[1] if found else None

        return check


def _check_options(options: dict[str, Any], parameters: Iterable[str]) -> None:
    """Refuse options that would change how transformers applies the template."""
    for name in ({"messages", *parameters} - {"tools", "documents"}) & options.keys():
        hint = "it is a field of the request itself" if name in _REQUEST_FIELDS else "leave it out"
        raise RequestError(
            f"chat_template_kwargs.{name} is not a variable of the template: {hint}",
            param=f"chat_template_kwargs.{name}",
        )


def cut(text: str, stop: str | None, *, include: bool) -> str:
    """`text` up to a stop string, which is kept if `include`."""
    at = -1 if stop is None else text.find(stop)
    if stop is None or at < 0:
        return text
    return text[: at + len(stop)] if include else text[:at]


class GrowingText:
    """Text of a response while it grows: what `advance` returned once is never taken back.

    A character whose last bytes are missing is held back, and so is an end that may become a stop string.
    """

    def __init__(self, text: TextCodec, stops: tuple[str, ...], *, skip_special: bool, include_stop: bool) -> None:
        self._text = text
        self._stops = stops
        self._skip_special = skip_special
        self._include_stop = include_stop
        self.sent = 0  # characters that `advance` has returned

    def advance(self, tokens: list[int], *, finished: bool, stop: str | None) -> str:
        """The text that is new since the last call."""
        whole = self._text.decode(tokens, skip_special=self._skip_special)
        if finished:
            whole = cut(whole, stop, include=self._include_stop)
        else:
            whole = self._without_open_end(whole.rstrip(_INCOMPLETE))
        new, self.sent = whole[self.sent :], max(self.sent, len(whole))
        return new

    def _without_open_end(self, text: str) -> str:
        longest = max((len(stop) - 1 for stop in self._stops), default=0)
        for size in range(min(longest, len(text)), 0, -1):
            if any(stop.startswith(text[-size:]) for stop in self._stops):
                return text[:-size]
        return text
