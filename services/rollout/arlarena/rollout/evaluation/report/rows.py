"""One flat row per attempt, for the exports."""

from __future__ import annotations

from datetime import UTC, datetime

from arlarena.rollout.evaluation.directory import EvaluationResults
from arlarena.rollout.evaluation.models.protocol import TokenUsage
from arlarena.rollout.evaluation.records import AttemptRecord
from arlarena.rollout.evaluation.report.cost import dollars
from arlarena.rollout.evaluation.report.prices import ModelPrice

Cell = str | int | float | bool | None
# The type of each column, for formats that have types. `metric_NAME` columns follow; their type is float.
COLUMNS: dict[str, type] = {
    "evaluation": str,
    "model": str,
    "strategy": str,
    "environment": str,
    "environment_version": str,
    "split": str,
    "index": int,
    "attempt": int,
    "task_id": str,
    "content_key": str,
    "kind": str,
    "status": str,
    "success": bool,
    "score": float,
    "total_reward": float,
    "steps": int,
    "terminated": bool,
    "truncated": bool,
    "requests": int,
    "input_tokens": int,
    "output_tokens": int,
    "reasoning_tokens": int,
    "cached_tokens": int,
    "dollars": float,
    "started": str,
    "seconds": float,
    "error": str,
}


def iso_time(seconds: float) -> str:
    """Returns a time in seconds since the epoch as ISO 8601 in UTC."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")


def metric_names(results: EvaluationResults) -> list[str]:
    """Returns the names of all metrics of the attempts, sorted."""
    return sorted({name for record in results.records for name in record.metrics})


def attempt_dollars(record: AttemptRecord, price: ModelPrice | None) -> float | None:
    """Returns the cost of an attempt in dollars. Returns None if the cost is unknown.

    The cost is 0 if the attempt has no requests, for example if the expert or the random player played it.
    """
    return 0.0 if not record.requests else dollars(record.usage, price, record.requests)


def row(results: EvaluationResults, record: AttemptRecord, price: ModelPrice | None) -> dict[str, Cell]:
    """Returns the row of an attempt. `success` and `score` are None if the attempt is not scored."""
    plan, usage = results.plan, record.usage
    versions = {one.name: one.version for one in plan.environments}
    return {
        "evaluation": plan.identity(),
        "model": plan.model,
        "strategy": plan.strategy,
        "environment": record.key.environment,
        "environment_version": versions.get(record.key.environment, ""),
        "split": record.key.split,
        "index": record.key.index,
        "attempt": record.key.attempt,
        "task_id": record.task_id,
        "content_key": record.content_key,
        "kind": record.kind,
        "status": record.status,
        "success": record.success if record.scored else None,
        "score": record.score if record.scored else None,
        "total_reward": record.total_reward,
        "steps": record.steps,
        "terminated": record.terminated,
        "truncated": record.truncated,
        "requests": record.requests,
        **_tokens(usage),
        "dollars": attempt_dollars(record, price),
        "started": iso_time(record.started),
        "seconds": record.seconds,
        "error": record.error,
        **{f"metric_{name}": record.metrics.get(name) for name in metric_names(results)},
    }


def _tokens(usage: TokenUsage) -> dict[str, Cell]:
    return {
        "input_tokens": usage.input,
        "output_tokens": usage.output,
        "reasoning_tokens": usage.reasoning,
        "cached_tokens": usage.cached,
    }


def chat(record: AttemptRecord) -> list[dict[str, str]]:
    """Returns the attempt as messages: each observation as `user`, each response as `assistant`.

    The `user` messages are observations, not prompts: a prompt may repeat earlier observations.
    """
    messages = []
    for turn in record.turns:
        messages.append({"role": "user", "content": turn.observation})
        messages.append({"role": "assistant", "content": turn.response})
    return messages
