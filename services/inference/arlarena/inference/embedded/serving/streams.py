"""Streamed responses. After each step of the engine, an event is sent for each choice with new tokens."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.embedded.serving.chat_wire import ChatChunk, ChatChunkChoice, ChatMessage
from arlarena.inference.embedded.serving.responses import ResponseBuilder
from arlarena.inference.embedded.text.codec import GrowingText
from arlarena.inference.embedded.text.token_bytes import TokenText, TokenTexts
from arlarena.proto.policy import CompletionChoice, CompletionResponse, GenerateResponse

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class StreamCursor:
    """The part of one choice that is sent in the current event: the tokens [`begin`, `end`) of `sequence`. `index`: the
    index of the choice. `closed`: True if the current event is the last event of the choice.
    """

    index: int
    sequence: Sequence
    begin: int = 0
    end: int = 0
    closed: bool = False

    def advance(self) -> bool:
        """Move to the tokens that are new since the last call. Returns True if there is an event to send. The engine
        appends to the list `ranks` last, so the other lists contain the data of the first `len(ranks)` tokens.
        """
        if self.closed:
            return False
        self.closed = self.sequence.delivered
        self.begin, self.end = self.end, len(self.sequence.ranks)
        return self.closed or self.end > self.begin


@dataclass(slots=True)
class SentTokens:
    """Counts the tokens of one choice whose log-probs have been sent. `sent`: the number of these tokens. The log-probs
    of a token are sent only when the complete text of the token has been sent. `texts`: the texts of the choice's
    tokens; None if no log-probs are requested.
    """

    texts: TokenTexts | None
    sent: int = 0

    def advance(self, cursor: StreamCursor, characters_sent: int) -> tuple[int, list[TokenText] | None]:
        """Returns (begin, tokens). `tokens`: the tokens whose log-probs are sent in the current event; None if no
        log-probs are requested. `begin`: the index of the first of these tokens.

        The argument `characters_sent` is the number of characters of the response that have been sent. This method
        returns a token when all characters of the token have been sent. The last call for a choice returns all
        remaining tokens. If a stop string ended the response, the tokens contain no text after the end of the response.
        """
        begin, s = self.sent, cursor.sequence
        if self.texts is None:
            return begin, None
        self.texts.extend(s.tokens[: cursor.end])
        if cursor.closed and isinstance(s.stop_reason, str):
            self.texts.cut(characters_sent)
        self.sent = len(self.texts.tokens) if cursor.closed else max(begin, self.texts.count_within(characters_sent))
        return begin, self.texts.tokens[begin : self.sent]


@dataclass(slots=True)
class Stream:
    """A stream of one response. `return_ids`: whether events contain token ids. `include_usage`: whether an additional
    last event contains the token counts. `cursors`: the `StreamCursor` of each choice.
    """

    builder: ResponseBuilder
    return_ids: bool
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))
    cursors: list[StreamCursor] = field(init=False)

    def __post_init__(self) -> None:
        self.cursors = [StreamCursor(index, sequence) for index, sequence in enumerate(self.builder.sequences)]

    def updated_cursors(self) -> Iterator[StreamCursor]:
        """Yields the cursor of each choice that has an event to send, and moves the cursor to the new tokens."""
        return (cursor for cursor in self.cursors if cursor.advance())

    def first_prompt(self, cursor: StreamCursor) -> list[int] | None:
        """Returns the prompt's token ids if the client has requested token ids and the current event is the first event
        of the choice. Otherwise returns None.
        """
        return cursor.sequence.prompt if self.return_ids and cursor.begin == 0 else None

    def sent_tokens(self) -> list[SentTokens]:
        """Returns one `SentTokens` for each choice."""
        params, text = self.builder.plan.params, self.builder.text
        wanted = params.logprobs is not None
        skip = params.skip_special_tokens
        return [SentTokens(text.token_texts(skip_special=skip) if wanted else None) for _ in self.cursors]

    def growing_texts(self) -> list[GrowingText]:
        """Returns one `GrowingText` for each choice."""
        plan = self.builder.plan
        return [
            GrowingText(
                self.builder.text,
                plan.stops,
                skip_special=plan.params.skip_special_tokens,
                include_stop=plan.params.include_stop_str_in_output,
            )
            for _ in self.cursors
        ]


async def generate_events(stream: Stream, steps: AsyncIterator[None]) -> AsyncIterator[bytes]:
    """Yields the events of a stream of `/inference/v1/generate`. The last event of a choice contains the weight
    versions of the choice. `steps`: an iterator that yields when sequences have new tokens.
    """
    builder = stream.builder
    async for _ in steps:
        for cursor in stream.updated_cursors():
            choice = builder.generate_choice(
                cursor.index, cursor.sequence, cursor.begin, cursor.end, final=cursor.closed
            )
            yield _encoder.encode(
                GenerateResponse(
                    request_id=builder.response_id, choices=[choice], prompt_token_ids=stream.first_prompt(cursor)
                )
            )
    if stream.include_usage:
        yield _encoder.encode(GenerateResponse(request_id=builder.response_id, choices=[], usage=builder.usage()))


async def completion_events(stream: Stream, steps: AsyncIterator[None]) -> AsyncIterator[bytes]:
    """Yields the events of a stream of `/v1/completions`. `steps`: an iterator that yields when sequences have new
    tokens.
    """
    builder, texts, sent = stream.builder, stream.growing_texts(), stream.sent_tokens()

    def event(choices: list[CompletionChoice], **extra: Any) -> bytes:
        return _encoder.encode(
            CompletionResponse(
                id=builder.response_id, model=builder.model, choices=choices, created=stream.created, **extra
            )
        )

    async for _ in steps:
        for cursor in stream.updated_cursors():
            s, i = cursor.sequence, cursor.index
            text = _new_text(texts[i], cursor)
            begin, tokens = sent[i].advance(cursor, texts[i].sent)
            choice = CompletionChoice(
                index=i,
                text=text,
                logprobs=builder.completion_logprobs(s, begin, tokens),
                finish_reason=s.finish_reason if cursor.closed else None,
                stop_reason=s.stop_reason if cursor.closed else None,
                token_ids=s.tokens[cursor.begin : cursor.end] if stream.return_ids else None,
                prompt_token_ids=stream.first_prompt(cursor),
            )
            yield event([choice])
    if stream.include_usage:
        yield event([], usage=builder.usage())


async def chat_events(stream: Stream, steps: AsyncIterator[None]) -> AsyncIterator[bytes]:
    """Yields the events of a stream of `/v1/chat/completions`. The first event of a choice contains the role. `steps`:
    an iterator that yields when sequences have new tokens.
    """
    builder, texts, sent = stream.builder, stream.growing_texts(), stream.sent_tokens()

    def event(choices: list[ChatChunkChoice], **extra: Any) -> bytes:
        return _encoder.encode(
            ChatChunk(id=builder.response_id, model=builder.model, choices=choices, created=stream.created, **extra)
        )

    async for _ in steps:
        for cursor in stream.updated_cursors():
            s, i = cursor.sequence, cursor.index
            if cursor.begin == 0:
                opening = ChatChunkChoice(index=i, delta=ChatMessage("assistant", ""))
                yield event([opening], prompt_token_ids=stream.first_prompt(cursor))
            text = _new_text(texts[i], cursor)
            begin, tokens = sent[i].advance(cursor, texts[i].sent)
            choice = ChatChunkChoice(
                index=i,
                delta=ChatMessage(content=text),
                logprobs=builder.chat_logprobs(s, begin, tokens),
                finish_reason=s.finish_reason if cursor.closed else None,
                stop_reason=s.stop_reason if cursor.closed else None,
                token_ids=s.tokens[cursor.begin : cursor.end] if stream.return_ids else None,
            )
            yield event([choice])
    if stream.include_usage:
        yield event([], usage=builder.usage())


def _new_text(text: GrowingText, cursor: StreamCursor) -> str:
    s = cursor.sequence
    stop = s.stop_reason if cursor.closed and isinstance(s.stop_reason, str) else None
    return text.advance(s.tokens[: cursor.end], finished=cursor.closed, stop=stop)
