"""The queue between the trainer and rollout workers. Each run has two streams on Valkey or Redis (7 or newer).

    trainer  ── issue, withdraw ─────► tasks ──── lease, renew ──► worker
    trainer  ◄─ collect, acknowledge ─ groups ◄── complete ───────┘

Guarantees, even if any process is killed at any time:

- **Each issued group (the episodes of one task) reaches the trainer once**, as a `Group` or as a `DeadLetter`.
  `complete` publishes the group, removes the task and records the group id as done. A second call has no effect.
- **A worker loses its lease if it stops renewing the lease.** A lease is a worker's right to play one group. After
  `lease_ttl_s` without a renewal, another worker can lease the task. After `max_deliveries` deliveries, the task
  becomes a dead letter: it is copied to `dead`, and a notice in `groups` informs the trainer. A worker can complete a
  group even after the lease has expired. Only the first completion is published.
- **The broker stores collected groups until `acknowledge`.** The trainer acknowledges an entry when a durable
  checkpoint contains its effect. After a crash, `collect_pending` returns all unacknowledged entries again, in order.
  The trainer ignores groups that its checkpoint already contains.
- **`issue` restores lost tasks.** The broker may lose tasks. After a long wait, the trainer therefore issues all
  outstanding tasks again. `issue` adds only the tasks whose group id is not in the queue.
- **A group id can be used again after `acknowledge` or `withdraw`.** If a worker then completes an earlier task with
  this id, nothing is published.
- **Tasks and groups are never trimmed** (no MAXLEN). The trainer limits their number by the number of groups that it
  issues. The number of dead letters is limited.
- **A broker whose memory is full refuses `issue`, `complete` and `copy_to_dead_letters`.** These calls raise
  `BrokerFull` after `full_timeout_s`, and change nothing. All other calls work, and `acknowledge` frees memory.

Durability depends on the broker's append-only file. With `appendfsync always`, no acknowledged write is lost. With
`everysec`, the writes of the last one or two seconds may be lost. The trainer then issues the outstanding tasks again,
and ignores groups that it already has. Messages are MessagePack.

The keys of a run share the hash tag `{run}`, so a cluster stores them in one slot. A run has any number of workers and
one trainer, which holds a lease (`trainer_lease`). Calls with the fencing token of an earlier lease fail.
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
from arlarena.proto.streams.lease_holder import last_trainer_key
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
# The longest blocking read, in seconds. A given-back or expired task does not end the read, so it may wait this long.
_SLICE_S = 0.5
# The number of pending entries that one command claims. 100 groups are a few MB.
_PAGE = 100
# The number of groups in one call of a script. A call with 250 groups blocks the broker for about 10 ms.
_SCRIPT_PAGE = 250


class Streams:
    """The streams of one run, for its trainer or a worker. Safe for concurrent use by the tasks of one event loop.

    All methods raise `StreamError` if the broker is unreachable for `reconnect_s` or refuses a command. They raise
    `BrokerFull` if the broker's memory is full for `full_timeout_s`.
    """

    def __init__(self, url: str, run: str, limits: StreamLimits, fencing_token: bytes | None = None) -> None:
        """Call `connect` instead, which also checks that the broker is reachable."""
        check_run_name(run)
        self.run, self.limits = run, limits
        self.keys = tuple(f"arl:{{{run}}}:{name}" for name in _KEYS)
        self._tasks, self._groups, self._dead, _, self._issued, _ = self.keys
        self._token = () if fencing_token is None else (fencing_token,)
        self._script_keys = (*self.keys, *(last_trainer_key(run) for _ in self._token))
        self._link = Link(
            url,
            timeout_s=limits.timeout_s,
            reconnect_s=limits.reconnect_s,
            full_timeout_s=limits.full_timeout_s,
            repair=self._create_consumer_groups,
        )
        self._collecting = asyncio.Lock()
        self._backlog: deque[RawEntry] = deque()  # entries that are claimed, but not yet delivered to the caller
        self._delivered: set[str] = set()  # stream ids that are delivered to the caller, but not yet acknowledged
        self._backlog_incomplete = True  # both may lack entries that this consumer has claimed

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
        fencing_token: bytes | None = None,
    ) -> Self:
        """Connect to a redis://, rediss:// or unix:// URL, and create missing streams and consumer groups.

        `StreamLimits` documents the limits. `connect` does not retry an unreachable broker. `fencing_token`: the
        `TrainerLease.token`. If another trainer has the lease, all calls that change the streams raise
        `TrainerLeaseLost`.

        Raises:
            StreamError: the broker at `url` is unreachable or refuses the connection.
            ValueError: the run's name or a limit is invalid.
        """
        limits = StreamLimits(timeout_s, reconnect_s, lease_ttl_s, max_deliveries, retry_delay_s, full_timeout_s)
        streams = cls(url, run, limits, fencing_token)
        try:
            await streams._link.first_contact()
        except BaseException:
            await streams.close()
            raise
        return streams

    async def close(self) -> None:
        """Close the connections. Leases and collected entries do not change."""
        await self._link.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def issue(self, tasks: Sequence[GroupTask]) -> int:
        """Queue all `tasks` whose group is not outstanding. Returns the number of added tasks.

        Raises:
            BrokerFull: the broker's memory is full. No task was added.
        """
        if not tasks:
            return 0
        pairs = [part for task in tasks for part in (task.group_id, encode(task))]
        return int(await self._script(scripts.ISSUE, *pairs))

    async def outstanding(self) -> set[str]:
        """Returns the ids of groups that are queued, leased, or published but not acknowledged."""
        return {group_id.decode() for group_id in await self._link.command("HKEYS", self._issued)}

    async def withdraw(self, group_ids: Iterable[str]) -> int:
        """Remove the tasks of groups and free the group ids. Returns how many of these groups were outstanding.

        If a worker plays a removed task, its `renew` returns False and its `complete` publishes nothing. Groups that
        are already published stay in `groups` until the trainer acknowledges them.
        """
        return sum([int(await self._script(scripts.WITHDRAW, *page)) for page in _pages(list(group_ids))])

    async def collect(self, *, consumer: str, count: int, block_s: float) -> list[GroupEntry]:
        """Collect up to `count` new entries, oldest first. Waits up to `block_s` seconds for the first entry.

        An entry that cannot be decoded is returned as a `DeadLetter` with the reason. It is also copied to `dead` if
        the broker is not full. Entries stay pending for `consumer` until `acknowledge` is called.
        """
        deadline = time.monotonic() + block_s
        async with self._collecting:
            while True:
                await self._fill_backlog(consumer, count, deadline)
                if not self._backlog_incomplete and (self._backlog or time.monotonic() >= deadline):
                    break
            entries = [await self._decode_entry(*raw) for raw in list(self._backlog)[:count]]
            for _ in entries:
                self._backlog.popleft()
            return self._deliver(entries)

    async def collect_pending(self, *, consumer: str) -> list[GroupEntry]:
        """Collect all entries that were collected by any consumer and not acknowledged, oldest first.

        The entries are assigned to `consumer`. A resumed trainer calls this method first. A later call may return
        entries that the caller already has. The caller must ignore these entries.
        """
        async with self._collecting:
            self._backlog_incomplete = True
            entries = [await self._decode_entry(*raw) for raw in await self._claim_pending(consumer)]
            self._backlog.clear()
            self._backlog_incomplete = False
            return self._deliver(entries)

    async def acknowledge(self, entries: Mapping[str, str]) -> None:
        """Remove entries ({stream id: group id}) and free their group ids. Save a durable checkpoint before this call.

        Unknown ids are ignored. A repeated call has no effect, even if the same group was issued again.
        """
        for page in _pages(list(entries.items())):
            await self._script(scripts.ACKNOWLEDGE, *(part for pair in page for part in pair))
            self._delivered.difference_update(stream_id for stream_id, _ in page)

    async def copy_to_dead_letters(self, entry: GroupEntry, reason: str) -> None:
        """Copy an unusable group to the dead letters. A second call makes no second copy.

        The caller must also `acknowledge` the entry. Acknowledged entries and dead letters are not copied.

        Raises:
            BrokerFull: the broker's memory is full. The group was not copied. Call again later.
        """
        await self._script(scripts.COPY_GROUP, entry.stream_id, entry.group_id, reason)

    async def depth(self) -> Depth:
        """Returns the current number of tasks and groups in each state."""
        tasks, leased, groups, collected, dead = await self._script(scripts.DEPTH)
        return Depth(tasks - leased, leased, groups - collected, collected, dead)

    async def dead_letters(self, count: int = 100) -> list[DeadLetter]:
        """Returns up to `count` dead letters, newest first."""
        rows = await self._link.command("XREVRANGE", self._dead, "+", "-", "COUNT", count)
        return [dead_letter_of(stream_id, fields) for stream_id, fields in rows]

    async def reset(self) -> None:
        """Remove all tasks, groups and dead letters of this run, so that a new run can have the same name.

        If a worker completes a removed task, nothing is published. The trainer's lease does not change.
        """
        async with self._collecting:
            await self._script(scripts.RESET)
            self._delivered.clear()
            self._backlog.clear()

    async def lease(self, *, consumer: str, block_s: float) -> GroupLease | None:
        """Lease a task. Returns None if there is no task for `block_s` seconds.

        Tasks that were given back or whose lease expired come before new tasks. Older tasks come before newer tasks.
        `consumer`: name of the worker process. The name must be unique among the running processes.
        """
        deadline = time.monotonic() + block_s
        while True:
            last = time.monotonic() >= deadline
            row = await self._script(scripts.RECLAIM, consumer, self._ttl_ms, self.limits.max_deliveries)
            if row is None:
                for stream_id, fields in await self._read(self._tasks, _WORKERS, consumer, 1, deadline):
                    row = (stream_id, fields.get(b"id", b""), fields.get(b"data", b""), 1)
            lease = await self._decode_task(consumer, *row) if row is not None else None
            if lease is not None or last:
                return lease

    async def renew(self, lease: GroupLease) -> bool:
        """Renew the lease for `lease_ttl_s`. Returns False if another worker has the task or the task was removed."""
        return bool(await self._script(scripts.RENEW, lease.stream_id, lease.consumer, lease.deliveries))

    async def complete(self, lease: GroupLease, group: Group) -> bool:
        """Publish `group` and remove its task, in one script.

        Returns False if another worker completed the group, or if the group is a dead letter or was withdrawn or reset.

        Raises:
            BrokerFull: the broker's memory is full. Nothing was published. Renew the lease and call again later.
            ValueError: `group` is not the leased group.
        """
        if group.id != lease.task.group_id:
            raise ValueError(f"the lease is for group {lease.task.group_id!r}, not {group.id!r}")
        # The receipt distinguishes a repeated call of this worker from a completion by another worker.
        receipt = f"{lease.consumer} {uuid.uuid4().hex}"
        return bool(await self._script(scripts.COMPLETE, lease.stream_id, group.id, encode(group), receipt))

    async def release(self, lease: GroupLease, *, counted: bool = True) -> None:
        """Give the task back, so that another worker can lease it at once. Has no effect if the lease is lost.

        With `counted=False`, the delivery does not count towards `max_deliveries`. Workers pass this at a shutdown.
        """
        await self._give_back(lease, "", 0.0, counted)

    async def fail(self, lease: GroupLease, reason: str, *, final: bool = False) -> None:
        """Give the task back after an infrastructure failure. Has no effect if the lease is lost.

        The task is delivered again after `retry_delay_s`. This delay doubles with each delivery. After the last
        delivery, the task becomes a dead letter with `reason`. With `final=True`, the task becomes a dead letter at
        once. Use `final=True` if a retry would fail in the same way.
        """
        delay_s = self.limits.retry_delay_s * 2.0 ** (lease.deliveries - 1)
        await self._give_back(lease, reason, delay_s, True, final=final)

    async def _give_back(
        self, lease: GroupLease, reason: str, delay_s: float, counted: bool, *, final: bool = False
    ) -> None:
        max_deliveries = 1 if final else self.limits.max_deliveries
        idle_ms = max(0, self._ttl_ms - int(delay_s * 1000))
        holder = (lease.stream_id, lease.consumer, lease.deliveries)
        await self._script(scripts.GIVE_BACK, *holder, reason, idle_ms, max_deliveries, int(counted))

    @property
    def _ttl_ms(self) -> int:
        return max(1, int(self.limits.lease_ttl_s * 1000))

    async def _script(self, source: str, *args: Any, full_timeout_s: float | None = None) -> Any:
        return await self._link.script(source, self._script_keys, (*args, *self._token), full_timeout_s=full_timeout_s)

    async def _read(self, key: str, group: str, consumer: str, count: int, deadline: float) -> list[RawEntry]:
        """Read new entries of a stream. Waits at most `_SLICE_S`. Entries in a lost reply stay pending."""
        wait_ms = int(min(_SLICE_S, self.limits.timeout_s / 2, deadline - time.monotonic()) * 1000)
        block = ("BLOCK", wait_ms) if wait_ms > 0 else ()  # BLOCK 0 would block forever
        reply = await self._link.command(
            "XREADGROUP", "GROUP", group, consumer, "COUNT", count, *block, "STREAMS", key, ">"
        )
        return [entry for _, entries in reply for entry in entries]

    async def _claim_pending(self, consumer: str) -> list[RawEntry]:
        """Claim all unacknowledged entries of `groups` for `consumer`. Returns the entries, oldest first."""
        claimed, cursor = list[RawEntry](), b"0-0"
        while True:
            cursor, entries, *_ = await self._link.command(
                "XAUTOCLAIM", self._groups, _TRAINER, consumer, 0, cursor, "COUNT", _PAGE
            )
            claimed.extend(entries)
            if cursor == b"0-0":
                return claimed

    async def _fill_backlog(self, consumer: str, count: int, deadline: float) -> None:
        """Fill the backlog with claimed entries that the caller does not have yet. Without such entries, read new ones.

        After an error, a cancellation or a lost reply, the backlog may lack claimed entries. The next call then claims
        all pending entries again.
        """
        if self._backlog_incomplete:
            self._backlog = self._undelivered(await self._claim_pending(consumer))
        self._backlog_incomplete = True
        losses = self._link.losses
        if not self._backlog:
            self._backlog = self._undelivered(await self._read(self._groups, _TRAINER, consumer, count, deadline))
        self._backlog_incomplete = self._link.losses != losses

    def _undelivered(self, raw: list[RawEntry]) -> deque[RawEntry]:
        """Returns the entries of `raw` that the caller does not have yet. A broker may deliver an entry twice."""
        return deque(entry for entry in raw if entry[0].decode() not in self._delivered)

    def _deliver(self, entries: list[GroupEntry]) -> list[GroupEntry]:
        self._delivered.update(entry.stream_id for entry in entries)
        return entries

    async def _decode_entry(self, stream_id: bytes, fields: Fields) -> GroupEntry:
        if b"data" not in fields:
            return GroupEntry(stream_id.decode(), dead_letter_of(stream_id, fields))
        try:
            return GroupEntry(stream_id.decode(), decode_group(fields[b"data"]))
        except SchemaError as error:
            reason = str(error)
            entry = GroupEntry(stream_id.decode(), DeadLetter(group_id_of(stream_id, fields), reason, 1))
            # A full broker stores no copy. The trainer continues without a copy, because `acknowledge` frees memory.
            with contextlib.suppress(BrokerFull):
                await self._script(scripts.COPY_GROUP, entry.stream_id, entry.group_id, reason, full_timeout_s=0.0)
            return entry

    async def _decode_task(
        self, consumer: str, stream_id: bytes, group_id: bytes, data: bytes, deliveries: int
    ) -> GroupLease | None:
        try:
            task = decode_group_task(data)
            if task.group_id.encode() != group_id:
                raise SchemaError(f"the task is for group {task.group_id!r}, but its stream entry is for {group_id!r}")
        except SchemaError as error:
            await self._script(scripts.DEAD_LETTER, stream_id, str(error), deliveries)
            return None
        return GroupLease(stream_id.decode(), task, consumer, deliveries)

    async def _create_consumer_groups(self) -> None:
        for key, group in ((self._tasks, _WORKERS), (self._groups, _TRAINER)):
            try:
                await self._link.execute_without_retry("XGROUP CREATE", key, group, "0", "MKSTREAM")
            except Exception as error:
                exists = str(error).startswith("BUSYGROUP")
                # A full broker refuses the command even if the consumer group exists.
                if not exists and not (is_full(error) and await self._has_consumer_group(key, group)):
                    raise

    async def _has_consumer_group(self, key: str, group: str) -> bool:
        if not await self._link.execute_without_retry("EXISTS", key):
            return False
        rows = await self._link.execute_without_retry("XINFO GROUPS", key)
        return any(row["name"] == group.encode() for row in rows)


def _pages(items: Sequence[T]) -> Iterator[Sequence[T]]:
    return (items[i : i + _SCRIPT_PAGE] for i in range(0, len(items), _SCRIPT_PAGE))
