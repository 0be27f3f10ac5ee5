"""The queue between the trainer and the rollout workers: two streams of one run on Redis (7 or newer) or Valkey.

    trainer  ── issue, withdraw ─────► tasks ──── lease, renew ──► worker
    trainer  ◄─ collect, acknowledge ─ groups ◄── complete ───────┘

What holds, whichever process dies and whenever:

- **Every issued group reaches the trainer once**, as a `Group` or as a `DeadLetter` in its place. `complete` publishes
  the group, removes the task and notes the id as done in one script; a second completion does nothing.
- **A lease belongs to the worker that renews it.** A task whose lease was not renewed for `lease_ttl_s` goes to the
  next worker that asks, and each delivery counts. After `max_deliveries` it becomes a dead letter, and a tombstone
  among the groups tells the trainer. A worker that lost its lease may still complete: the first to complete wins.
- **Nothing collected is lost before `acknowledge`**, which the trainer calls once a durable checkpoint covers the
  entry. After a crash `collect_pending` hands out again, in order, what was not acknowledged. The trainer drops ids
  that it has already: it may have died between checkpoint and acknowledgement.
- **`issue` repairs.** It is idempotent by group id and puts back a task that the broker forgot. A trainer that has
  waited long issues again whatever is outstanding.
- **An id is free again after `acknowledge` or `withdraw`.** The same group may then be issued anew. A worker that
  still plays the earlier task publishes nothing.
- **Tasks and groups are never trimmed** (no MAXLEN). The trainer's capacity bounds them; `depth` is for gauges and
  alarms. The bookkeeping holds only what is outstanding. Dead letters are kept for people, and the oldest go first.
- **A broker whose memory is full refuses `issue`, `complete` and `condemn`** with `BrokerFull`, after `full_timeout_s`.
  A refused call has changed nothing. All other calls work, so that acknowledging makes room.

How much survives the broker's own death is the broker's setting. With AOF `always` nothing is lost that was answered.
With `everysec` the last second or two may be lost, even if only the server is killed. What is lost is the end of
history: issuing again, and dropping group ids that one already has, repairs it. Bytes are MessagePack, never pickle.

The keys of a run share the hash tag `{run}`: one slot of a cluster. A run has any number of workers and one trainer,
which `trainer_lease` makes sure of.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import uuid
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Self, TypeVar

from arlarena.proto.streams import lua_scripts as scripts
from arlarena.proto.streams.connection import BrokerFull, Link, StreamError, is_full, redact
from arlarena.proto.streams.entries import (
    DeadLetter,
    Depth,
    Fields,
    GroupEntry,
    GroupLease,
    RawEntry,
    StreamLimits,
    check_run_name,
    dead_letter_of,
    group_id_of,
)
from arlarena.proto.trajectory import Group, GroupTask, SchemaError, decode_group, decode_group_task, encode

__all__ = [
    "BrokerFull",
    "DeadLetter",
    "Depth",
    "GroupEntry",
    "GroupLease",
    "StreamError",
    "StreamLimits",
    "Streams",
    "redact",
]

T = TypeVar("T")

_WORKERS, _TRAINER = "rollout", "trainer"
_KEYS = ("tasks", "groups", "dead", "done", "issued", "reasons")
# How long one blocking read waits. An expired or returned task wakes nobody, so it is also how late that is noticed.
_SLICE_S = 0.5
# Pending entries asked for at a time: a few MB of groups.
_PAGE = 100
# Groups in one call of a script: the broker does nothing else for some 10 ms.
_SCRIPT_PAGE = 250


class Streams:
    """One run's streams, for its trainer or for a worker. Safe for concurrent use by the tasks of one event loop.

    Every method raises `StreamError` when the broker stays away for `reconnect_s`, or refuses, and `BrokerFull` when
    it refuses because its memory is full for `full_timeout_s`.
    """

    def __init__(self, url: str, run: str, limits: StreamLimits) -> None:
        """Use `connect`, which also checks that the broker is there."""
        check_run_name(run)
        self.run, self.limits = run, limits
        self.keys = tuple(f"arl:{{{run}}}:{name}" for name in _KEYS)
        self._tasks, self._groups, self._dead, _, self._issued, _ = self.keys
        self._link = Link(
            url,
            timeout_s=limits.timeout_s,
            reconnect_s=limits.reconnect_s,
            full_timeout_s=limits.full_timeout_s,
            repair=self._create_groups,
        )
        self._collecting = asyncio.Lock()
        self._backlog: deque[RawEntry] = deque()  # claimed, not yet delivered to the caller
        self._handed: set[str] = set()  # the caller has them and has not acknowledged
        self._unsure = True  # whether the broker may have given us entries that are in neither

    @classmethod
    async def connect(
        cls,
        url: str,
        run: str,
        *,
        timeout_s: float = 5.0,
        reconnect_s: float = 30.0,
        lease_ttl_s: float = 60.0,
        max_deliveries: int = 5,
        retry_delay_s: float = 1.0,
        full_timeout_s: float = 0.0,
    ) -> Self:
        """Connect to a redis://, rediss:// or unix:// URL, and create the streams and consumer groups that are missing.

        `StreamLimits` explains the limits.

        Raises:
            StreamError: no broker at `url` (one that is not there is not waited for), or it refuses us.
            ValueError: the run's name or a limit is out of range.
        """
        limits = StreamLimits(timeout_s, reconnect_s, lease_ttl_s, max_deliveries, retry_delay_s, full_timeout_s)
        streams = cls(url, run, limits)
        try:
            await streams._link.first_contact()
        except BaseException:
            await streams.close()
            raise
        return streams

    async def close(self) -> None:
        """Close the connections. Leases and collected entries stay as they are."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def issue(self, tasks: Sequence[GroupTask]) -> int:
        """Queue all `tasks` whose group is not outstanding. Returns how many were put in.

        Raises:
            BrokerFull: no task was put in.
        """
        if not tasks:
            return 0
        pairs = [part for task in tasks for part in (task.group_id, encode(task))]
        return int(await self._script(scripts.ISSUE, *pairs))

    async def outstanding(self) -> set[str]:
        """The ids of groups that are queued, leased, or published and not acknowledged."""
        return {group_id.decode() for group_id in await self._link.command("HKEYS", self._issued)}

    async def withdraw(self, group_ids: Iterable[str]) -> int:
        """Forget groups: remove their tasks and free their ids. Returns how many were outstanding.

        A worker that plays one publishes nothing, and its `renew` returns False. A group that was published already
        stays among the groups until it is acknowledged; the trainer drops it when it comes.
        """
        return sum([int(await self._script(scripts.WITHDRAW, *page)) for page in _pages(list(group_ids))])

    async def collect(self, *, consumer: str, count: int, block_s: float) -> list[GroupEntry]:
        """Up to `count` entries not handed out yet, oldest first; waits up to `block_s` seconds for the first one.

        An entry that cannot be read comes as a `DeadLetter` with the reason, and `dead` keeps a copy of its bytes,
        unless the broker is full. Entries stay ours until `acknowledge`.
        """
        deadline = time.monotonic() + block_s
        async with self._collecting:
            while True:
                await self._fill_backlog(consumer, count, deadline)
                if not self._unsure and (self._backlog or time.monotonic() >= deadline):
                    break
            entries = [await self._open(*raw) for raw in list(self._backlog)[:count]]
            for _ in entries:
                self._backlog.popleft()
            return self._hand_out(entries)

    async def collect_pending(self, *, consumer: str) -> list[GroupEntry]:
        """Everything delivered and not acknowledged, under whichever consumer name, oldest first.

        A resumed trainer begins with this: what was delivered to a dead trainer, under any name, becomes
        `consumer`'s. It may be called again while the trainer runs. It then also returns entries that the caller
        already holds, and the caller ignores those.
        """
        async with self._collecting:
            self._unsure = True
            entries = [await self._open(*raw) for raw in await self._pending(consumer)]
            self._backlog.clear()
            self._unsure = False
            return self._hand_out(entries)

    async def acknowledge(self, entries: Mapping[str, str]) -> None:
        """Forget entries ({stream id: group id}), since a durable checkpoint covers them, and free their group ids.

        Unknown ids are no error. Repeating is harmless, also after the same group was issued again.
        """
        for page in _pages(list(entries.items())):
            await self._script(scripts.ACKNOWLEDGE, *(part for pair in page for part in pair))
            self._handed.difference_update(stream_id for stream_id, _ in page)

    async def condemn(self, entry: GroupEntry, reason: str) -> None:
        """Keep a copy of a group that is unfit for training in `dead`, once. `acknowledge` the entry afterwards.

        Does nothing for an entry that was acknowledged, or that is a dead letter already.

        Raises:
            BrokerFull: no copy was kept; call again later.
        """
        await self._script(scripts.CONDEMN, entry.stream_id, entry.group_id, reason)

    async def depth(self) -> Depth:
        """How full the streams are, all at one moment."""
        tasks, leased, groups, collected, dead = await self._script(scripts.DEPTH)
        return Depth(tasks - leased, leased, groups - collected, collected, dead)

    async def dead_letters(self, count: int = 100) -> list[DeadLetter]:
        """The newest `count` dead letters that are kept, newest first."""
        rows = await self._link.command("XREVRANGE", self._dead, "+", "-", "COUNT", count)
        return [dead_letter_of(stream_id, fields) for stream_id, fields in rows]

    async def reset(self) -> None:
        """Forget all tasks, groups and dead letters of this run, so that its name can be used anew.

        A worker still at work for the old run publishes nothing. The trainer's lease stays.
        """
        async with self._collecting:
            await self._link.command("UNLINK", *self.keys)
            self._handed.clear()
            self._backlog.clear()

    async def lease(self, *, consumer: str, block_s: float) -> GroupLease | None:
        """One task: the oldest that expired or was given back, else the oldest new one; None after `block_s` seconds.

        `consumer` names the worker process, and is unique among those alive.
        """
        deadline = time.monotonic() + block_s
        while True:
            last = time.monotonic() >= deadline
            row = await self._script(scripts.RECLAIM, consumer, self._ttl_ms, self.limits.max_deliveries)
            if row is None:
                for stream_id, fields in await self._read(self._tasks, _WORKERS, consumer, 1, deadline):
                    row = (stream_id, fields.get(b"id", b""), fields.get(b"data", b""), 1)
            lease = await self._open_task(consumer, *row) if row is not None else None
            if lease is not None or last:
                return lease

    async def renew(self, lease: GroupLease) -> bool:
        """Start the lease's time anew. False: it is lost, to another worker or because the group is done."""
        return bool(await self._script(scripts.RENEW, lease.stream_id, lease.consumer, lease.deliveries))

    async def complete(self, lease: GroupLease, group: Group) -> bool:
        """Publish `group` and remove its task, in one script.

        False: nothing was published, because the group was completed or declared dead before, or its task was
        withdrawn, or the run was reset.

        Raises:
            BrokerFull: nothing was published, and the lease stays; renew it and call again later.
            ValueError: `group` is not the one that was leased.
        """
        if group.id != lease.task.group_id:
            raise ValueError(f"the lease is for group {lease.task.group_id!r}, not {group.id!r}")
        # The receipt tells our own repetition, after a lost answer, from a completion by somebody else.
        receipt = f"{lease.consumer} {uuid.uuid4().hex}"
        return bool(await self._script(scripts.COMPLETE, lease.stream_id, group.id, encode(group), receipt))

    async def release(self, lease: GroupLease, *, counted: bool = True) -> None:
        """Give the task back at once. Without effect where the lease is lost.

        A worker that shuts down passes `counted=False`: this delivery then does not count against the task.
        """
        await self._give_back(lease, "", 0.0, counted)

    async def fail(self, lease: GroupLease, reason: str, *, final: bool = False) -> None:
        """Give the task back after a failure of the infrastructure. Without effect where the lease is lost.

        It rests for `retry_delay_s`, doubled with each delivery. After the last one, or if this failure is `final`
        (another try would fail alike), it is a dead letter with this reason.
        """
        delay_s = self.limits.retry_delay_s * 2.0 ** (lease.deliveries - 1)
        await self._give_back(lease, reason, delay_s, True, final=final)

    async def _give_back(
        self, lease: GroupLease, reason: str, delay_s: float, counted: bool, *, final: bool = False
    ) -> None:
        most = 1 if final else self.limits.max_deliveries
        idle_ms = max(0, self._ttl_ms - int(delay_s * 1000))
        holder = (lease.stream_id, lease.consumer, lease.deliveries)
        await self._script(scripts.GIVE_BACK, *holder, reason, idle_ms, most, int(counted))

    @property
    def _ttl_ms(self) -> int:
        return max(1, int(self.limits.lease_ttl_s * 1000))

    async def _script(self, source: str, *args: Any) -> Any:
        return await self._link.script(source, self.keys, args)

    async def _read(self, key: str, group: str, consumer: str, count: int, deadline: float) -> list[RawEntry]:
        """New entries of a stream, waiting one slice at most. If the answer is lost, its entries stay pending."""
        wait_ms = int(min(_SLICE_S, self.limits.timeout_s / 2, deadline - time.monotonic()) * 1000)
        block = ("BLOCK", wait_ms) if wait_ms > 0 else ()  # BLOCK 0 would mean for ever
        reply = await self._link.command(
            "XREADGROUP", "GROUP", group, consumer, "COUNT", count, *block, "STREAMS", key, ">"
        )
        return [entry for _, entries in reply for entry in entries]

    async def _pending(self, consumer: str) -> list[RawEntry]:
        """All unacknowledged entries of `groups`, which become `consumer`'s, oldest first."""
        found, cursor = list[RawEntry](), b"0-0"
        while True:
            cursor, entries, *_ = await self._link.command(
                "XAUTOCLAIM", self._groups, _TRAINER, consumer, 0, cursor, "COUNT", _PAGE
            )
            found.extend(entries)
            if cursor == b"0-0":
                return found

    async def _fill_backlog(self, consumer: str, count: int, deadline: float) -> None:
        """Put into the backlog what the broker gave us before, or else new entries.

        An error, a cancellation or a lost answer may leave entries ours without our knowing: the next round looks for
        them.
        """
        if self._unsure:
            self._backlog = self._unhanded(await self._pending(consumer))
        self._unsure = True
        losses = self._link.losses
        if not self._backlog:
            self._backlog = self._unhanded(await self._read(self._groups, _TRAINER, consumer, count, deadline))
        self._unsure = self._link.losses != losses

    def _unhanded(self, raw: list[RawEntry]) -> deque[RawEntry]:
        """Without those the caller has: a broker that lost the end of history offers them anew."""
        return deque(entry for entry in raw if entry[0].decode() not in self._handed)

    def _hand_out(self, entries: list[GroupEntry]) -> list[GroupEntry]:
        self._handed.update(entry.stream_id for entry in entries)
        return entries

    async def _open(self, stream_id: bytes, fields: Fields) -> GroupEntry:
        if b"data" not in fields:
            return GroupEntry(stream_id.decode(), dead_letter_of(stream_id, fields))
        try:
            return GroupEntry(stream_id.decode(), decode_group(fields[b"data"]))
        except SchemaError as error:
            entry = GroupEntry(stream_id.decode(), DeadLetter(group_id_of(stream_id, fields), str(error), 1))
            # The trainer has to go on, and to acknowledge, before a full broker has room for a copy.
            with contextlib.suppress(BrokerFull):
                await self._link.script(
                    scripts.CONDEMN, self.keys, (entry.stream_id, entry.group_id, str(error)), full_timeout_s=0.0
                )
            return entry

    async def _open_task(
        self, consumer: str, stream_id: bytes, group_id: bytes, data: bytes, deliveries: int
    ) -> GroupLease | None:
        try:
            task = decode_group_task(data)
            if task.group_id.encode() != group_id:
                raise SchemaError(f"the task is for group {task.group_id!r}, its entry for {group_id!r}")
        except SchemaError as error:
            await self._script(scripts.BURY, stream_id, str(error), deliveries)
            return None
        return GroupLease(stream_id.decode(), task, consumer, deliveries)

    async def _create_groups(self) -> None:
        for key, group in ((self._tasks, _WORKERS), (self._groups, _TRAINER)):
            try:
                await self._link.once("XGROUP CREATE", key, group, "0", "MKSTREAM")
            except Exception as error:
                exists = str(error).startswith("BUSYGROUP")
                # A full broker refuses before it looks whether the group is there.
                if not exists and not (is_full(error) and await self._has_group(key, group)):
                    raise

    async def _has_group(self, key: str, group: str) -> bool:
        if not await self._link.once("EXISTS", key):
            return False
        rows = await self._link.once("XINFO GROUPS", key)
        return any(row["name"] == group.encode() for row in rows)


def _pages(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[i : i + _SCRIPT_PAGE] for i in range(0, len(items), _SCRIPT_PAGE))
