"""The records of an evaluation: its plan (plan.json) and its events (journal.jsonl).

The journal is append-only. Each line is one JSON object with the field `event`. If a kill cuts off the last line,
readers ignore this line. A resumed evaluation reads the journal and plays the recorded replies to the environment
again. Then it continues after the last recorded reply.

    request   written before a request is sent to the model; a retry writes another `request` with the same `call`
    reply     written after a reply arrived and before the reply is used
    failure   written after a request failed
    end       written when an attempt ends, with its result

If an attempt has several `end` events, the last one is its result. If a `request` has no `reply` and no `failure`, the
process ended before the answer arrived. The vendor may have charged for such a request.
"""

from __future__ import annotations

import hashlib
from typing import Any, Literal

import msgspec

from arlarena.rollout.evaluation.models.protocol import Finish, TokenUsage

SCHEMA = 1

# `ok`: the episode was played to its end.
# `policy_error`: a reply or a prompt ended the episode, for example because the prompt exceeds the model's context. The
# attempt counts as a failure of the model.
# `infra_error`: a service failed for too long.
# `model_error`: the model's API rejected a request of this attempt, or the API's client failed.
# Attempts with `infra_error` or `model_error` are not scored. A resume plays them again.
Status = Literal["ok", "policy_error", "infra_error", "model_error"]


class AttemptKey(msgspec.Struct, frozen=True, order=True):
    """Identifies an attempt within one evaluation.

    Attributes:
        environment: name of the environment in the plan.
        index: index of the task in the split.
        attempt: number of the attempt at this task, from 0.
    """

    environment: str
    split: str
    index: int
    attempt: int

    def __str__(self) -> str:
        return f"{self.environment}/{self.split}/{self.index}#{self.attempt}"


class RequestEvent(msgspec.Struct, frozen=True, tag_field="event", tag="request"):
    """A request is about to be sent.

    Attributes:
        call: number of the model call in the attempt, from 0. Retries have the same number.
        turn: number of the turn, from 0.
        purpose: purpose of the request, for example "answer".
        messages_digest: hash of the messages. A resume uses a recorded reply only if the messages have the same hash.
        time: seconds since the epoch.
        state_key: key of the environment's state (`Metadata.state_key`). A resume uses a recorded reply only if the
            state has the same key.
        start: how many times the attempt restarted from its first turn before this request, because a replay diverged.
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
    """A reply arrived.

    Attributes:
        call: number of the model call, as in `RequestEvent`.
        seconds: duration of the successful request.
        retries: number of failed requests of this call before the successful request.
        possibly_charged_retries: how many of these failed requests were possibly charged.
    """

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
    """A request failed. `possibly_charged`: see `models.errors.Retryable`."""

    key: AttemptKey
    call: int
    error: str
    possibly_charged: bool


class TurnRecord(msgspec.Struct, frozen=True):
    """A turn of an attempt.

    Attributes:
        observation: text of the observation that the response answers.
        response: the text that the environment parsed.
        action: the action that the environment's parser found.
        state_key: key of the state before the step.
        finish: why the model's reply ended.
        images: names of the observation's image files in images/. Each name contains the image's SHA-256.
    """

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
        task_id, content_key, kind: the values that the environment reports.
        status: see `Status`. Only `ok` and `policy_error` are scored.
        score: the environment's score in [0, 1].
        steps: number of turns.
        metrics: the metrics of the episode that training also records (`rollout.episode.ActionPatterns`).
        usage: tokens of all replies in this attempt, including replies before a resume.
        requests: number of requests that were sent, including retries and requests before a resume.
        started: start time in this process, in seconds since the epoch.
        seconds: duration of the attempt in this process.
        error: why the status is not `ok`; "" if it is `ok`.
        final_observation: text of the last observation.
        restarts: how many times the attempt was restored in a new session after the environment server failed.
        divergences: how many times the attempt was restarted from its first turn in this process because the
            environment did not repeat its states.
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
        name: unique name in the evaluation. If an environment occurs twice, a number is added to its name.
        url: URL of the environment server; "" if the evaluation starts the server.
        version, template, parser, options: the values that `/v1/info` reports.
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
    """Model, sampling and tasks. Plans with equal `identity()` belong to the same evaluation.

    Attributes:
        model: name of the model in records: MODEL of the command line, for example "openai/gpt-5" or "expert". For a
            checkpoint, see `checkpoint_name`.
        base_url: address of the model's API, without credentials; "" for the vendor's address.
        strategy: name of the strategy. `strategy_options` are its options.
        sampling: the sampling parameters that are sent to the model.
        attempts: number of attempts per task.
        seed: the seeds of resets and sampling are computed from this seed.
        images: whether images are sent to the model.
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
        """Return a hash of all fields except the addresses, because addresses do not change results. 32 hex digits."""
        same_everywhere = msgspec.structs.replace(
            self,
            base_url="",
            environments=tuple(msgspec.structs.replace(one, url="") for one in self.environments),
        )
        return hashlib.blake2b(msgspec.json.encode(same_everywhere, order="deterministic"), digest_size=16).hexdigest()
