"""Text and tokens at the edge of the policy: prompts are rendered and encoded, responses only ever decoded.

A response's ids are what was sampled and what is trained on; its text goes to the environment and is never encoded
again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from arlarena.proto.thoughts import END_THINK, MARKS, THINK

# Marks of thoughts that some tokenizers hold as special tokens; environments read them, so they are text here.
THOUGHT_TAGS = frozenset({THINK, END_THINK, *MARKS, *MARKS.values(), "<|channel|>", "<|message|>"})
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


def _said_by(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def _read(source: Path) -> Any:
    if (source / "tokenizer.json").is_file():
        # The file says everything. The automatic class would import torch: half of a worker's memory and start.
        return PreTrainedTokenizerFast.from_pretrained(source)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(source), local_files_only=source.is_dir())


class Tokens:
    """A policy's tokenizer and chat template."""

    def __init__(self, tokenizer: Any, source: str = "tokenizer", tags: Collection[str] = ()) -> None:
        """`tokenizer`: a fast Hugging Face tokenizer with a chat template and an end-of-sequence token. `tags`: special
        tokens that are text in responses, besides marks of thoughts.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise TokenizerError(f"{source}: only fast tokenizers serve here; save one with a tokenizer.json")
        if not tokenizer.chat_template:
            raise TokenizerError(f"{source}: has no chat template; add chat_template.jinja or tokenizer_config.json")
        if tokenizer.eos_token_id is None:
            raise TokenizerError(f"{source}: names no end-of-sequence token (eos_token)")
        self.end_id = int(tokenizer.eos_token_id)
        self._source = source
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        self._hidden = frozenset(int(i) for i, token in special if token not in THOUGHT_TAGS.union(tags))
        self._atoms = frozenset(tokenizer.added_tokens_decoder)
        self._wrap = self._fast_template()
        self._converses = False
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

    def with_tags(self, tags: Collection[str]) -> Tokens:
        """The same tokenizer, with these special tokens as text in responses: an environment's `Parser.tags`."""
        return Tokens(self._tokenizer, self._source, tags)

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
        rendered = self._wrap(text) if self._wrap is not None else self.render([_said_by("user", text)])
        return self.encode(rendered)

    def following(self, message: str, said: Sequence[int]) -> list[int]:
        """Ids between a response and the next one: the template's end of the assistant's turn, `message` as the next
        user message, and the generation prompt.

        `said`: ids of the response, which are not rendered: a template that rewrites earlier turns, as Qwen3's strips
        their thinking, shows only what it puts after them. Where they close with the template's end of turn, it is not
        repeated; a response that was cut off gets it here, and so does one that closed with another end token.

        Raises:
            TokenizerError: the template does not write one message after the other.
        """
        self._check_that_it_converses()
        turns = (_said_by("user", SENTINEL), _said_by("assistant", SENTINEL), _said_by("user", message))
        glue = self.render(turns).split(SENTINEL, 2)[2]
        # Behind an end token, so that no tokenizer takes it for the beginning of a text and puts a blank before it.
        _, *ids = self.encode(self._tokenizer.eos_token + glue)
        first = ids[:1]
        closed = first == list(said[-1:]) and self._atoms.issuperset(first)
        return ids[1:] if closed else ids

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

    def _check_that_it_converses(self) -> None:
        """Once: each message is shown as it is and exactly once, and the second turn begins as the third does."""
        if self._converses:
            return
        talk = [_said_by(role, SENTINEL) for role in ("user", "assistant", "user", "assistant", "user")]
        try:
            parts, why = self.render(talk).split(SENTINEL), "does not write every message once, one after the other"
        except Exception as error:  # the template is the model author's program: it may raise anything
            parts, why = [], f"refuses a conversation ({error})"
        self._converses = len(parts) == len(talk) + 1 and parts[2] == parts[4]
        if not self._converses:
            raise TokenizerError(
                f"{self._source}: its chat template {why}, so episodes that keep every turn cannot be played; give the "
                f"policy another chat_template.jinja, such as ChatML"
            )

    def _fast_template(self) -> Callable[[str], str] | None:
        """The template as prefix + text + suffix, with the text as it is or stripped; None where neither equals the
        template.

        A template that shows today's date is frozen at start, which keeps one run's prompts alike.
        """
        parts = self.render([_said_by("user", SENTINEL)]).split(SENTINEL)
        if len(parts) != 2:
            return None
        prefix, suffix = parts
        candidates: tuple[Callable[[str], str], ...] = (
            lambda text: prefix + text + suffix,
            lambda text: prefix + text.strip() + suffix,
        )
        expected = [self.render([_said_by("user", probe)]) for probe in PROBES]
        for wrap in candidates:
            if [wrap(probe) for probe in PROBES] == expected:
                return wrap
        return None
