"""Files of older schemas are read after conversion: names of schema 1, full prompts of schemas 1 and 2."""

import json
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from arlarena.proto import convert
from arlarena.proto.config import ConfigError
from arlarena.proto.convert import RECORD_SCHEMA, converted_message
from arlarena.proto.trajectory import (
    Group,
    PolicyVersion,
    Sampling,
    SchemaError,
    Task,
    Trajectory,
    Turn,
    VersionSpan,
    encode,
    pack_floats,
    pack_ids,
    read_groups,
)

FORMER = {"content_key": "room_key", "no_action": "void", "no_action_turns": "void_turns", "eval_set": "panel"}


def group_of(name: str) -> Group:
    """A group of one trajectory: its second turn continues the first and has no action, its third has a new prompt."""
    version = PolicyVersion("run", 1, "digest")
    turns = tuple(
        Turn(
            new_prompt_ids=pack_ids(new),
            response_ids=pack_ids([2, 3]),
            logprobs=pack_floats([-0.5, -1.0]),
            loss_mask=bytes([1, 1]),
            spans=(VersionSpan(0, 2, version),),
            reward=0.5,
            state_key="s",
            observation_key="o",
            action_valid=True,
            format_valid=True,
            finish_reason="stop",
            no_action=not reset,
            reset=reset,
        )
        for new, reset in (([1], True), ([4], False), ([1, 2, 9], True))
    )
    metrics = {"no_action_turns": 1.0, "steps": 2.0}
    trajectory = Trajectory(name, 7, turns, terminated=True, truncated=False, score=1.0, success=True, metrics=metrics)
    return Group(name, Task("guess", "train", 3), 1, (trajectory,), Sampling(), version, version)


def with_whole_prompts(group: Group) -> dict[str, Any]:
    """The group in schema 2."""
    message = msgspec.msgpack.decode(encode(group)) | {"schema": 2}
    for trajectory, record in zip(group.trajectories, message["trajectories"], strict=True):
        for prompt, turn in zip(trajectory.prompts(), record["turns"], strict=True):
            del turn["new_prompt_ids"], turn["reset"]
            turn["prompt_ids"] = pack_ids(prompt)
    return message


def former(value: Any) -> Any:
    """The value with the field names of schema 1."""
    if isinstance(value, dict):
        return {FORMER.get(key, key): former(item) for key, item in value.items()}
    return [former(item) for item in value] if isinstance(value, list) else value


def framed(message: Any) -> bytes:
    """One message of a file of groups."""
    body = msgspec.msgpack.encode(message)
    return len(body).to_bytes(4, "little") + body


def run(monkeypatch: pytest.MonkeyPatch, old: Path, new: Path) -> int:
    monkeypatch.setattr(sys, "argv", ["convert", str(old), str(new)])
    return convert.main()


@pytest.mark.parametrize("schema", [1, 2])
def test_groups_of_an_older_schema_are_read_after_conversion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, schema: int
) -> None:
    groups = [group_of(name) for name in ("one", "two")]
    messages = [with_whole_prompts(group) for group in groups]
    messages = [former(message) | {"schema": 1} for message in messages] if schema == 1 else messages
    bodies = [msgspec.msgpack.encode(message) for message in messages]
    old, new = tmp_path / "old.msgpack", tmp_path / "new.msgpack"
    old.write_bytes(b"".join(len(body).to_bytes(4, "little") + body for body in bodies))
    with pytest.raises(SchemaError):
        read_groups(old)
    assert run(monkeypatch, old, new) == 0
    assert read_groups(new) == groups


def test_a_retokenised_response_starts_a_new_segment() -> None:
    message = with_whole_prompts(group_of("one"))
    first, second, _ = message["trajectories"][0]["turns"]
    second["prompt_ids"] = first["prompt_ids"] + pack_ids([23, 4])
    turns = converted_message(message)["trajectories"][0]["turns"]
    assert [turn["reset"] for turn in turns] == [True, True, True]
    assert turns[1]["new_prompt_ids"] == pack_ids([1, 23, 4])


@pytest.mark.parametrize("indent", [None, 1])
def test_json_conversion_keeps_the_indentation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, indent: int | None
) -> None:
    record = {"schema": 1, "panel": {"n": 2}, "results": [{"void": True, "room_key": "é", "text": "void panel"}]}
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text(json.dumps(record, indent=indent, ensure_ascii=False) + "\n")
    assert run(monkeypatch, old, new) == 0
    result = {"no_action": True, "content_key": "é", "text": "void panel"}
    expected = {"schema": RECORD_SCHEMA, "eval_set": {"n": 2}, "results": [result]}
    assert new.read_text() == json.dumps(expected, indent=indent, ensure_ascii=False) + "\n"


def test_a_record_with_another_kind_of_schema_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "metrics.jsonl", tmp_path / "new.jsonl"
    old.write_text('{"schema": 1, "void_share": 0.5}\n')
    assert run(monkeypatch, old, new) == 0
    assert new.read_text() == '{"schema": 1, "no_action_share": 0.5}\n'


def test_json_lines_are_converted_line_by_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old.jsonl", tmp_path / "new.jsonl"
    old.write_text('{"void": false}\n{"void": true}\n')
    assert run(monkeypatch, old, new) == 0
    assert new.read_text() == '{"no_action": false}\n{"no_action": true}\n'


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("old.msgpack", b"\x20\x00\x00\x00cut", "truncated at byte 0"),
        ("old.msgpack", b"\x01\x00\x00\x00\xc1", "does not contain groups"),
        ("old.msgpack", b"\x01\x00\x00\x00\x07", "has schema None; only schemas 1 and 2"),
        ("old.msgpack", framed({"schema": 3}), "has schema 3; only schemas 1 and 2"),
        ("old.msgpack", framed({"schema": 2, "trajectories": [{"turns": [{}]}]}), "malformed: KeyError: 'prompt_ids'"),
        ("old.json", b"nothing", "neither JSON nor JSON lines"),
        ("old.json", b'{"schema": 2}', "has schema 2; only schema 1"),
        ("old.json", b"\xff", "cannot be converted"),
        ("absent.json", None, "cannot be converted"),
    ],
)
def test_an_inconvertible_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, content: bytes | None, message: str
) -> None:
    old, new = tmp_path / name, tmp_path / "new"
    if content is not None:
        old.write_bytes(content)
    with pytest.raises(ConfigError, match=f"{name}.*{message}"):
        run(monkeypatch, old, new)
    assert not new.exists()


def test_an_existing_file_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new = tmp_path / "old.json", tmp_path / "new.json"
    old.write_text("{}")
    new.write_text("mine")
    with pytest.raises(ConfigError, match="already exists: choose another name for the new file"):
        run(monkeypatch, old, new)
    assert new.read_text() == "mine"
