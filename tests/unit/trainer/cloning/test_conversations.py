"""Conversations as JSON lines give one row (training sequence) for each assistant message."""

import json

import pytest
from transformers import AutoTokenizer

from arlarena.proto.config import ConfigError
from arlarena.trainer.cloning.clone import read_rows
from arlarena.trainer.cloning.conversations import read_conversations

SYSTEM = {"role": "system", "content": "up down"}
TURNS = [
    {"role": "user", "content": "#_P"},
    {"role": "assistant", "content": "<think>push</think><action>up</action>"},
    {"role": "user", "content": "#P_"},
    {"role": "assistant", "content": "<action>left</action>"},
]


def write(path, *conversations):
    path.write_text("".join(json.dumps(one) + "\n" for one in conversations))
    return path


def test_each_assistant_message_is_a_row_with_all_messages_before_it(tmp_path, tiny_directory):
    path = write(tmp_path / "talk.jsonl", {"messages": TURNS, "score": 1.0}, {"messages": TURNS[:2]})
    rows = read_rows(path, 0.9, str(tiny_directory))
    tokenizer = AutoTokenizer.from_pretrained(tiny_directory)
    assert len(rows) == 3
    for row, before, reply in zip(rows, (TURNS[:1], TURNS[:3], TURNS[:1]), (1, 3, 1), strict=True):
        text = tokenizer.apply_chat_template(before, tokenize=False, add_generation_prompt=True)
        assert row.prompt.tolist() == tokenizer.encode(text, add_special_tokens=False)
        output = tokenizer.encode(TURNS[reply]["content"], add_special_tokens=False)
        assert row.response.tolist() == [*output, tokenizer.eos_token_id]
        assert row.mask.tolist() == [1] * len(row.response)


def test_conversations_below_min_score_are_left_out(tmp_path, tiny_directory):
    path = write(tmp_path / "talk.jsonl", {"messages": TURNS, "score": 0.9}, {"messages": TURNS[:2], "score": 0.91})
    assert len(read_rows(path, 0.9, str(tiny_directory))) == 1


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{}\n", "line 1 is not a conversation"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n\nnot json\n', "line 3 is not a conversation"),
        ('{"messages": [{"role": "user", "content": "a"}]}\n', "none of 1 conversation can be used"),
        ("", "none of 0 conversations"),
    ],
)
def test_errors_name_the_file_and_line(tmp_path, text, says):
    path = tmp_path / "talk.jsonl"
    path.write_text(text)
    with pytest.raises(ConfigError, match=says):
        read_conversations(path, 0.9)
    with pytest.raises(ConfigError, match="absent"):
        read_conversations(tmp_path / "absent.jsonl", 0.9)
