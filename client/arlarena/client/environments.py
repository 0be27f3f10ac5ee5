"""Environments, over HTTP: sessions that are opened, reset, stepped and closed, thousands at a time.

    async with EnvironmentClient("http://127.0.0.1:8100") as environments:
        (session,) = await environments.open(1)
        state = await session.reset(split="train", index=7, seed=0)
        while not state.done:
            state = await session.step("<think>…</think><action>up</action>")
        await session.close()

Calls of concurrent sessions share requests (see `Batcher`). Each step carries its `step_index`, so a request whose
answer was lost is sent again without moving twice.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from arlarena.client.arguments import number_of, seconds_of, shown, text_of
from arlarena.client.batcher import Batcher
from arlarena.client.errors import PolicyFault, ProtocolError, Refused, ServiceError, SessionLost, Unavailable
from arlarena.client.transport import Answer, AsyncClosing, HttpTransport, Timeouts
from arlarena.proto.env_api import (
    EPISODE_ID_CHARS,
    Action,
    BatchItem,
    BatchReply,
    BatchRequest,
    BatchResult,
    CreateSessions,
    Error,
    ExpertReply,
    ForkRequest,
    Info,
    Metadata,
    Observation,
    OpenedSession,
    RestoreRequest,
    SessionList,
    Snapshot,
)

# Above the server's limits of a step (75 s) and of a reset (60 s): the server's own error names what was slow.
REQUEST_S = 90.0
# A request of so many characters of actions is at most 3 MiB of JSON, and servers take 4 MiB.
MOST_CHARS = 1 << 19
MOST_INFO_BYTES = 1 << 20  # its options may hold anything, each value of which may take a hundred bytes
DEADLINE_SHARE = 0.95  # of the time for a request: the server's answer has to arrive before the client gives up
UNKNOWN_SESSION = "unknown_session"  # by which a server says that it does not know a session (any longer)

_NO_REASON = Error("unknown", "no reason given", "infra", False)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """What the environment says after a reset or a step.

    `observation` is for the player, `metadata` for whoever trains or scores. `reward`: of the step just taken, 0 after
    a reset.
    """

    observation: Observation
    metadata: Metadata
    reward: float

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.observation.terminated or self.observation.truncated

    @property
    def prompt(self) -> str:
        """The user message for the policy."""
        return self.observation.prompt

    @property
    def images(self) -> tuple[str, ...]:
        """Hashes of the frames."""
        return tuple(image.sha256 for image in self.observation.images)


def _ttl(seconds: float | None) -> float | None:
    return None if seconds is None else seconds_of("ttl_s", seconds, positive=True)


def _episode_id(value: str) -> str:
    episode_id = text_of("episode_id", value)
    if len(episode_id) > EPISODE_ID_CHARS:
        raise ValueError(f"episode_id has {len(episode_id)} characters, and may have {EPISODE_ID_CHARS}")
    return episode_id


def _session_error(what: str, error: Error) -> ServiceError:
    message = f"{what}: {error.code}: {error.message}"
    if error.code == UNKNOWN_SESSION:
        return SessionLost(message)
    if error.retryable or error.blame == "infra":
        return Unavailable(message)
    if error.blame == "policy":
        return PolicyFault(message, 422, error.code)
    return Refused(message, 400)


class Session:
    """One environment of a server, held by one player: its calls must not overlap."""

    def __init__(self, client: EnvironmentClient, session_id: str, step: int = 0) -> None:
        """Made by `EnvironmentClient.open` and `fork`."""
        self.id = session_id
        self._client = client
        self._step = step

    async def reset(
        self,
        *,
        split: str | None = None,
        index: int | None = None,
        seed: int | None = None,
        task_id: str | None = None,
        episode_id: str | None = None,
    ) -> StepOutcome:
        """Begin a task: `task_id`, or `index` of `split`, or the one that `seed` means; by default the first for
        training. Beside an index or a task_id, `seed` seeds what is random within the episode.

        Raises:
            SessionLost: the server does not know this session; open another.
            Unavailable: the server is down or failing.
            Refused: there is no such task.
            TypeError, ValueError: an argument that cannot be sent.
        """
        state = await self._client.call(
            BatchItem(
                session_id=self.id,
                op="reset",
                split=None if split is None else text_of("split", split),
                index=None if index is None else number_of("index", index),
                seed=None if seed is None else number_of("seed", seed),
                task_id=None if task_id is None else text_of("task_id", task_id),
                episode_id=None if episode_id is None else _episode_id(episode_id),
            )
        )
        self._step = state.observation.step
        return state

    async def step(self, text: str) -> StepOutcome:
        """Take one step with a reply or a bare action. Errors as in `reset`."""
        state = await self._client.call(
            BatchItem(session_id=self.id, op="step", action=Action(text_of("the action", text)), step_index=self._step)
        )
        self._step += 1
        return state

    async def expert(self) -> ExpertReply:
        """What the environment's expert would say now.

        Raises:
            Refused: the environment has no expert, or the split is held out (403).
        """
        return await self._client.expert(self.id)

    async def fork(self, count: int = 1, *, ttl_s: float | None = None) -> list[Session]:
        """Open `count` sessions in the state of this one, all or none. Errors as in `open`; Refused before a reset."""
        wish = ForkRequest(number_of("count", count, least=1), ttl_s=_ttl(ttl_s))
        opened = await self._client.opened(f"/v1/sessions/{self.id}/fork", wish)
        return [Session(self._client, one.session_id, one.step_count) for one in opened]

    async def snapshot(self) -> Snapshot:
        """Keep this state, to go back to it by `restore`, here or in another session. Errors as in `expert`."""
        return await self._client.snapshot(self.id)

    async def restore(self, snapshot: Snapshot) -> StepOutcome:
        """Go back to a kept state, as often as wanted; the reward is 0. Refused where the server has it no longer,
        TypeError where it is no snapshot.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"restore takes what snapshot() returned, not {shown(snapshot)}")
        state = await self._client.restore(self.id, snapshot.snapshot_id)
        self._step = state.observation.step
        return state

    async def close(self) -> None:
        """Give the session back. A server that does not know it, or is away, has nothing left to close."""
        try:
            await self._client.close_session(self.id)
        except ServiceError:
            return


class EnvironmentClient(AsyncClosing):
    """An environment server. Safe for any number of concurrent sessions on one event loop."""

    def __init__(
        self,
        url: str,
        timeouts: Timeouts | None = None,
        *,
        retries: int = 2,
        batch_window_s: float = 0.001,
        batch_size: int = 256,
        token: str | None = None,
    ) -> None:
        """`retries`: repetitions of a request to an unavailable server. For the batches see `Batcher`. `token`: the
        server's bearer token, where it asks for one.

        Raises:
            TypeError, ValueError: an argument that cannot be used; the message names it.
        """
        self.transport = HttpTransport(
            url,
            Timeouts(request_s=REQUEST_S) if timeouts is None else timeouts,
            token,
            service="environment server",
        )
        self.retries = number_of("retries", retries)
        self._batcher: Batcher[BatchItem, StepOutcome | ServiceError | None] = Batcher(
            self._send_batch,
            window_s=seconds_of("batch_window_s", batch_window_s),
            size=number_of("batch_size", batch_size, least=1),
        )
        self._encoder = msgspec.json.Encoder()
        self._results = msgspec.json.Decoder(BatchReply)

    @property
    def url(self) -> str:
        """The base URL."""
        return self.transport.url

    async def close(self) -> None:
        """Send what waits, then close all connections. Sessions stay open until their idle time is over."""
        await self._batcher.close()
        await self.transport.close()

    async def open(self, count: int, *, ttl_s: float | None = None, group_id: str | None = None) -> list[Session]:
        """Open `count` sessions, all or none.

        Raises:
            Full: the server has no room for that many now.
            Unavailable: the server is down or failing.
            Refused: `count` or `ttl_s` is out of the server's range.
            TypeError, ValueError: `count` or `ttl_s` is not a number, or out of range.
        """
        wish = CreateSessions(
            count=number_of("count", count, least=1),
            ttl_s=_ttl(ttl_s),
            group_id=None if group_id is None else text_of("group_id", group_id),
        )
        return [Session(self, one.session_id) for one in await self.opened("/v1/sessions", wish)]

    async def opened(self, path: str, wish: CreateSessions | ForkRequest) -> list[OpenedSession]:
        """What a request that opens sessions gives, all or none."""
        # Sent once: a repetition after a lost answer would leave the first lot open until its idle time is over.
        answer = await self.transport.request("POST", path, self._encoder.encode(wish))
        opened = _read(_accepted(answer), SessionList).sessions
        if len(opened) != wish.count:
            raise answer.malformed(f"asked for {wish.count} sessions, got {len(opened)}")
        return opened

    async def snapshot(self, session_id: str) -> Snapshot:
        """See `Session.snapshot`."""
        return _read(_accepted(await self.transport.request("POST", f"/v1/sessions/{session_id}/snapshot")), Snapshot)

    async def restore(self, session_id: str, snapshot_id: str) -> StepOutcome:
        """See `Session.restore`."""
        body = self._encoder.encode(RestoreRequest(session_id))
        answer = _accepted(await self._send("POST", f"/v1/snapshots/{snapshot_id}/restore", body))
        result = _read(answer, OpenedSession).result
        if result is None or result.metadata is None:
            raise answer.malformed("no state")
        return StepOutcome(result.observation, result.metadata, 0.0)

    async def info(self) -> Info:
        """What is played here: name, version, template, parser, splits. Errors as in `Session.reset`."""
        return _read(_accepted(await self._send("GET", "/v1/info", max_answer_bytes=MOST_INFO_BYTES)), Info)

    async def ready(self) -> bool:
        """Whether `/ready` answers 200; asked once."""
        try:
            answer = await self.transport.request("GET", "/ready", timeout_s=self.transport.timeouts.connect_s)
        except Unavailable:
            return False
        return answer.status == 200

    async def call(self, item: BatchItem) -> StepOutcome:
        """A reset or a step, in a request shared with others."""
        result = await self._batcher.submit(item)
        if isinstance(result, ServiceError):
            raise result
        assert result is not None
        return result

    async def expert(self, session_id: str) -> ExpertReply:
        """See `Session.expert`."""
        reply = _read(_accepted(await self._send("GET", f"/v1/sessions/{session_id}/expert")), ExpertReply)
        return reply if reply.plan else ExpertReply(reply.text, [reply.text])

    async def close_session(self, session_id: str) -> None:
        """See `Session.close`."""
        result = await self._batcher.submit(BatchItem(session_id=session_id, op="close"))
        if isinstance(result, ServiceError):
            raise result

    async def _send(
        self, method: str, path: str, body: bytes | None = None, max_answer_bytes: int | None = None
    ) -> Answer:
        """Send, and send again while the server is unavailable; only for what may be repeated."""
        return await self.transport.request(method, path, body, max_answer_bytes=max_answer_bytes, retries=self.retries)

    async def _send_batch(self, items: Sequence[BatchItem]) -> Sequence[StepOutcome | ServiceError | None]:
        """The results of all items, whose texts may need several requests."""
        found = await asyncio.gather(*map(self._send_part, _parts(items)))
        return [result for part in found for result in part]

    async def _send_part(self, items: Sequence[BatchItem]) -> Sequence[StepOutcome | ServiceError | None]:
        """A repetition is safe: a reset begins anew, a step of an old index gets its old answer, a close twice is a
        close.
        """
        body = self._encoder.encode(
            BatchRequest(list(items), deadline_s=DEADLINE_SHARE * self.transport.timeouts.request_s)
        )
        answer = _accepted(await self._send("POST", "/v1/batch", body))
        try:
            results = self._results.decode(answer.body).results
        except msgspec.MsgspecError as error:
            raise answer.malformed(error) from error
        if len(results) != len(items):
            raise answer.malformed(f"{len(items)} items but {len(results)} results")
        return [self._state(item, result) for item, result in zip(items, results, strict=True)]

    def _state(self, item: BatchItem, result: BatchResult) -> StepOutcome | ServiceError | None:
        """None for a session that was closed."""
        what = f"{item.op} of session {item.session_id} at {self.url}"
        if not result.ok or result.error is not None:
            return _session_error(what, result.error or _NO_REASON)
        if item.op == "close":
            return None
        if result.observation is None or result.metadata is None:
            return ProtocolError(f"{what}: ok, but without observation or metadata")
        reward = result.reward
        if reward is None and item.op == "reset":
            reward = 0.0  # nothing was done yet
        if reward is None or not math.isfinite(reward):
            return ProtocolError(f"{what}: ok, but its reward is {reward}; a step's reward is a finite number")
        return StepOutcome(result.observation, result.metadata, reward)


def _parts(items: Sequence[BatchItem]) -> list[Sequence[BatchItem]]:
    """The items in order, cut where a request would have more than `MOST_CHARS` characters of actions."""
    parts: list[Sequence[BatchItem]] = []
    start = chars = 0
    for at, item in enumerate(items):
        size = len(item.action.text) if item.action else 0
        if at > start and chars + size > MOST_CHARS:
            parts.append(items[start:at])
            start, chars = at, 0
        chars += size
    return [*parts, items[start:]]


def _read(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.MsgspecError as error:
        raise answer.malformed(error) from error


def _accepted(answer: Answer) -> Answer:
    """`answer` if it is a success, else the error that it stands for."""
    if answer.status < 300:
        return answer
    try:
        error = msgspec.json.decode(answer.body, type=Error)
    except msgspec.MsgspecError:
        raise answer.refusal() from None
    raise _session_error(answer.what, error)
