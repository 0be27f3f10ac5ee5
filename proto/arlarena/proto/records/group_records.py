"""The files `RUN/records/step-NNNNNN.records`: recorded groups, with the values that the loss used.

    StepRecord    one per file: the method, its clip bounds, the number of groups by outcome
    GroupRecord   a group, its outcome and the reason, and one `MemberRecord` for each episode
    MemberRecord  the advantages of each turn, and the `TurnFigures` of each turn used for training

A file is a sequence of frames. A frame is the length of the data (4 bytes, little-endian), then the data. The data is
one record in MessagePack, compressed by zstandard. The first frame contains the `StepRecord`. Each group has its own
frame, so a reader can read a group at a known offset.

`TurnFigures` come from the forward pass of the update that used the group. They have one value for each sampled token
(loss mask 1) of the turn, in order.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Literal, TypeVar

import msgspec
import zstandard

from arlarena.proto.atomic_files import open_atomic
from arlarena.proto.trajectory import Group, SchemaError

SCHEMA = 1
FOLDER = "records"
# Level of zstandard. At this level, compression takes less time than it saves in writing.
LEVEL = 3
LENGTH_BYTES = 4

GroupStatus = Literal["trained", "backfilled", "filtered", "stale", "skipped"]
MemberStatus = Literal["trained", "stale", "no_action", "not_trained"]
# Values of `TurnFigures.clip`.
INSIDE, BELOW, ABOVE = 0, 1, 2


class TurnFigures(msgspec.Struct, frozen=True):
    """The values that the loss used for the S sampled tokens of one turn. Arrays are packed and little-endian.

    Attributes:
        log_probs: log π_θ before the update, float32 [S], nats.
        old_log_probs: log π_old, the denominator of the ratio, float32 [S], nats. Empty: the sampler's log-probs.
        reference_log_probs: log-probs of the reference policy, float32 [S], nats. Empty: the loss had no KL term.
        entropies: entropy of the policy, float32 [S], nats.
        ratios: importance ratio at the recipe's level, float32 [S].
        clip: uint8 [S]; 0: the ratio is within [1 - ε_lo, 1 + ε_hi]; 1: below; 2: above.
        kept: False if the sequence mask removed this turn's row from the policy loss.
    """

    log_probs: bytes
    entropies: bytes
    ratios: bytes
    clip: bytes
    old_log_probs: bytes = b""
    reference_log_probs: bytes = b""
    kept: bool = True


class MemberRecord(msgspec.Struct, frozen=True):
    """One episode of a recorded group. A tuple has one value for each turn. It is empty if nothing was computed.

    Attributes:
        status: `trained`: used for training; `stale`: too old; `no_action`: a turn has no action; `not_trained`: the
            group was not used for training.
        reason: why the episode was not used for training; "" if it was used.
        age: training steps between the oldest sampling version and the update; None if the version is unknown.
        episode_advantages: A_E.
        step_advantages: A_S, before multiplication by ω.
        advantages: the advantage in the loss, including `advantage_scale`.
        anchor_sizes: number of the group's turns with the same anchor as this turn.
        turns: the figures of each turn; empty if the episode was not used for training.
    """

    status: MemberStatus
    reason: str = ""
    age: int | None = None
    episode_advantages: tuple[float, ...] = ()
    step_advantages: tuple[float, ...] = ()
    advantages: tuple[float, ...] = ()
    anchor_sizes: tuple[int, ...] = ()
    turns: tuple[TurnFigures, ...] = ()


class GroupRecord(msgspec.Struct, frozen=True):
    """A group that a step collected, and the group's outcome.

    `reason`: why the group was not used for training; "" if it was used. `update`: the optimiser update that used the
    group, counted from 0 within the step; None if no update used the group.
    """

    group: Group
    status: GroupStatus
    reason: str
    members: tuple[MemberRecord, ...]
    step: int
    update: int | None = None
    schema: int = SCHEMA


class StepRecord(msgspec.Struct, frozen=True):
    """The first record of a file: describes the training step.

    Attributes:
        step: the training step, from 1.
        weights: text of the `PolicyVersion` before the step.
        recipe: the method's name.
        ratio_level: token, turn, row or trajectory.
        clip_low: ε_lo.
        clip_high: ε_hi.
        mask_delta: δ of the sequence mask; None: the recipe has no sequence mask.
        policy_anchor: `bypass` or `decoupled`.
        complete: whether the file has all groups of the step.
        groups: number of the step's groups by outcome, including groups that are not in the file.
    """

    step: int
    weights: str
    recipe: str
    ratio_level: str
    clip_low: float
    clip_high: float
    mask_delta: float | None
    policy_anchor: str
    complete: bool
    groups: dict[str, int]
    schema: int = SCHEMA


_Record = TypeVar("_Record", StepRecord, GroupRecord)
_encoder = msgspec.msgpack.Encoder()


class _RecordHeader(msgspec.Struct):
    schema: int = SCHEMA


def record_path(run: Path, step: int) -> Path:
    """Returns the path of the file of a step."""
    return run / FOLDER / f"step-{step:06d}.records"


def encode_frame(record: StepRecord | GroupRecord) -> bytes:
    """Returns one frame of a file: the length and the compressed record."""
    data = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(_encoder.encode(record))
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def decode_frame(data: bytes, kind: type[_Record], max_bytes: int) -> _Record:
    """Decode a frame. `data`: the frame's compressed record, without the length.

    Raises:
        SchemaError: the content is malformed, needs more than `max_bytes`, or has another schema.
    """
    try:
        size = zstandard.frame_content_size(data)
        if not 0 <= size <= max_bytes:
            raise SchemaError(f"a record of {size} bytes is above the limit of {max_bytes} bytes")
        content = zstandard.ZstdDecompressor().decompress(data, max_output_size=max_bytes)
        schema = msgspec.msgpack.decode(content, type=_RecordHeader).schema
        if schema != SCHEMA:
            raise SchemaError(f"the record has schema {schema}, but this code reads {SCHEMA}")
        return msgspec.msgpack.decode(content, type=kind)
    except (zstandard.ZstdError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise SchemaError(f"not a {kind.__name__}: {error}") from error


def write_records(path: Path, frames: Iterable[bytes]) -> int:
    """Write the frames to a file atomically. Returns the size of the file in bytes."""
    size = 0
    with open_atomic(path) as file:
        for frame in frames:
            size += file.write(frame)
    return size
