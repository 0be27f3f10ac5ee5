"""Convert a file to the current schema (format version): `python -m arlarena.proto.convert OLD NEW`.

OLD is one of these files:
- a file of groups (see `write_groups`) of schema 1 or 2; a group contains the episodes of one task;
- a JSON or JSON-lines file of schema 1: an evaluation, a summary, episodes or a transcript.
The command converts files, not complete runs. A run with an older schema cannot be resumed.

Schema 2 renamed fields. Schema 3 changed only groups and tasks: each turn stores only its new prompt tokens.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

from arlarena.proto.atomic_files import write_bytes
from arlarena.proto.config import ConfigError, exit_on_config_error
from arlarena.proto.trajectory import SCHEMA_VERSION

# Names of fields: schema 1 -> schema 2.
RENAMED = {
    "room_key": "content_key",
    "void": "no_action",
    "void_turns": "no_action_turns",
    "void_share": "no_action_share",
    "panel": "eval_set",
}
RECORD_SCHEMA = 2
# The fields of schema 1 that identify an evaluation, a summary or an episode. Records without these fields, such as
# metrics, keep schema 1, because schema 2 did not change them.
RECORD_FIELDS = {"panel", "turns"}


def renamed(value: Any) -> Any:
    """Returns a copy of the JSON value `value` with the field names of schema 2, also in inner objects."""
    if isinstance(value, dict):
        return {RENAMED.get(key, key): renamed(item) for key, item in value.items()}
    return [renamed(item) for item in value] if isinstance(value, list) else value


def segmented(turns: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Convert an episode's turns of schema 2 to schema 3. Modifies `turns`, and returns the new turns.

    If a turn's prompt begins with the previous prompt and response, the new turn has only the prompt tokens after them.
    Otherwise the new turn has `reset` and the full prompt.
    """
    segments, before = list[dict[str, Any]](), b""
    for turn in turns:
        prompt = turn.pop("prompt_ids")
        reset = not segments or not prompt.startswith(before)
        segments.append(turn | {"new_prompt_ids": prompt if reset else prompt[len(before) :], "reset": reset})
        before = prompt + turn["response_ids"]
    return segments


def converted(record: Any) -> Any:
    """Convert a JSON record of schema 1 to schema 2. If the record has no field `schema`, only renames its fields.

    Raises:
        ConfigError: the record has the field `schema`, and its value is not 1.
    """
    if not isinstance(record, dict) or "schema" not in record:
        return renamed(record)
    if record["schema"] != 1:
        raise ConfigError(f"a record has schema {record['schema']}; only schema 1 can be converted")
    return renamed(record) | ({"schema": RECORD_SCHEMA} if RECORD_FIELDS & record.keys() else {})


def converted_message(message: Any) -> Any:
    """Convert a decoded group or group task of schema 1 or 2 to the current schema. Does not check all fields.

    Raises:
        ConfigError: the schema of `message` is neither 1 nor 2, or the turns of a group are malformed.
    """
    schema = message.get("schema") if isinstance(message, dict) else None
    if schema not in (1, 2):
        raise ConfigError(f"a message has schema {schema}; only schemas 1 and 2 can be converted")
    message = renamed(message) | {"schema": SCHEMA_VERSION}
    try:
        for trajectory in message.get("trajectories", ()):
            trajectory["turns"] = segmented(trajectory["turns"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"a group of schema {schema} is malformed: {type(error).__name__}: {error}") from error
    return message


def convert_groups(data: bytes) -> bytes:
    """Convert the content of a file of groups (format: see `trajectory.write_groups`). Returns the new content.

    Raises:
        ConfigError: the file is truncated or is not MessagePack, a schema is neither 1 nor 2, or a turn is malformed.
    """

    def bodies() -> Iterator[bytes]:
        offset = 0
        while offset < len(data):
            end = offset + 4 + int.from_bytes(data[offset : offset + 4], "little")
            if end > len(data):
                raise ConfigError(f"the file is truncated at byte {offset}, or does not contain groups")
            body = msgspec.msgpack.encode(converted_message(msgspec.msgpack.decode(data[offset + 4 : end])))
            yield len(body).to_bytes(4, "little") + body
            offset = end

    try:
        return b"".join(bodies())
    except msgspec.DecodeError as error:
        raise ConfigError(f"the file does not contain groups: {error}") from error


def convert_json(text: str) -> str:
    """Convert the text of a JSON file or JSON-lines file of schema 1 to schema 2. Keeps the indentation of a JSON file.

    Raises:
        ConfigError: the text is neither JSON nor JSON lines, or the schema of a record is not 1.
    """
    try:
        document = json.loads(text)
    except ValueError:
        try:
            lines = [json.dumps(converted(json.loads(line)), ensure_ascii=False) for line in text.splitlines()]
        except ValueError as error:
            raise ConfigError(f"neither JSON nor JSON lines: {error}") from error
        return "".join(line + "\n" for line in lines)
    second = text.splitlines()[1] if "\n" in text.strip() else ""
    indent = len(second) - len(second.lstrip(" ")) or None
    return json.dumps(converted(document), indent=indent, ensure_ascii=False) + "\n" * text.endswith("\n")


def main() -> int:
    """Convert one file. Returns exit status 0. If an error occurs, no file is written.

    Raises:
        ConfigError: the new file exists, or the old file cannot be read or converted.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "old", type=Path, help="file of groups (.msgpack) of schema 1 or 2, or JSON file (.json, .jsonl) of schema 1"
    )
    parser.add_argument("new", type=Path, help="file to write; it must not exist")
    options = parser.parse_args()
    if options.new.exists():
        raise ConfigError(f"{options.new} already exists: choose another name for the new file")
    try:
        if options.old.suffix in (".json", ".jsonl"):
            data = convert_json(options.old.read_text(encoding="utf-8")).encode()
        else:
            data = convert_groups(options.old.read_bytes())
        write_bytes(options.new, data)
    except ConfigError as error:
        raise ConfigError(f"{options.old}: {error}") from error
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{options.old}: cannot be converted: {error}") from error
    return 0


if __name__ == "__main__":
    raise SystemExit(exit_on_config_error(main))
