"""The queue between a run's trainer and its rollout workers: two streams on Valkey or on Redis (7 or newer).

    trainer  ── issue, withdraw ─────► tasks ──── lease, renew ──► worker
    trainer  ◄─ collect, acknowledge ─ groups ◄── complete ───────┘

Guarantees, even if any process is killed at any time:

- **Each issued group (the episodes of one task) reaches the trainer once**, as a `Group` or as a `DeadLetter`. Only
  the first call of `complete` publishes the group. A worker can complete a group even after its lease has expired.
- **A worker loses its lease if it stops renewing the lease.** A lease is a worker's right to play one group. After
  `lease_ttl_s` without a renewal, another worker can lease the task. After `max_deliveries` deliveries, the task
  becomes a dead letter: it is copied to `dead`, and a notice in `groups` informs the trainer.
- **The broker stores collected groups until `acknowledge`.** The trainer acknowledges a group when a durable checkpoint
  contains the group's effect. After a crash, `collect_pending` returns all unacknowledged groups again, in order. The
  trainer ignores groups that its checkpoint already contains.
- **`issue` restores lost tasks.** The broker can lose tasks in a crash. If no group arrives for a long time, the
  trainer issues all outstanding tasks again. `issue` adds only the lost tasks.
- **A group id can be used again after `acknowledge` or `withdraw`.** If a worker then completes an earlier task with
  this id, `complete` publishes nothing.
- **The broker never trims tasks and groups** (no MAXLEN). It trims only dead letters.
- **A broker whose memory is full loses nothing.** It refuses `issue`, `complete` and `copy_to_dead_letters`. These
  calls raise `BrokerFull` after `full_timeout_s`, and change nothing. `acknowledge` works, and frees memory.

Messages are MessagePack. The keys of a run share the hash tag `{run}`, so a cluster stores them in one slot. If another
trainer takes the lease of the run (`trainer_lease`), the broker refuses the Lua scripts of the first trainer.
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
# The longest blocking read, in seconds. Only new tasks end a blocking read, so other free tasks may wait this long.
_SLICE_S = 0.5
# The maximum number of pending entries that one command claims. 100 groups are a few MB.
_PAGE = 100
# The maximum number of groups in one call of a script. A call with 250 groups blocks the broker for about 10 ms.
_SCRIPT_PAGE = 250


class Streams:
    """The streams of one run, for its trainer or a worker. Safe for concurrent use by the tasks of one event loop.

    All methods raise `StreamError` if the broker is unreachable for `reconnect_s`, or if the broker refuses a command.
    `StreamLimits` describes `reconnect_s` and the other limits.
    """

    def __init__(self, url: str, run: str, limits: StreamLimits, fencing_token: bytes | None = None) -> None:
        """Call `connect` instead. `connect` also checks that the broker is reachable."""
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
        self._backlog_incomplete = True  # the backlog may lack undelivered entries that this consumer has claimed

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

        `StreamLimits` describes the limits. `connect` does not retry if the broker is unreachable.

        `fencing_token`: the trainer passes its `TrainerLease.token`; workers pass nothing. If another trainer has taken
        the lease, calls with this token raise `TrainerLeaseLost` and change nothing. The methods `collect`,
        `collect_pending`, `outstanding` and `dead_letters` do not send the token, so the broker does not refuse them.

        Raises:
            BrokerFull: a consumer group is missing, and the broker's memory is full.
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
        """Queue `tasks`, except tasks whose group is queued or published. Returns the number of added tasks.

        Raises:
            BrokerFull: the broker's memory is full. No task was added.
        """
        if not tasks:
            return 0
        pairs = [part for task in tasks for part in (task.group_id, encode(task))]
        return int(await self._script(scripts.ISSUE, *pairs))

    async def outstanding(self) -> set[str]:
        """Returns the ids of the outstanding groups (from `issue` until `acknowledge` or `withdraw`)."""
        return {group_id.decode() for group_id in await self._link.command("HKEYS", self._issued)}

    async def withdraw(self, group_ids: Iterable[str]) -> int:
        """Remove the tasks of groups, and free the group ids. Returns how many of the groups were outstanding.

        If a worker plays a removed task, `renew` and `complete` return False for it. Published groups stay in the
        stream `groups` until the trainer acknowledges them.
        """
        return sum([int(await self._script(scripts.WITHDRAW, *page)) for page in _pages(list(group_ids))])

    async def collect(self, *, consumer: str, count: int, block_s: float) -> list[GroupEntry]:
        """Collect up to `count` new groups, oldest first. Returns [] if no group arrives within `block_s` seconds.

        If a group cannot be decoded, its entry has a `DeadLetter` with the reason, and the broker copies the group to
        the stream `dead`. A full broker makes no copy. All entries stay pending for `consumer` until `acknowledge`.
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
        """Collect all unacknowledged groups again, oldest first. Any consumer may have collected them before.

        The broker assigns the groups to `consumer`. A resumed trainer calls this method first. A later call also
        returns groups that the caller already has. The caller must ignore these groups.
        """
        async with self._collecting:
            self._backlog_incomplete = True
            entries = [await self._decode_entry(*raw) for raw in await self._claim_pending(consumer)]
            self._backlog.clear()
            self._backlog_incomplete = False
            return self._deliver(entries)

    async def acknowledge(self, entries: Mapping[str, str]) -> None:
        """Remove entries of the stream `groups`, and free their group ids. Save a durable checkpoint before this call.

        `entries`: {stream id: group id}. Unknown ids are ignored. A repeated call has no effect, even if the group id
        was issued again after the first call.
        """
        for page in _pages(list(entries.items())):
            await self._script(scripts.ACKNOWLEDGE, *(part for pair in page for part in pair))
            self._delivered.difference_update(stream_id for stream_id, _ in page)

    async def copy_to_dead_letters(self, entry: GroupEntry, reason: str) -> None:
        """Copy the unusable group of `entry` to the dead letters. A second call makes no second copy.

        The caller must also `acknowledge` the entry. Acknowledged entries and notices of dead letters are not copied.

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

        If a worker completes a removed task, `complete` publishes nothing. The trainer's lease does not change.
        """
        async with self._collecting:
            await self._script(scripts.RESET)
            self._delivered.clear()
            self._backlog.clear()

    async def lease(self, *, consumer: str, block_s: float) -> GroupLease | None:
        """Lease a task. Returns None if there is no task for `block_s` seconds.

        Tasks with an expired lease and tasks that were given back come first, then new tasks. Within these two kinds,
        older tasks come first. `consumer`: a name for the worker process, unique among the running processes.
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
        """Renew the lease for `lease_ttl_s`. Returns False if another worker has the task, or the task was removed."""
        return bool(await self._script(scripts.RENEW, lease.stream_id, lease.consumer, lease.deliveries))

    async def complete(self, lease: GroupLease, group: Group) -> bool:
        """Publish `group` and remove its task. Returns True if this call published the group.

        Returns False if this worker or another worker published the group before. Also returns False if the task has
        become a dead letter, or if `withdraw` or `reset` removed the task.

        Raises:
            BrokerFull: the broker's memory is full. Nothing was published. Renew the lease and call again later.
            ValueError: `group` is not the leased group.
        """
        if group.id != lease.task.group_id:
            raise ValueError(f"the lease is for group {lease.task.group_id!r}, not {group.id!r}")
        # If the reply is lost, the script runs again. It recognises this receipt and returns 1 again.
        receipt = f"{lease.consumer} {uuid.uuid4().hex}"
        return bool(await self._script(scripts.COMPLETE, lease.stream_id, group.id, encode(group), receipt))

    async def release(self, lease: GroupLease, *, counted: bool = True) -> None:
        """Give the task back. Another worker can then lease it at once. Has no effect if another worker has the task.

        With `counted=False`, the delivery does not count towards `max_deliveries`. Workers pass `counted=False` when
        they shut down. With `counted=True`, a task with `max_deliveries` deliveries becomes a dead letter.
        """
        await self._give_back(lease, "", 0.0, counted)

    async def fail(self, lease: GroupLease, reason: str, *, final: bool = False) -> None:
        """Give the task back after an infrastructure failure. Has no effect if another worker has the task.

        Another worker can lease the task after `retry_delay_s`. The delay doubles with each delivery, and is at most
        `lease_ttl_s`. After `max_deliveries` deliveries, the task becomes a dead letter with `reason`. Use `final=True`
        if a retry would fail again: the task then becomes a dead letter at once.
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
        """Read up to `count` new entries of the stream `key`. Returns [] if none arrives within `_SLICE_S`."""
        wait_ms = int(min(_SLICE_S, self.limits.timeout_s / 2, deadline - time.monotonic()) * 1000)
        block = ("BLOCK", wait_ms) if wait_ms > 0 else ()  # BLOCK 0 would block forever
        reply = await self._link.command(
            "XREADGROUP", "GROUP", group, consumer, "COUNT", count, *block, "STREAMS", key, ">"
        )
        return [entry for _, entries in reply for entry in entries]

    async def _claim_pending(self, consumer: str) -> list[RawEntry]:
        """Claim all collected and unacknowledged entries of `groups` for `consumer`. Returns them, oldest first."""
        claimed, cursor = list[RawEntry](), b"0-0"
        while True:
            cursor, entries, *_ = await self._link.command(
                "XAUTOCLAIM", self._groups, _TRAINER, consumer, 0, cursor, "COUNT", _PAGE
            )
            claimed.extend(entries)
            if cursor == b"0-0":
                return claimed

    async def _fill_backlog(self, consumer: str, count: int, deadline: float) -> None:
        """If the backlog is empty, fill it with up to `count` new entries of the stream `groups`.

        After an error, a cancellation or a lost reply, the backlog may lack entries that the broker has assigned to
        `consumer`. The next call therefore first claims all pending entries again.
        """
        if self._backlog_incomplete:
            self._backlog = self._undelivered(await self._claim_pending(consumer))
        self._backlog_incomplete = True
        losses = self._link.losses
        if not self._backlog:
            self._backlog = self._undelivered(await self._read(self._groups, _TRAINER, consumer, count, deadline))
        self._backlog_incomplete = self._link.losses != losses

    def _undelivered(self, raw: list[RawEntry]) -> deque[RawEntry]:
        """Returns the entries of `raw` that were not delivered to the caller yet. A broker may send an entry twice."""
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
            # A full broker stores no copy. The trainer continues without a copy, and its acknowledgement frees memory.
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
