"""Converts texts and conversations to token ids, and token ids to text. Checks the limits of requests. Long work runs
in threads, because it would block the event loop.
"""

from __future__ import annotations

import asyncio
import math
from typing import TypeVar

import msgspec

from arlarena.inference.api.errors import RequestError
from arlarena.inference.api.parameters import parse
from arlarena.inference.api.request_limits import RequestLimits
from arlarena.inference.embedded.serving import request_checks
from arlarena.inference.embedded.serving.chat_wire import (
    ChatRequest,
    DetokenizeRequest,
    DetokenizeResponse,
    TokenizeRequest,
    TokenizeResponse,
)
from arlarena.inference.embedded.serving.messages import plain_messages
from arlarena.inference.embedded.serving.request_checks import ServedModel
from arlarena.inference.embedded.text.codec import TextCodec
from arlarena.inference.embedded.text.threads import TextWorkers
from arlarena.proto.policy import CompletionRequest

T = TypeVar("T")

# If a request has at most this many characters, fields and list items, the event loop tokenises it in milliseconds.
# Longer requests are tokenised in a thread.
_SHORT_TEXT = 4096
_LONG_BODY = 1 << 16  # in bytes; a longer body is decoded in a thread
# Maximum number of tokens and log-probs in a response that is encoded on the event loop. The encoding of a longer
# response takes over 20 ms, so it runs in a thread.
LONG_RESPONSE = 20_000


class Reader:
    """Converts the prompts of requests to token ids. Deadlines are in seconds of `time.monotonic`. The methods raise
    RequestError if a value is invalid, a limit is exceeded, or the deadline has passed.
    """

    def __init__(self, text: TextCodec, served: ServedModel, limits: RequestLimits, workers: TextWorkers) -> None:
        self._text, self._served, self._limits, self._workers = text, served, limits, workers

    async def parse(self, body: bytes, kind: type[T]) -> T:
        """Returns a request of type `kind`, decoded from a JSON body. A long body is decoded in a thread."""
        if len(body) <= _LONG_BODY:
            return parse(body, kind)
        return await self._workers.run(lambda: parse(body, kind), math.inf)

    async def completion(self, r: CompletionRequest, deadline: float) -> list[list[int]]:
        """Returns the token ids of each prompt of a completion request. Checks the prompts and the deadline."""

        def read() -> list[list[int]]:
            prompts, tokens = [], 0
            for ids in request_checks.prompts(r.prompt, self._text, special=r.add_special_tokens):
                request_checks.check_deadline(deadline)
                request_checks.check_prompt(ids, self._served, "prompt", r.max_tokens)
                self._limits.check_tokens(tokens := tokens + len(ids), "prompt")
                prompts.append(ids)
            return prompts

        texts = [r.prompt] if isinstance(r.prompt, str) else [item for item in r.prompt if isinstance(item, str)]
        if sum(map(len, texts)) + len(r.prompt) <= _SHORT_TEXT:
            return read()
        self._limits.check_text(max(map(len, texts), default=0), "prompt")
        return await self._workers.run(read, deadline)

    async def conversation(self, r: ChatRequest | TokenizeRequest, deadline: float) -> list[int]:
        """Returns the token ids of a conversation. The chat template first converts the conversation to text."""
        messages = r.messages or []
        size = self._limits.check_conversation(messages, r.chat_template_kwargs)
        plain = plain_messages(messages)
        if not self._text.chat_ready:
            await asyncio.to_thread(self._text.load_chat)
        continued = r.continue_final_message
        generation = r.add_generation_prompt and not continued

        def work() -> list[int]:
            rendered = self._text.render(
                plain, r.chat_template_kwargs, add_generation_prompt=generation, continue_final_message=continued
            )
            self._limits.check_text(len(rendered), "messages")
            return self._text.encode(rendered, special=False)

        return work() if size <= _SHORT_TEXT else await self._workers.run(work, deadline)

    async def tokenize(self, r: TokenizeRequest, deadline: float) -> bytes:
        """Returns the response body of `/tokenize`. Exactly one of `r.prompt` and `r.messages` must be set."""
        if r.prompt is None:
            ids = await self.conversation(r, deadline)
        else:
            text, special = r.prompt, r.add_special_tokens is not False
            self._limits.check_text(len(text), "prompt")
            ids = await self._workers.run(lambda: self._text.encode(text, special=special), deadline)

        def write() -> bytes:
            pieces = [self._text.piece(token) for token in ids] if r.return_token_strs else None
            return msgspec.json.encode(TokenizeResponse(len(ids), self._served.max_length, ids, pieces))

        return await self._workers.run(write, deadline) if len(ids) > LONG_RESPONSE else write()

    async def detokenize(self, r: DetokenizeRequest, deadline: float) -> bytes:
        """Returns the response body of `/detokenize`. The request can have at most `max_text_chars` token ids."""
        if len(r.tokens) > self._limits.text_chars:
            raise RequestError(
                f"tokens has {len(r.tokens)} ids, but this server accepts at most {self._limits.text_chars} "
                "(server setting max_text_chars)",
                param="tokens",
            )

        def work() -> bytes:
            request_checks.check_ids(r.tokens, self._served, "tokens")
            return msgspec.json.encode(DetokenizeResponse(self._text.decode_long(r.tokens)))

        return await self._workers.run(work, deadline)
