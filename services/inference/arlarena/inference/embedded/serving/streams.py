"""Streamed responses. After each step of the engine, each choice with new tokens gets one server-sent event."""

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
    """How much of one choice has been sent. The current event has the tokens [`begin`, `end`). `closed`: the current
    event is the last event of the choice.
    """

    index: int
    sequence: Sequence
    begin: int = 0
    end: int = 0
    closed: bool = False

    def advance(self) -> bool:
        """Move to the new tokens. Returns True if there is anything to send. The engine appends to `ranks` after the
        other lists, so all data of the first `len(ranks)` tokens is present.
        """
        if self.closed:
            return False
        self.closed = self.sequence.delivered
        self.begin, self.end = self.end, len(self.sequence.ranks)
        return self.closed or self.end > self.begin


@dataclass(slots=True)
class SentTokens:
    """How many tokens of one choice have been sent with log-probs. The log-probs of a token are sent only after its
    text has been sent completely. `texts`: None if no log-probs are requested.
    """

    texts: TokenTexts | None
    sent: int = 0

    def advance(self, cursor: StreamCursor, characters_sent: int) -> tuple[int, list[TokenText] | None]:
        """Returns the index of the first new token, and the new tokens: the tokens whose text lies completely in the
        first `characters_sent` characters of the response. The last call returns all remaining tokens. If a stop string
        ended the response, the texts of the tokens are cut at the end of the response.
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
    """A running stream. `return_ids`: whether events contain token ids. `include_usage`: whether a last event contains
    the token counts. `cursors`: for each choice, how much of the choice has been sent.
    """

    builder: ResponseBuilder
    return_ids: bool
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))
    cursors: list[StreamCursor] = field(init=False)

    def __post_init__(self) -> None:
        self.cursors = [StreamCursor(index, sequence) for index, sequence in enumerate(self.builder.sequences)]

    def updated_cursors(self) -> Iterator[StreamCursor]:
        """Yields the cursors of the choices that have something to send."""
        return (cursor for cursor in self.cursors if cursor.advance())

    def first_prompt(self, cursor: StreamCursor) -> list[int] | None:
        """Returns the prompt's token ids for the first event of a choice if they are requested, else None."""
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
    """Yields the events of `/inference/v1/generate`. The last event of a choice contains its weight versions. `steps`:
    yields after each step of the engine with new tokens.
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
    """Yields the events of the completions route. `steps`: yields after each step of the engine with new tokens."""
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
    """Yields the events of the chat route. The first event of a choice contains the role. `steps`: yields after each
    step of the engine with new tokens.
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
