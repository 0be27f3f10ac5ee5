"""Reads recorded groups and episodes, one record at a time. Files of groups consist of frames: (length, record).

records/step-000020.records     groups with the figures of the loss (`proto.records.group_records`)
groups/step-000020.msgpack      groups for `arlarena replay`, and groups of earlier releases
demonstrations.msgpack          groups with one episode each
episodes/after.jsonl            episodes of an evaluation, one per line
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import msgspec

from arlarena.console.page.reading.run_files import RECORD_BYTES, BoundedFiles, DamagedFile
from arlarena.proto.records.episode_lines import EpisodeLine
from arlarena.proto.records.group_records import LENGTH_BYTES, GroupRecord, StepRecord, decode_frame
from arlarena.proto.trajectory import Group, SchemaError, decode_group

MAX_TURNS = 10_000


@dataclass(frozen=True, slots=True)
class Place:
    """The position of a record in its file. `number`: the record's number, from 0.

    `offset` and `size`: the position and the length of the record's content, in bytes.
    """

    number: int
    offset: int
    size: int


def frames(files: BoundedFiles, name: str, start: int = 0, number: int = 0) -> Iterator[tuple[Place, bytes]]:
    """Yield (place, record) for each complete frame of a file of groups, from the byte offset `start`.

    `number`: the number of the frame at `start`. Yields nothing if the file does not exist.

    Raises:
        DamagedFile: a frame is longer than `RECORD_BYTES`, or the file cannot be read.
    """
    if (file := files.open(name)) is None:
        return
    with file:
        file.seek(start)
        offset = start
        while (data := _next_frame(file, name, number)) is not None:
            yield Place(number, offset + LENGTH_BYTES, len(data)), data
            offset += LENGTH_BYTES + len(data)
            number += 1


def _next_frame(file: BinaryIO, name: str, number: int) -> bytes | None:
    head = file.read(LENGTH_BYTES)
    if len(head) < LENGTH_BYTES:
        return None
    size = int.from_bytes(head, "little")
    if size > RECORD_BYTES:
        raise DamagedFile(name, f"record {number} has {size} bytes; the limit is {RECORD_BYTES}")
    data = file.read(size)
    return data if len(data) == size else None


def lines(files: BoundedFiles, name: str, start: int = 0, number: int = 0) -> Iterator[tuple[Place, bytes | None]]:
    """Yield (place, content) for each complete line of a file, from the byte offset `start`.

    `number`: the number of the line at `start`. If a line is longer than `RECORD_BYTES`, its content is None. Yields
    nothing if the file does not exist.

    Raises:
        DamagedFile: the file cannot be read.
    """
    if (file := files.open(name)) is None:
        return
    with file:
        file.seek(start)
        offset = start
        while line := file.readline(RECORD_BYTES):
            size = len(line)
            content: bytes | None = line
            while not line.endswith(b"\n"):
                line = file.readline(RECORD_BYTES)
                if not line:
                    return  # the line is not complete
                size, content = size + len(line), None
            yield Place(number, offset, size), content
            offset, number = offset + size, number + 1


def group_record(name: str, data: bytes) -> GroupRecord:
    """Decode a frame of `records/`.

    Raises:
        DamagedFile: the frame is not a group record.
    """
    try:
        return decode_frame(data, GroupRecord, RECORD_BYTES)
    except SchemaError as error:
        raise DamagedFile(name, str(error)) from error


def step_record(name: str, data: bytes) -> StepRecord:
    """Decode the first frame of a file of `records/`. Raises DamagedFile if it is not a step record."""
    try:
        return decode_frame(data, StepRecord, RECORD_BYTES)
    except SchemaError as error:
        raise DamagedFile(name, str(error)) from error


def plain_group(name: str, data: bytes) -> Group:
    """Decode a frame of `groups/` or of demonstrations. Raises DamagedFile if it is not a group."""
    try:
        return decode_group(data)
    except SchemaError as error:
        raise DamagedFile(name, str(error)) from error


_line_decoder = msgspec.json.Decoder(EpisodeLine)


def episode_line(name: str, data: bytes) -> EpisodeLine:
    """Decode a line of an episodes file.

    Raises:
        DamagedFile: the line is not an episode, or has more than `MAX_TURNS` turns.
    """
    try:
        line = _line_decoder.decode(data)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DamagedFile(name, f"not an episode: {error}") from error
    if len(line.turns) > MAX_TURNS:
        raise DamagedFile(name, f"an episode has {len(line.turns)} turns; the limit is {MAX_TURNS}")
    return line
