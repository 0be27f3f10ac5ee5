"""The files `RUN/records/step-NNNNNN.records`: recorded groups, with the values that the loss used.

    StepRecord    one per file: the method, its clip bounds, the number of groups for each outcome
    GroupRecord   a group, its outcome and the reason, and one `MemberRecord` for each episode
    MemberRecord  the advantages of each turn, and the `TurnFigures` of each turn that was used for training

A file is a sequence of frames. A frame is the length of the data (4 bytes, little-endian), then the data. The data is
one record in MessagePack, compressed with zstandard. The first frame contains the `StepRecord`. Each other frame
contains one `GroupRecord`, so a reader can read a single group if it knows the frame's offset.

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
# Compression level of zstandard. At this level, the compression takes less time than it saves in writing to disk.
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
        entropies: entropy of the policy, float32 [S], nats.
        ratios: importance ratio at the recipe's level (`StepRecord.ratio_level`), float32 [S].
        clip: uint8 [S]. 0: the ratio is within [1 - ε_lo, 1 + ε_hi]; 1: the ratio is below; 2: the ratio is above.
        old_log_probs: log π_old, the denominator of the ratio, float32 [S], nats. If empty, the loss used the sampler's
            log-probs.
        reference_log_probs: log-probs of the reference policy, float32 [S], nats. Empty if the loss had no KL term.
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
    """One episode of a recorded group. Each tuple has one value for each turn, or is empty if nothing was computed.

    Attributes:
        status: `trained`: the update used the episode. `stale`: the episode was too old. `no_action`: a turn of the
            episode has no action. `not_trained`: no update used the group.
        reason: why no update used the episode; "" if an update used it.
        age: number of training steps from the oldest weights that sampled the episode to the update. None if the
            weights are unknown.
        episode_advantages: the episode advantage A_E.
        step_advantages: the step advantage A_S, before multiplication by ω.
        advantages: the advantage in the loss, after multiplication by `advantage_scale`.
        anchor_sizes: number of turns in the group with the same anchor state as this turn.
        turns: the values that the loss used; empty if no update used the episode.
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
    """A group that a training step collected, and the group's outcome.

    `reason`: why no update used the group; "" if an update used it. `update`: number of the optimiser update that used
    the group, from 0 within the step; None if no update used the group.
    """

    group: Group
    status: GroupStatus
    reason: str
    members: tuple[MemberRecord, ...]
    step: int
    update: int | None = None
    schema: int = SCHEMA


class StepRecord(msgspec.Struct, frozen=True):
    """The first record of a file. It describes the training step.

    Attributes:
        step: the training step, from 1.
        weights: text of the `PolicyVersion` before the step.
        recipe: the method's name.
        ratio_level: the unit of one importance ratio: token, turn, row or trajectory.
        clip_low: ε_lo; the lower clip bound is 1 - ε_lo.
        clip_high: ε_hi; the upper clip bound is 1 + ε_hi.
        mask_delta: δ of the sequence mask; None if the recipe has no sequence mask.
        policy_anchor: `bypass` or `decoupled`.
        complete: whether the file has all groups of the step.
        groups: {outcome: number of the step's groups}, including groups that are not in the file.
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
    """Returns the path of the records file of a training step. `run`: the run's directory."""
    return run / FOLDER / f"step-{step:06d}.records"


def encode_frame(record: StepRecord | GroupRecord) -> bytes:
    """Returns the frame of a record for `write_records`: the length and the compressed record."""
    data = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(_encoder.encode(record))
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def decode_frame(data: bytes, kind: type[_Record], max_bytes: int) -> _Record:
    """Decode the record in a frame. `data`: the frame without its length. `kind`: the expected type of the record.

    Raises:
        SchemaError: the record is malformed, has more than `max_bytes` bytes, or has another schema.
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
    """Write frames of `encode_frame` to the file `path` atomically. Returns the size of the file in bytes."""
    size = 0
    with open_atomic(path) as file:
        for frame in frames:
            size += file.write(frame)
    return size
