"""The asynchronous client of the environment server, for thousands of concurrent sessions.

    async with EnvironmentClient("http://127.0.0.1:8100") as environments:
        (session,) = await environments.open(1)
        state = await session.reset(split="train", index=7, seed=0)
        while not state.done:
            state = await session.step("<think>…</think><action>up</action>")
        await session.close()

Calls of concurrent sessions share requests (see `Batcher`). If a response is lost, the client sends the request again.
Each step has a `step_index` (the number of earlier steps), so the server executes a repeated step only once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from arlarena.client.arguments import shown, valid_integer, valid_seconds, valid_text
from arlarena.client.batcher import Batcher
from arlarena.client.errors import PolicyFault, ProtocolError, Refused, ServiceError, SessionLost, Unavailable
from arlarena.client.pods import PodAddresses, send_split
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

# Timeout of a request in seconds. The server's time limits are shorter (75 s for a step, 60 s for a reset), so the
# server ends a slow operation first. Its error message names the operation.
REQUEST_S = 90.0
MAX_INFO_BYTES = 1 << 20  # maximum size of the response of `/v1/info`
# A request contains a deadline for the server. The deadline is this fraction of the client's timeout, so that the
# response arrives before the timeout.
DEADLINE_SHARE = 0.95
SESSIONS = "/v1/sessions/"
UNKNOWN_SESSION = "unknown_session"  # the server's error code for an unknown or ended session

_NO_REASON = Error("unknown", "no reason given", "infra", False)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class StepOutcome:
    """The result of a reset, a step or a restore.

    `observation`: the data for the player. `metadata`: data for training and scoring; do not show it to the player.
    `reward`: the reward of the step; 0 after a reset or a restore.
    """

    observation: Observation
    metadata: Metadata
    reward: float

    @property
    def done(self) -> bool:
        """True if the episode is over."""
        return self.observation.terminated or self.observation.truncated

    @property
    def prompt(self) -> str:
        """The observation as the user message for the policy."""
        return self.observation.prompt

    @property
    def images(self) -> tuple[str, ...]:
        """The SHA-256 hashes of the observation's images."""
        return tuple(image.sha256 for image in self.observation.images)


def _ttl(seconds: float | None) -> float | None:
    return None if seconds is None else valid_seconds("ttl_s", seconds, positive=True)


def _episode_id(value: str) -> str:
    episode_id = valid_text("episode_id", value)
    if len(episode_id) > EPISODE_ID_CHARS:
        raise ValueError(f"episode_id has {len(episode_id)} characters; the maximum is {EPISODE_ID_CHARS}")
    return episode_id


def _session_error(request: str, error: Error) -> ServiceError:
    message = f"{request}: {error.code}: {error.message}"
    if error.code == UNKNOWN_SESSION:
        return SessionLost(message)
    if error.retryable or error.blame == "infra":
        return Unavailable(message)
    if error.blame == "policy":
        return PolicyFault(message, 422, error.code)
    return Refused(message, 400)


class Session:
    """A session of one player on the environment server. Do not call methods of one session concurrently."""

    def __init__(self, client: EnvironmentClient, session_id: str, step: int = 0) -> None:
        """Call `EnvironmentClient.open` or `fork` instead."""
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
        """Start an episode of a task. Returns the first state.

        Select the task either with `task_id`, or with `split` and `index`. `split` defaults to the first split. `index`
        defaults to `seed`, or to 0 without a seed. `seed` is also the random seed of the episode. `episode_id`: a label
        for the episode. The server returns it in `GET /state`.

        Raises:
            SessionLost: the server does not know this session. Open another session.
            Unavailable: the server is unreachable, or an infrastructure failure occurred.
            Refused: the task does not exist.
            TypeError, ValueError: an argument is invalid.
        """
        state = await self._client.call(
            BatchItem(
                session_id=self.id,
                op="reset",
                split=None if split is None else valid_text("split", split),
                index=None if index is None else valid_integer("index", index),
                seed=None if seed is None else valid_integer("seed", seed),
                task_id=None if task_id is None else valid_text("task_id", task_id),
                episode_id=None if episode_id is None else _episode_id(episode_id),
            )
        )
        self._step = state.observation.step
        return state

    async def step(self, text: str) -> StepOutcome:
        """Take one step. `text`: either a full reply of the policy, or only its action. Returns the new state.

        Raises the errors of `reset`. Also raises PolicyFault if `text` caused an error in the environment.
        """
        action = Action(valid_text("the action", text))
        state = await self._client.call(BatchItem(session_id=self.id, op="step", action=action, step_index=self._step))
        self._step += 1
        return state

    async def expert(self) -> ExpertReply:
        """Returns the next reply of the environment's expert (a scripted player).

        Raises:
            Refused: the environment has no expert, or the server's `expert_splits` excludes this episode's split.
        """
        return await self._client.expert(self.id)

    async def fork(self, count: int = 1, *, ttl_s: float | None = None) -> list[Session]:
        """Open `count` sessions, each with a copy of this session's state. `ttl_s`: see `EnvironmentClient.open`.

        Raises the errors of `EnvironmentClient.open`. Also raises Refused if this session has no episode.
        """
        request = ForkRequest(valid_integer("count", count, least=1), ttl_s=_ttl(ttl_s))
        opened = await self._client.opened(f"/v1/sessions/{self.id}/fork", request)
        return [Session(self._client, session.session_id, session.step_count) for session in opened]

    async def snapshot(self) -> Snapshot:
        """Save the session's state on the server. Any session can call `restore` with the returned snapshot.

        Raises:
            Refused: the session has no episode.
        """
        return await self._client.snapshot(self.id)

    async def restore(self, snapshot: Snapshot) -> StepOutcome:
        """Replace this session's state with the state in `snapshot`. Returns that state, with reward 0.

        Raises:
            Refused: the server has no such snapshot, for example because it expired.
            TypeError: `snapshot` is not a `Snapshot`.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"restore needs a result of snapshot(), not {shown(snapshot)}")
        state = await self._client.restore(self.id, snapshot.snapshot_id)
        self._step = state.observation.step
        return state

    async def close(self) -> None:
        """Close the session. Ignores errors of the service, because the server also closes idle sessions."""
        try:
            await self._client.close_session(self.id)
        except ServiceError:
            return


BatchOutcome = StepOutcome | ServiceError | None  # the outcome of one item; None after the operation `close`


class EnvironmentClient(AsyncClosing):
    """A client of one environment server. Safe for any number of concurrent sessions on one event loop."""

    def __init__(
        self,
        url: str,
        timeouts: Timeouts | None = None,
        *,
        retries: int = 2,
        batch_window_s: float = 0.001,
        batch_size: int = 256,
        token: str | None = None,
        pods: str | None = None,
    ) -> None:
        """`url`: base URL of the server. `retries`: maximum number of retries of a request while the server is
        unavailable. `token`: bearer token. `pods`: URL of the server's pods, with {pod} in place of the pod's number
        (see `arlarena.client.pods`).

        Calls of several sessions share a batch. It is sent at `batch_size` calls, or after `batch_window_s` seconds.

        Raises:
            TypeError, ValueError: an argument is invalid. The message contains the argument's name.
        """
        timeouts = Timeouts(request_s=REQUEST_S) if timeouts is None else timeouts
        self.transport = HttpTransport(url, timeouts, token, service="environment server")
        self.retries = valid_integer("retries", retries)
        self._pods = PodAddresses(pods)
        self._batcher: Batcher[BatchItem, BatchOutcome] = Batcher(
            self._send_batch,
            window_s=valid_seconds("batch_window_s", batch_window_s),
            size=valid_integer("batch_size", batch_size, least=1),
        )
        self._encoder = msgspec.json.Encoder()
        self._results = msgspec.json.Decoder(BatchReply)

    @property
    def url(self) -> str:
        """The base URL."""
        return self.transport.url

    async def close(self) -> None:
        """Send all waiting calls, then close all connections. Sessions stay open until their idle time ends."""
        await self._batcher.close()
        await self.transport.close()

    async def open(self, count: int, *, ttl_s: float | None = None, group_id: str | None = None) -> list[Session]:
        """Open `count` sessions. If the server cannot open all of them, it opens none.

        `ttl_s`: the server closes a session after this number of idle seconds. `group_id`: a label for the sessions.

        Raises:
            AtCapacity: the server currently has no capacity for `count` sessions.
            Unavailable: the server is unreachable, or an infrastructure failure occurred.
            Refused: `count` or `ttl_s` is outside the range that the server accepts.
            TypeError, ValueError: an argument has the wrong type or is out of range.
        """
        request = CreateSessions(
            count=valid_integer("count", count, least=1),
            ttl_s=_ttl(ttl_s),
            group_id=None if group_id is None else valid_text("group_id", group_id),
        )
        return [Session(self, session.session_id) for session in await self.opened("/v1/sessions", request)]

    async def opened(self, path: str, request: CreateSessions | ForkRequest) -> list[OpenedSession]:
        """Send a request that opens sessions to the server's route `path`. Returns the opened sessions."""
        # The request is not retried: if only the response was lost, a retry would open the sessions a second time.
        base = self._pods.of(path.removeprefix(SESSIONS))
        answer = await self.transport.request("POST", path, self._encoder.encode(request), base=base)
        opened = _read(_accepted(answer), SessionList).sessions
        if len(opened) != request.count:
            raise answer.malformed(f"asked for {request.count} sessions, got {len(opened)}")
        return opened

    async def snapshot(self, session_id: str) -> Snapshot:
        """Save the state of a session on the server (see `Session.snapshot`)."""
        path, base = f"{SESSIONS}{session_id}/snapshot", self._pods.of(session_id)
        return _read(_accepted(await self.transport.request("POST", path, base=base)), Snapshot)

    async def restore(self, session_id: str, snapshot_id: str) -> StepOutcome:
        """Replace the state of a session by the state in a snapshot (see `Session.restore`)."""
        body = self._encoder.encode(RestoreRequest(session_id))
        base = self._pods.of(snapshot_id)
        answer = _accepted(await self._send("POST", f"/v1/snapshots/{snapshot_id}/restore", body, base=base))
        result = _read(answer, OpenedSession).result
        if result is None or result.metadata is None:
            raise answer.malformed("no state")
        return StepOutcome(result.observation, result.metadata, 0.0)

    async def info(self) -> Info:
        """Returns the description of the environment.

        Raises:
            Unavailable: the server is unreachable, or an infrastructure failure occurred.
        """
        return _read(_accepted(await self._send("GET", "/v1/info", limit=MAX_INFO_BYTES)), Info)

    async def ready(self) -> bool:
        """True if `/ready` responds with status 200. Sends one request without retries."""
        try:
            answer = await self.transport.request("GET", "/ready", timeout_s=self.transport.timeouts.connect_s)
        except Unavailable:
            return False
        return answer.status == 200

    async def call(self, item: BatchItem) -> StepOutcome:
        """Send a reset or a step, together with concurrent calls. Returns its result, or raises its error."""
        result = await self._batcher.submit(item)
        if isinstance(result, ServiceError):
            raise result
        assert result is not None
        return result

    async def expert(self, session_id: str) -> ExpertReply:
        """Returns the next reply of the environment's expert (see `Session.expert`)."""
        path, base = f"{SESSIONS}{session_id}/expert", self._pods.of(session_id)
        reply = _read(_accepted(await self._send("GET", path, base=base)), ExpertReply)
        return reply if reply.plan else ExpertReply(reply.text, [reply.text])

    async def close_session(self, session_id: str) -> None:
        """Close a session. Raises `ServiceError` if the server is unreachable or responds with an error."""
        result = await self._batcher.submit(BatchItem(session_id=session_id, op="close"))
        if isinstance(result, ServiceError):
            raise result

    async def _send(
        self, method: str, path: str, body: bytes | None = None, base: str | None = None, limit: int | None = None
    ) -> Answer:
        """Send an idempotent request to `base` (default: the server). `limit`: maximum bytes of a response."""
        # Repeats the request up to `retries` times while the server is unavailable.
        return await self.transport.request(method, path, body, max_answer_bytes=limit, retries=self.retries, base=base)

    async def _send_batch(self, items: Sequence[BatchItem]) -> Sequence[BatchOutcome]:
        """Send all items, each to its pod. Returns one result for each item, in order."""
        return await send_split(self._pods.split(items), items, self._send_part)

    async def _send_part(self, items: Sequence[BatchItem], base: str | None) -> Sequence[BatchOutcome]:
        """Send `items` in one request, to the pod at `base` or to the server. Returns one result for each item."""
        # Retries are safe, because resets and closes are idempotent and steps have a `step_index`.
        body = self._encoder.encode(
            BatchRequest(list(items), deadline_s=DEADLINE_SHARE * self.transport.timeouts.request_s)
        )
        answer = _accepted(await self._send("POST", "/v1/batch", body, base=base))
        try:
            results = self._results.decode(answer.body).results
        except msgspec.MsgspecError as error:
            raise answer.malformed(error) from error
        if len(results) != len(items):
            raise answer.malformed(f"{len(items)} items but {len(results)} results")
        return [self._outcome(item, result) for item, result in zip(items, results, strict=True)]

    def _outcome(self, item: BatchItem, result: BatchResult) -> BatchOutcome:
        """Returns the result or the error of one item. Returns None for the operation `close`."""
        if not result.ok or result.error is not None:
            return _session_error(self._request_of(item), result.error or _NO_REASON)
        if item.op == "close":
            return None
        if result.observation is None or result.metadata is None:
            problem = "success, but the observation or the metadata is missing"
            return ProtocolError(f"{self._request_of(item)}: {problem}")
        reward = 0.0 if result.reward is None and item.op == "reset" else result.reward
        if reward is None or not math.isfinite(reward):
            problem = f"success, but the reward is {reward} instead of a finite number"
            return ProtocolError(f"{self._request_of(item)}: {problem}")
        return StepOutcome(result.observation, result.metadata, reward)

    def _request_of(self, item: BatchItem) -> str:
        return f"{item.op} of session {item.session_id} at {self.url}"


def _read(answer: Answer, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(answer.body, type=kind)
    except msgspec.MsgspecError as error:
        raise answer.malformed(error) from error


def _accepted(answer: Answer) -> Answer:
    """Returns `answer` if its status is below 300. Otherwise raises the error that the body of `answer` describes."""
    if answer.status < 300:
        return answer
    try:
        error = msgspec.json.decode(answer.body, type=Error)
    except msgspec.MsgspecError:
        raise answer.refusal() from None
    raise _session_error(answer.request, error)
