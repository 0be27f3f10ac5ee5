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
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import msgspec

from arlarena.client.batcher import Batcher
from arlarena.client.errors import PolicyFault, ProtocolError, Refused, ServiceError, SessionLost, Unavailable
from arlarena.client.transport import Answer, Timeouts, Transport

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0
# Codes by which a server says that it does not know a session.
LOST_CODES = frozenset({"unknown_session", "session_not_found", "session_expired", "session_closed", "session_lost"})

T = TypeVar("T")


class _Image(msgspec.Struct):
    sha256: str = ""


class _Observation(msgspec.Struct):
    """The part of an observation that a player needs; the rest is not read."""

    text: str = ""
    prompt: str = ""
    images: list[_Image] = []
    terminated: bool = False
    truncated: bool = False
    action_valid: bool | None = None
    format_valid: bool | None = None
    step: int = 0


class _Error(msgspec.Struct):
    code: str = "unknown"
    message: str = ""
    blame: str = "infra"
    retryable: bool = False


class _ErrorBody(msgspec.Struct):
    """An error answer: `{"error": {...}}`, or the error itself."""

    error: _Error | None = None
    code: str = "unknown"
    message: str = ""
    blame: str = "infra"
    retryable: bool = False


class _Result(msgspec.Struct):
    ok: bool = True
    observation: _Observation | None = None
    reward: float | None = None
    done: bool = False
    metadata: dict[str, Any] | None = None
    error: _Error | None = None


class _Results(msgspec.Struct):
    results: list[_Result]


class _Opened(msgspec.Struct):
    session_id: str


class _Sessions(msgspec.Struct):
    sessions: list[_Opened]


class _Item(msgspec.Struct, omit_defaults=True):
    session_id: str
    op: str
    action: dict[str, str] | None = None
    step_index: int | None = None
    split: str | None = None
    index: int | None = None
    seed: int | None = None
    episode_id: str | None = None


class _Batch(msgspec.Struct):
    items: Sequence[_Item]
    deadline_s: float


@dataclass(frozen=True, slots=True)
class State:
    """What the environment says after a reset or a step.

    `prompt`: the user message for the policy. `text`: the bare observation. `reward`: of the step just taken, 0 after
    a reset. `action_valid`, `format_valid`: marks of that step's reply, True after a reset. `state_key`,
    `observation_key`: anchors of this state.
    """

    prompt: str
    text: str
    reward: float
    terminated: bool
    truncated: bool
    action_valid: bool
    format_valid: bool
    step: int
    images: tuple[str, ...]
    metadata: dict[str, Any]

    @property
    def done(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated

    @property
    def state_key(self) -> str:
        """Key of the simulator's state, without counters and history; empty where the environment gives none."""
        return str(self.metadata.get("state_key") or "")

    @property
    def action(self) -> str:
        """The action that the environment read from the last reply; empty after a reset, or where it found none."""
        return str(self.metadata.get("action") or "")

    @property
    def success(self) -> bool:
        """Whether the task is solved."""
        return bool(self.metadata.get("success", False))

    @property
    def score(self) -> float:
        """The environment's score in [0, 1]; where it gives none, 1 for success."""
        value = self.metadata.get("score")
        return float(value) if isinstance(value, int | float) else float(self.success)

    @property
    def optimal_moves(self) -> int | None:
        """Length of the shortest solution, where the environment knows it."""
        value = self.metadata.get("optimal_moves")
        return int(value) if isinstance(value, int | float) else None

    @property
    def room_key(self) -> str:
        """Names the task's content, however it is indexed: the key of the canonical room, else that of the state."""
        return str(self.metadata.get("room_key") or self.state_key)

    @property
    def observation_key(self) -> str:
        """Key of the observation; empty where the environment gives none."""
        return str(self.metadata.get("observation_key") or "")


@dataclass(frozen=True, slots=True)
class ExpertReply:
    """The expert's next reply, whole; `plan` holds this and all later replies where the environment knows them."""

    text: str
    plan: tuple[str, ...]


def _session_error(what: str, error: _Error) -> ServiceError:
    message = f"{what}: {error.code}: {error.message}"
    if error.code in LOST_CODES:
        return SessionLost(message)
    if error.retryable or error.blame == "infra":
        return Unavailable(message)
    if error.blame == "policy":
        return PolicyFault(message, 422, error.code)
    return Refused(message, 409 if "step_index" in error.code else 400)


class Session:
    """One environment of a server, held by one player: its calls must not overlap."""

    def __init__(self, client: EnvironmentClient, session_id: str) -> None:
        """Made by `EnvironmentClient.open`."""
        self.id = session_id
        self._client = client
        self._step = 0

    async def reset(self, *, split: str, index: int, seed: int = 0, episode_id: str | None = None) -> State:
        """Begin the task `index` of `split` anew.

        Raises:
            SessionLost: the server does not know this session; open another.
            Unavailable: the server is down or failing.
            Refused: there is no such task.
        """
        state = await self._client.call(
            _Item(self.id, "reset", split=split, index=index, seed=seed, episode_id=episode_id)
        )
        self._step = state.step
        return state

    async def step(self, text: str) -> State:
        """Take one step with a reply or a bare action. Errors as in `reset`."""
        state = await self._client.call(_Item(self.id, "step", action={"text": text}, step_index=self._step))
        self._step += 1
        return state

    async def expert(self) -> ExpertReply:
        """What the environment's expert would say now.

        Raises:
            Refused: the environment has no expert, or the split is held out (403).
        """
        return await self._client.expert(self.id)

    async def close(self) -> None:
        """Give the session back. A server that does not know it, or is away, has nothing left to close."""
        try:
            await self._client.close_session(self.id)
        except ServiceError:
            return


class EnvironmentClient:
    """An environment server. Safe for any number of concurrent sessions on one event loop."""

    def __init__(
        self,
        url: str,
        timeouts: Timeouts | None = None,
        *,
        retries: int = 2,
        batch_window_s: float = 0.001,
        batch_size: int = 256,
    ) -> None:
        """`retries`: repetitions of a request to an unavailable server. For the batches see `Batcher`."""
        self.transport = Transport(url, timeouts or Timeouts(request_s=30.0))
        self.retries = retries
        self._batcher: Batcher[_Item, State | ServiceError] = Batcher(
            self._send_batch, window_s=batch_window_s, size=batch_size
        )
        self._encoder = msgspec.json.Encoder()
        self._results = msgspec.json.Decoder(_Results)

    @property
    def url(self) -> str:
        """The base URL."""
        return self.transport.url

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

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
        """
        wish = {"count": count, "ttl_s": ttl_s, "group_id": group_id}
        body = self._encoder.encode({key: value for key, value in wish.items() if value is not None})
        # Sent once: a repetition after a lost answer would leave the first lot open until its idle time is over.
        answer = await self.transport.request("POST", "/v1/sessions", body)
        opened = _read(_accepted(answer), _Sessions).sessions
        if len(opened) != count:
            raise answer.malformed(f"asked for {count} sessions, got {len(opened)}")
        return [Session(self, one.session_id) for one in opened]

    async def info(self) -> dict[str, Any]:
        """`/v1/info`: the environment's name, version, template, parser and splits."""
        return _read(_accepted(await self._send("GET", "/v1/info")), dict[str, Any])

    async def name(self) -> str:
        """The environment's name, for example `sokoban`. Errors as in `info`."""
        found = (await self.info()).get("name")
        if not isinstance(found, str) or not found:
            raise ProtocolError(f"GET {self.url}/v1/info names no environment")
        return found

    async def ready(self) -> bool:
        """Whether `/ready` answers 200; asked once."""
        try:
            answer = await self.transport.request("GET", "/ready", timeout_s=self.transport.timeouts.connect_s)
        except Unavailable:
            return False
        return answer.status == 200

    async def call(self, item: _Item) -> State:
        """One operation on a session, in a request shared with others."""
        result = await self._batcher.submit(item)
        if isinstance(result, ServiceError):
            raise result
        return result

    async def expert(self, session_id: str) -> ExpertReply:
        """See `Session.expert`."""
        answer = _accepted(await self._send("GET", f"/v1/sessions/{session_id}/expert"))
        reply = _read(answer, dict[str, Any])
        text = reply.get("text") or reply.get("action")
        if not isinstance(text, str):
            raise answer.malformed("neither text nor action")
        return ExpertReply(text, tuple(reply.get("plan") or (text,)))

    async def close_session(self, session_id: str) -> None:
        """See `Session.close`."""
        await self.call(_Item(session_id, "close"))

    async def _send(self, method: str, path: str, body: bytes | None = None) -> Answer:
        """Send, and send again while the server is unavailable; only for what may be repeated."""
        pause = FIRST_PAUSE_S
        for _ in range(self.retries):
            try:
                return await self.transport.request(method, path, body)
            except Unavailable:
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_PAUSE_S)
        return await self.transport.request(method, path, body)

    async def _send_batch(self, items: Sequence[_Item]) -> Sequence[State | ServiceError]:
        """A repetition is safe: a reset begins anew, a step of an old index gets its old answer, a close twice is a
        close.
        """
        body = self._encoder.encode(_Batch(items, self.transport.timeouts.request_s))
        answer = _accepted(await self._send("POST", "/v1/batch", body))
        try:
            results = self._results.decode(answer.body).results
        except msgspec.MsgspecError as error:
            raise answer.malformed(error) from error
        if len(results) != len(items):
            raise answer.malformed(f"{len(items)} items but {len(results)} results")
        return [self._state(item, result) for item, result in zip(items, results, strict=True)]

    def _state(self, item: _Item, result: _Result) -> State | ServiceError:
        what = f"{item.op} of session {item.session_id} at {self.url}"
        if not result.ok or result.error is not None:
            return _session_error(what, result.error or _Error(message="no reason given"))
        seen = result.observation
        if seen is None:
            if item.op != "close":
                return ProtocolError(f"{what}: ok, but without an observation")
            seen = _Observation()
        return State(
            prompt=seen.prompt,
            text=seen.text,
            reward=result.reward or 0.0,
            terminated=seen.terminated,
            truncated=seen.truncated or (result.done and not seen.terminated),
            action_valid=seen.action_valid is not False,
            format_valid=seen.format_valid is not False,
            step=seen.step,
            images=tuple(image.sha256 for image in seen.images),
            metadata=result.metadata or {},
        )


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
        body = msgspec.json.decode(answer.body, type=_ErrorBody)
    except msgspec.MsgspecError:
        raise answer.refusal() from None
    error = body.error or _Error(body.code, body.message, "client", False)
    if error.code in LOST_CODES:
        raise SessionLost(f"{answer.what}: {error.code}: {error.message}")
    raise answer.refusal()
