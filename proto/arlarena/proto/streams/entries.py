"""What the methods of `queue.Streams` take and return, and how an entry of a stream is read."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from arlarena.proto.trajectory import Group, GroupTask

Fields = Mapping[bytes, bytes]
RawEntry = tuple[bytes, Fields]

_RUN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


@dataclass(frozen=True, slots=True)
class StreamLimits:
    """The times (in seconds) and counts that `Streams.connect` takes.

    `timeout_s` limits connecting and each answer; blocking reads wait in shorter slices. For `reconnect_s` a call
    tries again when the broker goes away. A lease not renewed for `lease_ttl_s` is lost: the same in all workers, who
    renew at a third of it. A task is handed out `max_deliveries` times before it is a dead letter. A failed task
    rests for `retry_delay_s`, doubled with each delivery. For `full_timeout_s` a call tries again while the broker's
    memory is full.
    """

    timeout_s: float
    reconnect_s: float
    lease_ttl_s: float
    max_deliveries: int
    retry_delay_s: float
    full_timeout_s: float

    def __post_init__(self) -> None:
        for name in ("timeout_s", "lease_ttl_s", "max_deliveries"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be positive, not {getattr(self, name)}")
        for name in ("reconnect_s", "retry_delay_s", "full_timeout_s"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A group that will not come: its task was delivered too often, or a message of it cannot be read."""

    group_id: str
    reason: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """One entry of `groups`. `acknowledge` takes `stream_id` and `group_id`."""

    stream_id: str
    item: Group | DeadLetter

    @property
    def group_id(self) -> str:
        """The id of the group that came, or that will not come."""
        return self.item.group_id if isinstance(self.item, DeadLetter) else self.item.id


@dataclass(frozen=True, slots=True)
class GroupLease:
    """A worker's right to play one group, until `lease_ttl_s` after the last renewal. `deliveries` counts from 1."""

    stream_id: str
    task: GroupTask
    consumer: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class Depth:
    """How full a run's streams are.

    Tasks that nobody has yet; tasks leased, or given back and waiting for another worker; groups not yet collected;
    groups collected and not acknowledged; dead letters kept.
    """

    tasks_queued: int
    tasks_leased: int
    groups_waiting: int
    groups_collected: int
    dead: int


def check_run_name(run: str) -> None:
    """Refuse a name that would break the run's keys.

    Raises:
        ValueError: `run` is such a name.
    """
    if not _RUN_NAME.fullmatch(run):
        raise ValueError(f"run name {run!r}: use up to 100 letters, digits, '.', '_', '-', not beginning with a sign")


def group_id_of(stream_id: bytes, fields: Fields) -> str:
    """The group id that an entry names, or one made of its stream id where it names none."""
    return fields[b"id"].decode(errors="replace") if b"id" in fields else f"unknown-{stream_id.decode()}"


def dead_letter_of(stream_id: bytes, fields: Fields) -> DeadLetter:
    """The dead letter that an entry of `dead`, or a tombstone in `groups`, describes."""
    reason = fields.get(b"reason", b"the entry has neither a group nor a reason").decode(errors="replace")
    deliveries = fields.get(b"deliveries", b"1")
    return DeadLetter(group_id_of(stream_id, fields), reason, int(deliveries) if deliveries.isdigit() else 1)
