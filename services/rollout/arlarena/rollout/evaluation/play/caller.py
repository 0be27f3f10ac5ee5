"""Sends the requests of attempts to the model: limits, budgets, retries and records.

    wait for a permit → check the budgets → journal the request → send → journal the reply → return it

On a resume, a call with a recorded reply sends no request and returns the recorded reply. The turn, the purpose and the
number of earlier calls with this purpose identify a call. If the messages or the environment's state differ from the
recorded request, the call raises `ReplayDiverged`.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import count

import msgspec

from arlarena.proto.text.wording import counted
from arlarena.rollout.episode import turn_seed
from arlarena.rollout.evaluation.errors import AttemptFailed, EvaluationError, EvaluationStopped
from arlarena.rollout.evaluation.models.errors import Denied, ModelError, Rejected, Retryable, TooLong
from arlarena.rollout.evaluation.models.protocol import ChatModel, ModelMessage, Reply, SamplingRequest
from arlarena.rollout.evaluation.play.budgets import BudgetMeter
from arlarena.rollout.evaluation.play.journal import Journal
from arlarena.rollout.evaluation.play.limits import RequestGate
from arlarena.rollout.evaluation.play.resume import AttemptHistory, RecordedCall
from arlarena.rollout.evaluation.records import AttemptKey, FailureEvent, ReplyEvent, RequestEvent

# The first request with this purpose in a turn uses the turn's seed, as in the evaluation of a trained policy.
ANSWER = "answer"
# A rule of thumb for estimates: English text has about four characters per token.
CHARS_PER_TOKEN = 4
# Estimated tokens of an image of 1024 by 1024 pixels (platform.claude.com/docs, "Vision": pixels / 750).
IMAGE_TOKENS = 1400
# Estimated tokens of a reply if the request sets no maximum.
REPLY_TOKENS = 500
# After NOTICE_AFTER failures of a request, the user gets a notice, because the address may be wrong. Two notices are at
# least NOTICE_EVERY_S seconds apart.
NOTICE_AFTER, NOTICE_EVERY_S = 3, 30.0


class ReplayDiverged(RuntimeError):
    """A replayed attempt has another state or other messages than the record."""


@dataclass(slots=True)
class ModelAccess:
    """The model of an evaluation, with limits, budget and journal. The callers of all attempts share this object.

    Attributes:
        stopped: the error that each new request raises, or None. Requests in flight are not affected.
        sent: number of requests that this process sent.
        possibly_charged: number of this process's requests that were possibly charged, but got no reply.
        notice: a function that shows a message to the user.
    """

    model: ChatModel
    sampling: SamplingRequest
    gate: RequestGate
    budget: BudgetMeter
    journal: Journal
    stopped: EvaluationStopped | EvaluationError | None = None
    sent: int = 0
    possibly_charged: int = 0
    notice: Callable[[str], None] = lambda text: None
    _noticed_at: float = -math.inf

    def report_retries(self, failures: int, error: Retryable) -> None:
        """Tell the user that a request has failed several times, at most once in `NOTICE_EVERY_S` seconds."""
        now = time.monotonic()
        if failures >= NOTICE_AFTER and now - self._noticed_at >= NOTICE_EVERY_S:
            self._noticed_at = now
            self.notice(f"a request has failed {failures} times and is sent again: {error}")

    def stop(self, reason: EvaluationStopped | EvaluationError) -> None:
        """Send no more requests. Each attempt ends at its next request. A second call does not change the reason."""
        if self.stopped is None:
            self.stopped = reason
        self.gate.wake()

    def check(self) -> None:
        """Raise the error that ends the evaluation, if there is one.

        Raises:
            EvaluationStopped: a budget is spent, `stop` got an EvaluationStopped, or there is a budget of money and the
                price of a reply is unknown.
            EvaluationError: `stop` got an EvaluationError, for example because the model's API denies all requests.
        """
        if self.stopped is not None:
            raise self.stopped
        self.budget.check()


def messages_digest(messages: Sequence[ModelMessage]) -> str:
    """Return a hash of the messages and their images. 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for message in messages:
        pictures = [hashlib.sha256(picture.data).digest() for picture in message.images]
        for part in (message.role.encode(), message.text.encode("utf-8", "surrogatepass"), *pictures):
            digest.update(len(part).to_bytes(8, "little"))
            digest.update(part)
        digest.update(len(pictures).to_bytes(8, "little"))
    return digest.hexdigest()


def estimated_tokens(messages: Sequence[ModelMessage], sampling: SamplingRequest) -> int:
    """Return an estimated number of tokens in the messages and the reply, for the limit of tokens per minute."""
    text = sum(len(message.text) for message in messages) // CHARS_PER_TOKEN
    images = sum(len(message.images) for message in messages) * IMAGE_TOKENS
    return text + images + min(sampling.max_tokens or REPLY_TOKENS, REPLY_TOKENS)


@dataclass(slots=True)
class _Position:
    """The current turn: its number, the key of the environment's state, and the number of calls for each purpose."""

    turn: int = 0
    state_key: str = ""
    purposes: Counter[str] = field(default_factory=Counter)


class AttemptCaller:
    """The `ModelCaller` of one attempt.

    Attributes:
        last: the last reply of the current turn, or None.
        usage: token usage of the attempt, including replies before a resume.
        requests: number of requests of the attempt, including requests before a resume.
    """

    def __init__(self, access: ModelAccess, key: AttemptKey, seed_key: str, history: AttemptHistory) -> None:
        """`history`: the events of this attempt in the journal."""
        self._access, self._key, self._seed_key = access, key, seed_key
        self._recorded: dict[tuple[int, str, int], RecordedCall] = {}
        for call in history.usable():
            self._recorded[self._identity(call.request.turn, call.request.purpose)] = call
        self._next, self._start = max(history.calls, default=-1) + 1, history.starts
        self._position = _Position()
        self.usage, self.requests = history.usage, history.requests
        self.last: Reply | None = None

    def begin_turn(self, turn: int, state_key: str) -> None:
        """Begin a turn. The next calls belong to this turn. `state_key`: key of the environment's state."""
        self._position, self.last = _Position(turn, state_key), None

    def start_afresh(self) -> None:
        """Delete all recorded replies from memory. The attempt restarts from its first turn with new requests."""
        self._recorded.clear()
        self._start += 1

    async def __call__(self, messages: Sequence[ModelMessage], *, purpose: str = ANSWER) -> Reply:
        """See `strategies.protocol.ModelCaller`.

        Raises:
            ReplayDiverged: the messages or the state differ from the recorded request.
        """
        position, digest = self._position, messages_digest(messages)
        repetition = position.purposes[purpose]
        position.purposes[purpose] += 1
        identity = (position.turn, purpose, repetition)
        recorded = self._recorded.get(identity)
        if recorded is None:
            number, self._next = self._next, self._next + 1
        elif (recorded.request.messages_digest, recorded.request.state_key) != (digest, position.state_key):
            raise ReplayDiverged(f"turn {position.turn} differs from the recorded turn")
        else:
            number = recorded.request.call
        reply = recorded.reply if recorded is not None else None
        if reply is None:
            event = RequestEvent(
                self._key, number, position.turn, purpose, digest, time.time(), position.state_key, self._start
            )
            reply = await self._send(event, messages, self._seed(purpose, repetition))
            self._recorded[identity] = RecordedCall(event, reply)
        self.last = reply
        return reply

    def _identity(self, turn: int, purpose: str) -> tuple[int, str, int]:
        """Return the first key (turn, purpose, repetition) that is not yet in `_recorded`."""
        repetition = 0
        while (turn, purpose, repetition) in self._recorded:
            repetition += 1
        return turn, purpose, repetition

    def _seed(self, purpose: str, repetition: int) -> int:
        first = purpose == ANSWER and repetition == 0
        return turn_seed(self._seed_key if first else f"{self._seed_key}/{purpose}/{repetition}", self._position.turn)

    async def _send(self, event: RequestEvent, messages: Sequence[ModelMessage], seed: int) -> Reply:
        """Send a request, with retries, and return the reply. Raises the errors of `ModelCaller.__call__`."""
        gate, began, charged = self._access.gate, time.monotonic(), 0
        estimate = estimated_tokens(messages, self._access.sampling)
        for failures in count(1):
            async with gate.permit(estimate):
                sent_at = time.monotonic()
                result = await self._send_once(event, messages, seed)
                if isinstance(result, Reply):
                    # Write the reply to the file before another request gets the permit. A kill then loses at most as
                    # many replies as there are permits.
                    self._record(event, result, time.monotonic() - sent_at, failures - 1, charged)
                    tokens = (result.usage.input or 0) + (result.usage.output or 0)
                    gate.succeeded(sent_at, estimate, tokens or None)
            if isinstance(result, Reply):
                await self._access.journal.sync()
                return result
            charged += result.possibly_charged
            self._access.report_retries(failures, result)
            wait, limit = gate.failed(result, sent_at, failures), gate.limits.give_up_after_s
            if time.monotonic() + wait - began > limit:
                message = f"{counted(failures, 'request')} failed within {limit:g} s; last: {result}"
                raise AttemptFailed(message, "infra_error") from result
            await gate.rest(wait)
        raise AssertionError("count(1) has no end")

    async def _send_once(self, event: RequestEvent, messages: Sequence[ModelMessage], seed: int) -> Reply | Retryable:
        """Send one request, and return the reply. If the request failed and may be retried, return the error.

        Raises the errors of `ModelCaller.__call__`.
        """
        access = self._access
        access.check()
        access.journal.append(msgspec.structs.replace(event, time=time.time()))
        access.sent += 1
        self.requests += 1
        try:
            reply = await access.model.reply(messages, access.sampling, seed=seed)
        except Retryable as error:
            self._failed(event, error, error.possibly_charged)
            return error
        except TooLong as error:
            self._failed(event, error, False)
            raise
        except Denied as error:
            self._failed(event, error, False)
            access.stop(EvaluationError(f"the model's API denies all requests: {error}"))
            raise AttemptFailed(str(error), "model_error") from error
        except Rejected as error:
            self._failed(event, error, False)
            raise AttemptFailed(str(error), "model_error") from error
        except Exception as error:
            # The model's client failed. This attempt is not scored. Other attempts continue.
            self._failed(event, error, True)
            raise AttemptFailed(f"the model's client failed: {type(error).__name__}", "model_error") from error
        return msgspec.structs.replace(reply, text=_encodable(reply.text), reasoning=_encodable(reply.reasoning))

    def _record(self, event: RequestEvent, reply: Reply, seconds: float, retries: int, charged: int) -> None:
        self._access.journal.append(
            ReplyEvent(
                key=event.key,
                call=event.call,
                text=reply.text,
                finish=reply.finish,
                usage=reply.usage,
                model=reply.model,
                request_id=reply.request_id,
                reasoning=reply.reasoning,
                seconds=round(seconds, 4),
                retries=retries,
                possibly_charged_retries=charged,
            )
        )
        self.usage += reply.usage
        self._access.budget.add(reply.usage)

    def _failed(self, event: RequestEvent, error: Exception, possibly_charged: bool) -> None:
        # The text of an unknown error may contain a key, so only its type is recorded.
        text = str(error) if isinstance(error, ModelError) else type(error).__name__
        self._access.journal.append(FailureEvent(event.key, event.call, _encodable(text), possibly_charged))
        self._access.possibly_charged += possibly_charged


def _encodable(text: str) -> str:
    """Return the text with "?" instead of each lone surrogate, because UTF-8 cannot encode lone surrogates."""
    return text.encode("utf-8", "replace").decode()
