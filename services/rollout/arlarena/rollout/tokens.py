"""Text and tokens at the edge of the policy: prompts are rendered and encoded, responses only ever decoded.

A response's ids are what was sampled and what is trained on; its text goes to the environment and is never encoded
again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

# Reply tags that some tokenizers hold as special tokens. The environment's parser needs them, so they are text here.
TAGS = frozenset({"<think>", "</think>", "<action>", "</action>"})
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# Prompts whose ids are kept: some times the episodes that one worker has in flight.
REMEMBERED = 1024
# A text that no template treats specially and no prompt holds; the template is cut where it appears.
SENTINEL = "arlarena-sentinel-7f3a"
# What the fast path must render like the template: blanks and line ends at the edges, other scripts, markup, quotes,
# nothing.
PROBES = (
    "one line",
    "######\n#_P√_#\n######\nyou 1 2",
    "  blanks at both ends \n",
    "\n{{ braces }} {% and %} <tags> & \"quotes\" 'single' \\ ünïcödé 漢字",
    "",
)


class TokenizerError(ValueError):
    """The tokenizer cannot be loaded or cannot serve; the message names the directory and what is missing."""


def _read(source: Path) -> Any:
    if (source / "tokenizer.json").is_file():
        # The file says everything. The automatic class would import torch: half of a worker's memory and start.
        return PreTrainedTokenizerFast.from_pretrained(source)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(source), local_files_only=source.is_dir())


class Tokens:
    """A policy's tokenizer and chat template."""

    def __init__(self, tokenizer: Any, source: str = "tokenizer") -> None:
        """`tokenizer`: a fast Hugging Face tokenizer with a chat template and an end-of-sequence token."""
        if not getattr(tokenizer, "is_fast", False):
            raise TokenizerError(f"{source}: only fast tokenizers serve here; save one with a tokenizer.json")
        if not tokenizer.chat_template:
            raise TokenizerError(f"{source}: has no chat template; add chat_template.jinja or tokenizer_config.json")
        if tokenizer.eos_token_id is None:
            raise TokenizerError(f"{source}: names no end-of-sequence token (eos_token)")
        self.end_id = int(tokenizer.eos_token_id)
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        self._hidden = frozenset(int(i) for i, token in special if token not in TAGS)
        self._wrap = self._fast_template()
        self._remembered = lru_cache(REMEMBERED)(self._prompt)

    @classmethod
    def load(cls, source: str | Path) -> Tokens:
        """Read a Hugging Face directory, or a model of the hub by its name (`Qwen/Qwen3-4B`).

        Raises:
            TokenizerError: there is no usable tokenizer.
        """
        if not Path(source).is_dir() and not HUB_NAME.fullmatch(str(source)):
            raise TokenizerError(f"{source}: no such directory; give the policy's directory, with its tokenizer.json")
        try:
            tokenizer = _read(Path(source))
        except (OSError, ValueError, KeyError) as error:
            raise TokenizerError(f"{source}: holds no tokenizer that can be read: {error}") from error
        return cls(tokenizer, str(source))

    @property
    def is_fast(self) -> bool:
        """Whether prompts of one user message avoid the template engine."""
        return self._wrap is not None

    def prompt(self, text: str) -> Sequence[int]:
        """Token ids of one user message, generation prompt included, without a system prompt of ours.

        Not to be changed: a text that comes again soon, as in a group whose episodes begin alike, gets the same object.
        """
        return self._remembered(text)

    def _prompt(self, text: str) -> list[int]:
        rendered = self._wrap(text) if self._wrap is not None else self.render([{"role": "user", "content": text}])
        return self.encode(rendered)

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """The chat template over `messages`, generation prompt included."""
        rendered = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return str(rendered)

    def encode(self, text: str) -> list[int]:
        """Ids of a text as it is; names of special tokens in it become those tokens, as in a template's output."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """Text of a response without its special tokens; the reply's tags stay even where they are special."""
        shown = [i for i in ids if i not in self._hidden]
        return str(self._backend.decode(shown, skip_special_tokens=False))

    def reply(self, text: str) -> list[int]:
        """Ids of a demonstrated reply, closed by the end-of-sequence token."""
        return [*self.encode(text), self.end_id]

    def _fast_template(self) -> Callable[[str], str] | None:
        """The template as prefix + text + suffix, with the text as it is or stripped; None where neither equals the
        template.

        A template that shows today's date is frozen at start, which keeps one run's prompts alike.
        """
        parts = self.render([{"role": "user", "content": SENTINEL}]).split(SENTINEL)
        if len(parts) != 2:
            return None
        prefix, suffix = parts
        candidates: tuple[Callable[[str], str], ...] = (
            lambda text: prefix + text + suffix,
            lambda text: prefix + text.strip() + suffix,
        )
        expected = [self.render([{"role": "user", "content": probe}]) for probe in PROBES]
        for wrap in candidates:
            if [wrap(probe) for probe in PROBES] == expected:
                return wrap
        return None
