"""Reads the journal of earlier processes, to find attempts with a result and replies that can be used again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from arlarena.proto.atomic_files import write_bytes
from arlarena.rollout.evaluation.directory import JOURNAL, PLAN, read_journal, read_plan
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.models.protocol import NO_TOKENS, Reply, TokenUsage
from arlarena.rollout.evaluation.records import (
    AttemptKey,
    AttemptRecord,
    EvaluationPlan,
    Event,
    FailureEvent,
    ReplyEvent,
    RequestEvent,
)

SHOWN_CHARS = 100  # maximum characters of a value in a message
# For each of these fields of the plan, the command-line option that sets it.
FLAGS = {
    "model": "MODEL", "strategy": "--strategy", "strategy_options": "--strategy-option", "attempts": "--attempts",
    "seed": "--seed", "options": "--option", "split": "--split", "set": "--set",
    "indices": "--first, --count or --tasks", "sampling": "--temperature, --top-p or --max-tokens",
}  # fmt: skip


@dataclass(slots=True)
class RecordedCall:
    """A recorded model call of an attempt.

    Attributes:
        request: the first request of the call.
        reply: the reply, or None if no reply is recorded.
        requests: number of requests, including retries.
        outcomes: number of requests with a reply or a failure.
    """

    request: RequestEvent
    reply: Reply | None = None
    requests: int = 0
    outcomes: int = 0


@dataclass(slots=True)
class AttemptHistory:
    """The journal's events of one attempt.

    Attributes:
        calls: the calls by number, including calls before a restart from the first turn.
        usage: token usage of all replies.
        requests: number of requests that were sent.
        failures_charged: number of failed requests that were possibly charged.
        result: the last record of the attempt, or None.
    """

    calls: dict[int, RecordedCall] = field(default_factory=dict)
    usage: TokenUsage = NO_TOKENS
    requests: int = 0
    failures_charged: int = 0
    result: AttemptRecord | None = None

    @property
    def possibly_charged(self) -> int:
        """The number of requests that were possibly charged, but got no reply.

        These are the possibly charged failures, and the requests that have neither a reply nor a failure.
        """
        return self.failures_charged + sum(call.requests - call.outcomes for call in self.calls.values())

    @property
    def starts(self) -> int:
        """How many times the attempt restarted from its first turn because a replay diverged."""
        return max((call.request.start for call in self.calls.values()), default=0)

    @property
    def finished(self) -> bool:
        """Whether the attempt has a final result.

        The statuses `infra_error` and `model_error` are not final: a resume plays the attempt again.
        """
        return self.result is not None and self.result.scored

    def usable(self) -> Iterator[RecordedCall]:
        """Yield the calls since the last restart from the first turn, in the order of their numbers."""
        start = self.starts
        yield from (call for _, call in sorted(self.calls.items()) if call.request.start == start)

    def add(self, event: Event) -> None:
        """Add the next event of this attempt."""
        match event:
            case RequestEvent():
                call = self.calls.setdefault(event.call, RecordedCall(event))
                call.requests += 1
                self.requests += 1
            case ReplyEvent():
                reply = Reply(event.text, event.finish, event.usage, event.model, event.request_id, event.reasoning)
                self.calls[event.call].reply = reply
                self.calls[event.call].outcomes += 1
                self.usage += event.usage
            case FailureEvent():
                self.calls[event.call].outcomes += 1
                self.failures_charged += event.possibly_charged
            case AttemptRecord():
                self.result = event


@dataclass(slots=True)
class EvaluationHistory:
    """The journal's events of all attempts."""

    attempts: dict[AttemptKey, AttemptHistory] = field(default_factory=dict)

    @classmethod
    def read(cls, directory: Path) -> EvaluationHistory:
        """Read the journal of a directory. Without a journal, the history is empty.

        Raises:
            EvaluationError: a line of the journal is damaged.
        """
        path = directory / JOURNAL
        return cls.of(read_journal(path) if path.exists() else ())

    @classmethod
    def of(cls, events: Iterable[Event]) -> EvaluationHistory:
        """Return the history of these events.

        Raises:
            EvaluationError: a reply or a failure has no request.
        """
        history = cls()
        for event in events:
            try:
                history.of_attempt(event.key).add(event)
            except KeyError:
                raise EvaluationError(
                    f"the journal has a reply or a failure without a request in attempt {event.key}"
                ) from None
        return history

    def of_attempt(self, key: AttemptKey) -> AttemptHistory:
        """Return the history of an attempt, which may be empty."""
        return self.attempts.setdefault(key, AttemptHistory())

    @property
    def results(self) -> dict[AttemptKey, AttemptRecord]:
        """The last record of each attempt that has a record."""
        return {key: one.result for key, one in self.attempts.items() if one.result is not None}

    @property
    def possibly_charged(self) -> int:
        """The number of requests that were possibly charged, but got no reply."""
        return sum(one.possibly_charged for one in self.attempts.values())

    @property
    def usages(self) -> Iterator[TokenUsage]:
        """The token usage of each call with a reply."""
        calls = (call for one in self.attempts.values() for call in one.calls.values())
        return (call.reply.usage for call in calls if call.reply is not None)

    def remaining(self, plan: EvaluationPlan) -> dict[str, list[AttemptKey]]:
        """Return the attempts without a final result, by environment and in the order of the plan."""
        found: dict[str, list[AttemptKey]] = {environment.name: [] for environment in plan.environments}
        for key in attempts_of(plan):
            history = self.attempts.get(key)
            if history is None or not history.finished:
                found[key.environment].append(key)
        return found


def attempts_of(plan: EvaluationPlan) -> Iterator[AttemptKey]:
    """Yield all attempts of a plan, task by task, in the same order as `rollout.evaluate.eval_assignments`."""
    for environment in plan.environments:
        for index in environment.indices:
            for attempt in range(plan.attempts):
                yield AttemptKey(environment.name, environment.split, index, attempt)


def check_plan(directory: Path, plan: EvaluationPlan) -> EvaluationPlan | None:
    """Check that a directory has no plan or an equal plan. Return the directory's plan, or None if there is no plan.

    Raises:
        EvaluationError: the directory belongs to another evaluation. The message names the differing fields.
    """
    earlier = read_plan(directory)
    if earlier is not None and earlier.identity() != plan.identity():
        raise EvaluationError(
            f"{directory} has another evaluation, which differs in {', '.join(_differences(earlier, plan))}: either "
            "give the earlier options again, or choose another directory"
        )
    return earlier


def write_plan(directory: Path, plan: EvaluationPlan) -> None:
    """Write plan.json if the directory has no plan. The caller must have locked the journal.

    Raises:
        EvaluationError: the directory belongs to another evaluation. The message names the differing fields.
    """
    if check_plan(directory, plan) is None:
        data = msgspec.json.format(msgspec.json.encode(plan, order="deterministic"), indent=1) + b"\n"
        write_bytes(directory / PLAN, data, durable=True)


def _differences(one: EvaluationPlan, other: EvaluationPlan) -> list[str]:
    """Return the names of the fields that differ between two plans, with short values.

    The values are compared as JSON. A tuple and a list with the same items are therefore equal.
    """
    found = _differing(one, other, "", ("base_url", "environments"))
    for a, b in zip(one.environments, other.environments, strict=False):
        found += _differing(a, b, f"{a.name}.", ("url",))
    if len(one.environments) != len(other.environments):
        before, now = (", ".join(environment.name for environment in plan.environments) for plan in (one, other))
        found.append(f"environments (earlier {before}; now {now})")
    return found


def _differing(one: msgspec.Struct, other: msgspec.Struct, prefix: str, without: tuple[str, ...]) -> list[str]:
    """Return the names of the differing fields. If both values of a field are short, add the values.

    `prefix`: text before each name. `without`: names of fields that are not compared.
    """
    found = []
    for name in one.__struct_fields__:
        before, now = (
            msgspec.json.encode(getattr(plan, name), order="deterministic").decode() for plan in (one, other)
        )
        if before != now and name not in without:
            details = [FLAGS[name]] if name in FLAGS else []
            if max(len(before), len(now)) <= SHOWN_CHARS:
                details.append(f"earlier {before}, now {now}")
            found.append(f"{prefix}{name} ({': '.join(details)})" if details else f"{prefix}{name}")
    return found
