"""Answers that are sent while they grow: one server-sent event for each step in which a choice grew."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec

from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.embedded.serving.answers import Writer
from arlarena.inference.embedded.serving.chat_wire import ChatChunk, ChatChunkChoice, ChatMessage
from arlarena.inference.embedded.text.codec import GrowingText
from arlarena.inference.embedded.text.token_bytes import Spelled, Spelling
from arlarena.proto.policy import CompletionChoice, CompletionResponse, GenerateResponse

_encoder = msgspec.json.Encoder()


@dataclass(slots=True)
class StreamCursor:
    """How far one choice has been sent. `begin` and `end` bound the tokens of the piece at hand."""

    index: int
    sequence: Sequence
    begin: int = 0
    end: int = 0
    closed: bool = False

    def advance(self) -> bool:
        """Take what is new; whether there is anything. `ranks` is what the engine appends to last."""
        if self.closed:
            return False
        self.closed = self.sequence.delivered
        self.begin, self.end = self.end, len(self.sequence.ranks)
        return self.closed or self.end > self.begin


@dataclass(slots=True)
class SentTokens:
    """Which tokens of one choice have been sent with their log-probs: those whose text has been. `spelling`: None where
    no log-probs are asked for.
    """

    spelling: Spelling | None
    sent: int = 0

    def advance(self, cursor: StreamCursor, characters: int) -> tuple[int, list[Spelled] | None]:
        """The next tokens and the position of the first, where so many `characters` of the text have been sent; at the
        end all that are left, without bytes that a stop string has cut off.
        """
        begin, s = self.sent, cursor.sequence
        if self.spelling is None:
            return begin, None
        self.spelling.grow(s.tokens[: cursor.end])
        if cursor.closed and isinstance(s.stop_reason, str):
            self.spelling.cut(characters)
        self.sent = len(self.spelling.tokens) if cursor.closed else max(begin, self.spelling.within(characters))
        return begin, self.spelling.tokens[begin : self.sent]


@dataclass(slots=True)
class Stream:
    """A stream in progress: the writer knows the request, `cursors` how much of each choice was sent."""

    writer: Writer
    return_ids: bool
    include_usage: bool
    created: int = field(default_factory=lambda: int(time.time()))
    cursors: list[StreamCursor] = field(init=False)

    def __post_init__(self) -> None:
        self.cursors = [StreamCursor(index, sequence) for index, sequence in enumerate(self.writer.sequences)]

    def grown(self) -> Iterator[StreamCursor]:
        """Choices with something new."""
        return (cursor for cursor in self.cursors if cursor.advance())

    def first_prompt(self, cursor: StreamCursor) -> list[int] | None:
        """The prompt's ids, with a choice's first piece only."""
        return cursor.sequence.prompt if self.return_ids and cursor.begin == 0 else None

    def spellings(self) -> list[SentTokens]:
        """What was sent of each choice's tokens."""
        params, text = self.writer.plan.params, self.writer.text
        wanted = params.logprobs is not None
        skip = params.skip_special_tokens
        return [SentTokens(text.spelling(skip_special=skip) if wanted else None) for _ in self.cursors]

    def pieces(self) -> list[GrowingText]:
        """A growing text for each choice."""
        plan = self.writer.plan
        return [
            GrowingText(
                self.writer.text,
                plan.stops,
                skip_special=plan.params.skip_special_tokens,
                include_stop=plan.params.include_stop_str_in_output,
            )
            for _ in self.cursors
        ]


async def generate_events(stream: Stream, steps: AsyncIterator[None]) -> AsyncIterator[bytes]:
    """Events of the token route; each choice's last carries its weight versions."""
    writer = stream.writer
    async for _ in steps:
        for cursor in stream.grown():
            choice = writer.generate_choice(
                cursor.index, cursor.sequence, cursor.begin, cursor.end, final=cursor.closed
            )
            yield _encoder.encode(
                GenerateResponse(
                    request_id=writer.identity, choices=[choice], prompt_token_ids=stream.first_prompt(cursor)
                )
            )
    if stream.include_usage:
        yield _encoder.encode(GenerateResponse(request_id=writer.identity, choices=[], usage=writer.usage()))


async def completion_events(stream: Stream, steps: AsyncIterator[None]) -> AsyncIterator[bytes]:
    """Events of the completions route."""
    writer, texts, spellings = stream.writer, stream.pieces(), stream.spellings()

    def event(choices: list[CompletionChoice], **extra: Any) -> bytes:
        return _encoder.encode(
            CompletionResponse(id=writer.identity, model=writer.model, choices=choices, created=stream.created, **extra)
        )

    async for _ in steps:
        for cursor in stream.grown():
            s, i = cursor.sequence, cursor.index
            text = _new_text(texts[i], cursor)
            begin, spelled = spellings[i].advance(cursor, texts[i].sent)
            choice = CompletionChoice(
                index=i,
                text=text,
                logprobs=writer.completion_logprobs(s, begin, spelled),
                finish_reason=s.finish_reason if cursor.closed else None,
                stop_reason=s.stop_reason if cursor.closed else None,
                token_ids=s.tokens[cursor.begin : cursor.end] if stream.return_ids else None,
                prompt_token_ids=stream.first_prompt(cursor),
            )
            yield event([choice])
    if stream.include_usage:
        yield event([], usage=writer.usage())


async def chat_events(stream: Stream, steps: AsyncIterator[None]) -> AsyncIterator[bytes]:
    """Events of the chat route: each choice's role, then its text."""
    writer, texts, spellings = stream.writer, stream.pieces(), stream.spellings()

    def event(choices: list[ChatChunkChoice], **extra: Any) -> bytes:
        return _encoder.encode(
            ChatChunk(id=writer.identity, model=writer.model, choices=choices, created=stream.created, **extra)
        )

    async for _ in steps:
        for cursor in stream.grown():
            s, i = cursor.sequence, cursor.index
            if cursor.begin == 0:
                opening = ChatChunkChoice(index=i, delta=ChatMessage("assistant", ""))
                yield event([opening], prompt_token_ids=stream.first_prompt(cursor))
            text = _new_text(texts[i], cursor)
            begin, spelled = spellings[i].advance(cursor, texts[i].sent)
            choice = ChatChunkChoice(
                index=i,
                delta=ChatMessage(content=text),
                logprobs=writer.chat_logprobs(s, begin, spelled),
                finish_reason=s.finish_reason if cursor.closed else None,
                stop_reason=s.stop_reason if cursor.closed else None,
                token_ids=s.tokens[cursor.begin : cursor.end] if stream.return_ids else None,
            )
            yield event([choice])
    if stream.include_usage:
        yield event([], usage=writer.usage())


def _new_text(text: GrowingText, cursor: StreamCursor) -> str:
    s = cursor.sequence
    stop = s.stop_reason if cursor.closed and isinstance(s.stop_reason, str) else None
    return text.advance(s.tokens[: cursor.end], finished=cursor.closed, stop=stop)
