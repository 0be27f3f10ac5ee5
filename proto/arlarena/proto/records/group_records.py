"""The files `RUN/records/step-NNNNNN.records`: recorded groups with the figures that the loss used.

    StepRecord    one per file: the method, its clip bounds, the number of groups by outcome
    GroupRecord   a group, its outcome and the reason, and one `MemberRecord` for each episode
    MemberRecord  the advantages of each turn, and the `TurnFigures` of each turn that was trained on

A file is a sequence of frames: the length in bytes (4 bytes, little-endian), then as many bytes of zstandard, which
contain one record in MessagePack. The first frame is the `StepRecord`. Each group has its own frame, so a reader can
read one group at a known offset.

Figures come from the forward pass of the update that trained the group. They have one value for each sampled token
(loss mask 1) of the turn, in order, as packed little-endian float32.
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
# The level of zstandard at which compressing costs less time than it saves in writes.
LEVEL = 3
LENGTH_BYTES = 4

GroupStatus = Literal["trained", "backfilled", "filtered", "stale", "skipped"]
MemberStatus = Literal["trained", "stale", "no_action", "not_trained"]
# Values of `TurnFigures.clip`.
INSIDE, BELOW, ABOVE = 0, 1, 2


class TurnFigures(msgspec.Struct, frozen=True):
    """What the loss used for the S sampled tokens of one turn.

    Attributes:
        log_probs: log π_θ before the update, float32 [S], nats.
        old_log_probs: log π_old, the denominator of the ratio, float32 [S]. Empty: the sampler's log-probs.
        reference_log_probs: log-probs of the reference policy, float32 [S]. Empty: the loss had no KL term.
        entropies: entropy of the policy, float32 [S], nats.
        ratios: importance ratio at the recipe's level, float32 [S].
        clip: uint8 [S]: 0: ratio within [1 - ε_lo, 1 + ε_hi]; 1: below; 2: above.
        kept: False if the sequence mask removed the row of this turn from the policy loss.
    """

    log_probs: bytes
    entropies: bytes
    ratios: bytes
    clip: bytes
    old_log_probs: bytes = b""
    reference_log_probs: bytes = b""
    kept: bool = True


class MemberRecord(msgspec.Struct, frozen=True):
    """One episode of a recorded group. Lists have one value for each turn, and are empty if the value was not computed.

    Attributes:
        status: `trained`; `stale`: too old; `no_action`: a turn has no action; `not_trained`: the group was not.
        reason: why the episode was not trained on; "" if it was.
        age: training steps between the oldest sampling version and the update; None if the version is unknown.
        episode_advantages: A_E.
        step_advantages: A_S, before the factor ω.
        advantages: the advantage in the loss, including `advantage_scale`.
        anchor_sizes: number of turns of the group with the same anchor.
        turns: the figures of each turn; empty if the episode was not trained on.
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
    """A group that a step collected, and its outcome.

    `reason`: why the group was not trained on; "" if it was. `update`: the number of the optimiser update of the step
    that used the group, from 0; None if none did.
    """

    group: Group
    status: GroupStatus
    reason: str
    members: tuple[MemberRecord, ...]
    step: int
    update: int | None = None
    schema: int = SCHEMA


class StepRecord(msgspec.Struct, frozen=True):
    """The head of a file.

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
        groups: number of groups of the step by outcome, including groups that are not recorded.
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
    """Returns one frame of a file: length and compressed record."""
    data = zstandard.ZstdCompressor(level=LEVEL, write_content_size=True).compress(_encoder.encode(record))
    return len(data).to_bytes(LENGTH_BYTES, "little") + data


def decode_frame(data: bytes, kind: type[_Record], max_bytes: int) -> _Record:
    """Decode the compressed content of a frame, without its length.

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
    """Write frames of `encode_frame` to a file, atomically. Returns the size of the file in bytes."""
    size = 0
    with open_atomic(path) as file:
        for frame in frames:
            size += file.write(frame)
    return size
