"""The records of an evaluation: its plan (plan.json) and its events (journal.jsonl).

The journal is append-only: one JSON object a line, with the field `event`. A line that a kill cut off is ignored. A
resumed evaluation reads it, plays recorded replies to the environment again, and continues after the last one.

    request   before a request is sent to the model; a retry is a further `request` with the same call
    reply     after the reply arrived, before it is used
    failure   after the request failed
    end       an attempt has its final status

The last `end` of an attempt is its result. A `request` without a `reply` or `failure` was sent by a process that ended
before the answer. Such a request was possibly charged without a result.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from arlarena.rollout.evaluation.models.protocol import Finish, TokenUsage

SCHEMA = 1

# `ok`: played to its end. `policy_error`: the reply or the prompt broke the episode (for example, the prompt exceeds
# the context); counts as a failure of the model. `infra_error`: a service failed for too long. `model_error`: the
# model's API rejected a request of this attempt. Attempts with the last two statuses are
# not scored, and a resume plays them again.
Status = Literal["ok", "policy_error", "infra_error", "model_error"]


class AttemptKey(msgspec.Struct, frozen=True, order=True):
    """The name of an attempt within one evaluation. `environment`: name of the environment in the plan."""

    environment: str
    split: str
    index: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.environment}/{self.split}/{self.index}#{self.attempt}"


class RequestEvent(msgspec.Struct, frozen=True, tag_field="event", tag="request"):
    """A request is about to be sent.

    Attributes:
        call: number of the request in the attempt, from 0.
        messages_digest: hash of the messages. A resume uses a recorded reply only for equal messages.
        state_key: key of the environment's state (`Metadata.state_key`). A resume compares the keys.
        start: how often the attempt started afresh before this request, because a replay diverged.
    """

    key: AttemptKey
    call: int
    turn: int
    purpose: str
    messages_digest: str
    time: float
    state_key: str = ""
    start: int = 0


class ReplyEvent(msgspec.Struct, frozen=True, tag_field="event", tag="reply"):
    """A reply arrived. `seconds`: duration of the successful request. `retries`: failed requests before it."""

    key: AttemptKey
    call: int
    text: str
    finish: Finish
    usage: TokenUsage
    model: str
    request_id: str
    reasoning: str
    seconds: float
    retries: int
    possibly_charged_retries: int = 0


class FailureEvent(msgspec.Struct, frozen=True, tag_field="event", tag="failure"):
    """A request failed. `possibly_charged`: as `models.protocol.Retryable` defines it."""

    key: AttemptKey
    call: int
    error: str
    possibly_charged: bool


class TurnRecord(msgspec.Struct, frozen=True):
    """A turn of an attempt. `response`: the parsed text. `images`: names of files in images/, by hash."""

    observation: str
    response: str
    action: str
    reward: float
    action_valid: bool
    format_valid: bool
    no_action: bool
    state_key: str
    finish: Finish
    images: tuple[str, ...] = ()


class AttemptRecord(msgspec.Struct, frozen=True, tag_field="event", tag="end"):
    """The result of an attempt.

    Attributes:
        task_id, content_key, kind: as the environment reports them.
        status: see `Status`. Only `ok` and `policy_error` are scored.
        score: the environment's score in [0, 1].
        steps: number of turns.
        metrics: behaviour of the episode, as in training (`rollout.episode.ActionPatterns`), and further metrics of an
            environment.
        usage: tokens of all requests of this attempt, including requests before a resume.
        requests: number of requests that were sent, with retries.
        seconds: duration of the attempt, without the time before a resume.
        error: why the status is not `ok`.
        final_observation: the text after the last step.
        restarts: how often the attempt was restored in another session, after a failure of the environment server.
        divergences: how often it started afresh because the environment did not repeat its states.
    """

    key: AttemptKey
    task_id: str
    content_key: str
    kind: str
    status: Status
    success: bool
    score: float
    total_reward: float
    steps: int
    terminated: bool
    truncated: bool
    turns: tuple[TurnRecord, ...]
    metrics: dict[str, float]
    usage: TokenUsage
    requests: int
    started: float
    seconds: float
    error: str = ""
    final_observation: str = ""
    restarts: int = 0
    divergences: int = 0

    @property
    def scored(self) -> bool:
        """Whether the attempt counts in success rates."""
        return self.status in ("ok", "policy_error")


Event = RequestEvent | ReplyEvent | FailureEvent | AttemptRecord


class EnvironmentPlan(msgspec.Struct, frozen=True):
    """One environment of an evaluation.

    Attributes:
        name: unique in the evaluation; the environment's name unless the same environment occurs twice.
        url: URL of the environment server; "" if the evaluation starts it.
        version, template, parser: as `/v1/info` reports them. Part of the evaluation's identity.
        options: the environment's options, as `/v1/info` reports them.
        split, indices: the tasks.
        set: name of the standard evaluation set, or "".
    """

    name: str
    url: str
    version: str
    template: str
    parser: str
    options: dict[str, Any]
    split: str
    indices: tuple[int, ...]
    set: str = ""


class EvaluationPlan(msgspec.Struct, frozen=True):
    """Model, sampling and tasks. Plans with equal `identity()` are one evaluation: the second resumes the first.

    Attributes:
        model: the model as given on the command line, for example "openai/gpt-5" or "expert".
        base_url: address of the model's API, without credentials; "" for the vendor's own.
        strategy: name of the strategy, with its options in `strategy_options`.
        sampling: the sampling parameters that are sent to the model.
        attempts: number of attempts per task.
        seed: the seed from which the seeds of resets and of sampling are computed.
    """

    schema: int
    model: str
    base_url: str
    strategy: str
    strategy_options: dict[str, Any]
    sampling: dict[str, Any]
    environments: tuple[EnvironmentPlan, ...]
    attempts: int
    seed: int
    images: bool

    def identity(self) -> str:
        """Return the hash of all fields that can change a result, without addresses. 32 hex digits."""
        same_everywhere = msgspec.structs.replace(
            self,
            base_url="",
            environments=tuple(msgspec.structs.replace(one, url="") for one in self.environments),
        )
        return hashlib.blake2b(msgspec.json.encode(same_everywhere, order="deterministic"), digest_size=16).hexdigest()
