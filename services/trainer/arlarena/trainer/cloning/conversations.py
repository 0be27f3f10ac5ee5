"""Reads conversations from JSON-lines files, and converts them to rows (training samples) for cloning.

    {"messages": [{"role": "user", "content": "…"}, {"role": "assistant", "content": "…"}, …], "score": 1.0}

Each assistant message is the response of one row. The prompt of this row consists of all earlier messages, formatted
with the model's chat template. `score` is optional.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from transformers import AutoTokenizer

from arlarena.proto.config import ConfigError
from arlarena.proto.text.files import TextFileError, read_text
from arlarena.proto.text.wording import counted
from arlarena.trainer.batching.packing import TrainingSample
from arlarena.trainer.preflight import check_readable

SUFFIXES = (".jsonl", ".ndjson")


class Message(msgspec.Struct):
    """One message of a chat."""

    role: str
    content: str


class ConversationRecord(msgspec.Struct):
    """A conversation: one line of a file."""

    messages: list[Message]
    score: float | None = None


def read_conversations(path: Path, min_score: float) -> list[ConversationRecord]:
    """Read a file. Return the conversations with a score above `min_score`, and the conversations without a score.

    Raises:
        ConfigError: the file cannot be read, a line is not a conversation, or none of the conversations to return has
            an assistant message.
    """
    decoder = msgspec.json.Decoder(ConversationRecord)
    conversations = []
    check_readable(path)
    try:
        lines = read_text(path).split("\n")
    except TextFileError as error:  # the error message contains the path
        raise ConfigError(f"demonstrations {error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            conversations.append(decoder.decode(line))
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ConfigError(f"demonstrations {path}: line {number} is not a conversation: {error}") from error
    good = [each for each in conversations if each.score is None or each.score > min_score]
    if not any(message.role == "assistant" for conversation in good for message in conversation.messages):
        raise ConfigError(
            f"demonstrations {path}: none of {counted(len(conversations), 'conversation')} can be used: a conversation "
            f"needs an assistant message, and its score, if it has one, must be above {min_score}"
        )
    return good


def conversation_rows(conversations: list[ConversationRecord], model: str) -> list[TrainingSample]:
    """Return one row (training sample) for each assistant message, in the tokens of the policy `model`.

    Raises:
        ConfigError: the tokenizer has no chat template or no end-of-sequence token.
    """
    tokenizer: Any = AutoTokenizer.from_pretrained(model)
    if not tokenizer.chat_template or tokenizer.eos_token_id is None:
        raise ConfigError(
            f"policy {model}: the tokenizer has no chat template or no end-of-sequence token; cloning from "
            f"conversations needs both"
        )
    rows = []
    for conversation in conversations:
        messages = [{"role": message.role, "content": message.content} for message in conversation.messages]
        for index, message in enumerate(conversation.messages):
            if message.role == "assistant":
                rows.append(_row(tokenizer, messages[:index], message.content))
    return rows


def _row(tokenizer: Any, before: list[dict[str, str]], reply: str) -> TrainingSample:
    text = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
    prompt = tokenizer.encode(text, add_special_tokens=False)
    response = [*tokenizer.encode(reply, add_special_tokens=False), tokenizer.eos_token_id]
    return TrainingSample(
        prompt=np.asarray(prompt, dtype=np.int32),
        response=np.asarray(response, dtype=np.int32),
        behaviour=np.zeros(len(response), dtype=np.float32),
        mask=np.ones(len(response), dtype=np.uint8),
        turns=((len(response), 1.0),),
    )
