"""The types of `queue.Streams`, and the decoding of stream entries."""

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
    """The limits of `Streams.connect`, with times in seconds.

    Attributes:
        timeout_s: time limit for connecting and for each reply. A longer blocking read consists of several commands.
        reconnect_s: maximum time of retries while the broker is unreachable.
        lease_ttl_s: time from the last renewal of a lease to its expiry. A lease is a worker's right to play a group.
            All workers must use the same value. They renew their leases after a third of this time.
        max_deliveries: maximum number of deliveries of a task. If the last delivery fails, the task becomes a dead
            letter.
        retry_delay_s: pause before a failed task is delivered again. The pause doubles with each delivery, and is at
            most `lease_ttl_s`.
        full_timeout_s: maximum time of retries while the broker's memory is full.
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
    """Replaces a group that could not be played or decoded.

    `reason`: why the task failed, or why a message cannot be decoded. `deliveries`: number of deliveries of the task.
    """

    group_id: str
    reason: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """One entry of the stream `groups`. The caller passes `stream_id` and `group_id` to `Streams.acknowledge`."""

    stream_id: str
    item: Group | DeadLetter

    @property
    def group_id(self) -> str:
        """The id of the group or of the dead letter."""
        return self.item.group_id if isinstance(self.item, DeadLetter) else self.item.id


@dataclass(frozen=True, slots=True)
class GroupLease:
    """A worker's right to play one group. The lease expires `lease_ttl_s` after its last renewal.

    `stream_id`: id of the task's entry in the stream `tasks`. `consumer`: name of the worker process. `deliveries`:
    number of deliveries of the task, including this delivery. Deliveries that ended with `release(counted=False)` do
    not count.
    """

    stream_id: str
    task: GroupTask
    consumer: str
    deliveries: int


@dataclass(frozen=True, slots=True)
class Depth:
    """The number of entries in a run's streams.

    `tasks_queued`: tasks that were never leased. `tasks_leased`: tasks that were leased at least once, including tasks
    that were given back. `groups_waiting`: groups that the trainer has not collected. `groups_collected`: groups that
    the trainer has collected but not acknowledged. `dead`: dead letters in the stream `dead`.
    """

    tasks_queued: int
    tasks_leased: int
    groups_waiting: int
    groups_collected: int
    dead: int


def check_run_name(run: str) -> None:
    """Check that `run` is a valid run name. The broker's keys contain this name.

    Raises:
        ValueError: `run` is empty, is too long or contains a forbidden character.
    """
    if not _RUN_NAME.fullmatch(run):
        raise ValueError(
            f"run name {run!r}: use up to 100 letters, digits, '.', '_' or '-', and begin with a letter or a digit"
        )


def group_id_of(stream_id: bytes, fields: Fields) -> str:
    """Returns the group id in the fields of a stream entry. Without a group id, returns `unknown-<stream id>`."""
    return fields[b"id"].decode(errors="replace") if b"id" in fields else f"unknown-{stream_id.decode()}"


def dead_letter_of(stream_id: bytes, fields: Fields) -> DeadLetter:
    """Decode a dead letter from an entry of the stream `dead`, or from a notice in the stream `groups`."""
    reason = fields.get(b"reason", b"the entry has neither a group nor a reason").decode(errors="replace")
    deliveries = fields.get(b"deliveries", b"1")
    return DeadLetter(group_id_of(stream_id, fields), reason, int(deliveries) if deliveries.isdigit() else 1)
