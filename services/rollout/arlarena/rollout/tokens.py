"""The policy's tokenizer and chat template. Prompts are rendered and encoded; responses are only decoded.

Training uses the sampled token ids of a response. The environment receives the response as text. The text is never
encoded to token ids again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from arlarena.proto.thoughts import END_THINK, MARKS, THINK

# Tags around a thought. Environments parse these tags. Decoded text therefore contains them, even if they are special
# tokens of the tokenizer.
THOUGHT_TAGS = frozenset({THINK, END_THINK, *MARKS, *MARKS.values(), "<|channel|>", "<|message|>"})
HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+")
# The number of prompts in the cache: a few times the number of episodes that one worker plays at the same time.
CACHED_PROMPTS = 1024
# A placeholder for the text of a message. No chat template changes this text, and no prompt contains it.
SENTINEL = "arlarena-sentinel-7f3a"
# Test texts with whitespace at the ends, other scripts, markup and quotes, and an empty text. `_fast_template` compares
# its own prompt with the chat template's prompt for each of them.
PROBES = (
    "one line",
    "######\n#_P√_#\n######\nyou 1 2",
    "  blanks at both ends \n",
    "\n{{ braces }} {% and %} <tags> & \"quotes\" 'single' \\ ünïcödé 漢字",
    "",
)


class TokenizerError(ValueError):
    """The tokenizer cannot be loaded or used. The message names the tokenizer's directory and the cause."""


def _chat_message(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def _read(source: Path) -> Any:
    if (source / "tokenizer.json").is_file():
        # AutoTokenizer would import torch. With torch, a worker would need twice the memory and start time.
        return PreTrainedTokenizerFast.from_pretrained(source)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(source), local_files_only=source.is_dir())


class Tokens:
    """A policy's tokenizer and chat template."""

    def __init__(self, tokenizer: Any, source: str = "tokenizer", tags: Collection[str] = ()) -> None:
        """`tokenizer`: a fast Hugging Face tokenizer with a chat template and an end-of-sequence token.

        `tags`: special tokens that are kept in decoded text, in addition to `THOUGHT_TAGS`.
        """
        if not getattr(tokenizer, "is_fast", False):
            raise TokenizerError(f"{source}: is not a fast tokenizer; save it as a fast tokenizer (tokenizer.json)")
        if not tokenizer.chat_template:
            raise TokenizerError(f"{source}: has no chat template; add chat_template.jinja or tokenizer_config.json")
        if tokenizer.eos_token_id is None:
            raise TokenizerError(f"{source}: has no end-of-sequence token; set eos_token in tokenizer_config.json")
        self.end_id = int(tokenizer.eos_token_id)
        self._source = source
        self._tokenizer = tokenizer
        self._backend = tokenizer.backend_tokenizer
        special = zip(tokenizer.all_special_ids, tokenizer.all_special_tokens, strict=True)
        self._hidden_ids = frozenset(int(i) for i, token in special if token not in THOUGHT_TAGS.union(tags))
        self._added_token_ids = frozenset(tokenizer.added_tokens_decoder)
        self._wrap = self._fast_template()
        self._multi_turn_checked = False
        self._cached_prompt = lru_cache(CACHED_PROMPTS)(self._prompt)

    @classmethod
    def load(cls, source: str | Path) -> Tokens:
        """Load a tokenizer from a Hugging Face directory, or from the Hub by name (`Qwen/Qwen3-4B`).

        Raises:
            TokenizerError: `source` contains no usable tokenizer.
        """
        if not Path(source).is_dir() and not HUB_NAME.fullmatch(str(source)):
            raise TokenizerError(f"{source}: no such directory; give the policy's directory, with its tokenizer.json")
        try:
            tokenizer = _read(Path(source))
        except (OSError, ValueError, KeyError) as error:
            raise TokenizerError(f"{source}: the tokenizer cannot be read: {error}") from error
        return cls(tokenizer, str(source))

    def with_tags(self, tags: Collection[str]) -> Tokens:
        """Returns a copy that keeps the special tokens `tags` (an environment's `Parser.tags`) in decoded text."""
        return Tokens(self._tokenizer, self._source, tags)

    @property
    def is_fast(self) -> bool:
        """True if a prompt with one user message is built as prefix + text + suffix, without the template engine."""
        return self._wrap is not None

    def prompt(self, text: str) -> Sequence[int]:
        """Returns the token ids of a chat with one user message, `text`, followed by the generation prompt.

        Results are cached, because the episodes of a group start with the same text. Do not modify a result.
        """
        return self._cached_prompt(text)

    def _prompt(self, text: str) -> list[int]:
        rendered = self._wrap(text) if self._wrap is not None else self.render([_chat_message("user", text)])
        return self.encode(rendered)

    def following(self, message: str, response_ids: Sequence[int]) -> list[int]:
        """Returns the token ids between two responses: the template's end of the assistant turn, `message` as the
        next user message, and the generation prompt.

        `response_ids`: the ids of the response before `message`. The template could change a rendered response: Qwen3's
        template removes thoughts from earlier turns. The response is therefore not rendered. If the response already
        ends with the end-of-turn token, the returned ids do not repeat this token.

        Raises:
            TokenizerError: the template does not support conversations of several turns.
        """
        self._check_multi_turn()
        turns = (_chat_message("user", SENTINEL), _chat_message("assistant", SENTINEL), _chat_message("user", message))
        separator = self.render(turns).split(SENTINEL, 2)[2]
        # Some tokenizers add a space at the start of a text. The end token in front prevents this space.
        _, *ids = self.encode(self._tokenizer.eos_token + separator)
        first = ids[:1]
        closed = first == list(response_ids[-1:]) and self._added_token_ids.issuperset(first)
        return ids[1:] if closed else ids

    def render(self, messages: Sequence[dict[str, Any]]) -> str:
        """Returns `messages` rendered with the chat template, followed by the generation prompt."""
        rendered = self._tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=True)
        return str(rendered)

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of `text`. Names of special tokens in `text` become special tokens."""
        ids: list[int] = self._backend.encode(text, add_special_tokens=False).ids
        return ids

    def text(self, ids: Sequence[int]) -> str:
        """Decode a response. Special tokens are removed, except `THOUGHT_TAGS` and the environment's tags."""
        shown = [i for i in ids if i not in self._hidden_ids]
        return str(self._backend.decode(shown, skip_special_tokens=False))

    def reply(self, text: str) -> list[int]:
        """Returns the token ids of an expert's or a teacher's reply, followed by the end-of-sequence token."""
        return [*self.encode(text), self.end_id]

    def _check_multi_turn(self) -> None:
        """Check that the template supports several turns. After a successful check, later calls do nothing.

        The template must render each message unchanged and exactly once. The text between an assistant message and the
        next user message must always be the same.
        """
        if self._multi_turn_checked:
            return
        conversation = [_chat_message(role, SENTINEL) for role in ("user", "assistant", "user", "assistant", "user")]
        try:
            parts, why = self.render(conversation).split(SENTINEL), "does not render every message once, in sequence"
        except Exception as error:  # a template is a program from the model's author, so it may raise any exception
            parts, why = [], f"refuses a conversation ({error})"
        self._multi_turn_checked = len(parts) == len(conversation) + 1 and parts[2] == parts[4]
        if not self._multi_turn_checked:
            raise TokenizerError(
                f"{self._source}: its chat template {why}, so multi-turn prompts cannot be built; give the "
                f"policy another chat_template.jinja, such as ChatML"
            )

    def _fast_template(self) -> Callable[[str], str] | None:
        """Returns a function that builds the prompt as prefix + text + suffix, with the text unchanged or stripped.

        Returns None if both forms differ from the output of the chat template. If the template inserts the current
        date, the prompts of the run keep the date of this call.
        """
        parts = self.render([_chat_message("user", SENTINEL)]).split(SENTINEL)
        if len(parts) != 2:
            return None
        prefix, suffix = parts
        candidates: tuple[Callable[[str], str], ...] = (
            lambda text: prefix + text + suffix,
            lambda text: prefix + text.strip() + suffix,
        )
        expected = [self.render([_chat_message("user", probe)]) for probe in PROBES]
        for wrap in candidates:
            if [wrap(probe) for probe in PROBES] == expected:
                return wrap
        return None
