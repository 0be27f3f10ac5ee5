"""Export to logs of Inspect (https://inspect.aisi.org.uk/eval-logs.html), without the package inspect_ai.

A file `NAME.eval` is a zip of JSON texts. The format is that of inspect_ai 0.3.285 (inspect_ai/log/_recorders/eval.py):

    header.json                     inspect_ai.log.EvalLog without samples
    samples/ID_epoch_EPOCH.json     inspect_ai.log.EvalSample, one per attempt
    summaries.json                  list of inspect_ai.log.EvalSampleSummary

In Inspect's terms, an environment of the plan is a task, a task of the plan is a sample, and attempt i is epoch i + 1.
"""

from __future__ import annotations

import base64
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from arlarena.proto.atomic_files import open_atomic
from arlarena.rollout.evaluation.directory import EvaluationResults
from arlarena.rollout.evaluation.models.protocol import Finish, TokenUsage
from arlarena.rollout.evaluation.records import AttemptRecord, EnvironmentPlan
from arlarena.rollout.evaluation.report.images import media_type, read_image
from arlarena.rollout.evaluation.report.prices import ModelPrice
from arlarena.rollout.evaluation.report.rows import attempt_dollars, iso_time
from arlarena.rollout.evaluation.report.summary_view import (
    EnvironmentFigures,
    Summarise,
    environment_figures,
)
from arlarena.rollout.evaluation.totals import total_dollars, total_usage

LOG_VERSION = 2
SCORER = "success"
STOP_REASONS: dict[Finish, str] = {
    "stop": "stop",
    "length": "max_tokens",
    "refusal": "content_filter",
    "tool_calls": "tool_calls",
    "other": "unknown",
}


def write_inspect_logs(
    results: EvaluationResults, directory: Path, summarise: Summarise, price: ModelPrice | None = None
) -> list[Path]:
    """Write one `.eval` file per environment. Returns their paths. Existing files are replaced."""
    paths = []
    for plan in results.plan.environments:
        records = results.of(plan.name)
        figures = environment_figures(plan, records, results.plan.attempts, summarise)
        path = directory / f"{plan.name}.eval"
        with open_atomic(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            for record in records:
                name = f"samples/{sample_id(record)}_epoch_{record.key.attempt + 1}.json"
                archive.writestr(name, msgspec.json.encode(_sample(results, record, price)))
            archive.writestr("summaries.json", msgspec.json.encode([_summary(results, one, price) for one in records]))
            archive.writestr("header.json", msgspec.json.encode(_header(results, plan, figures, records, price)))
        paths.append(path)
    return paths


def sample_id(record: AttemptRecord) -> str:
    """Returns the id of the sample in the log. The id is also part of a file name."""
    return f"{record.key.split}-{record.key.index}"


def _model_usage(usage: TokenUsage, cost: float | None) -> dict[str, Any]:
    # Inspect counts cached input tokens separately from the other input tokens.
    read, output = usage.input or 0, usage.output or 0
    return {
        "input_tokens": read - (usage.cached or 0),
        "output_tokens": output,
        "total_tokens": read + output,
        "input_tokens_cache_read": usage.cached,
        "reasoning_tokens": usage.reasoning,
        "total_cost": cost,
    }


def _usages(results: EvaluationResults, record: AttemptRecord, price: ModelPrice | None) -> dict[str, Any]:
    return {results.plan.model: _model_usage(record.usage, attempt_dollars(record, price))} if record.requests else {}


def _score(record: AttemptRecord) -> dict[str, Any]:
    return {
        SCORER: {
            "value": "C" if record.success else "I",
            "answer": record.turns[-1].response if record.turns else None,
            "metadata": {"score": record.score, "total_reward": record.total_reward},
        }
    }


def _shared(results: EvaluationResults, record: AttemptRecord, price: ModelPrice | None) -> dict[str, Any]:
    """Returns the fields that a sample and its summary share, except the error."""
    return {
        "id": sample_id(record),
        "epoch": record.key.attempt + 1,
        "input": record.turns[0].observation if record.turns else "",
        "target": "",
        "metadata": {
            "environment": record.key.environment,
            "task_id": record.task_id,
            "content_key": record.content_key,
            "kind": record.kind,
            "status": record.status,
            "terminated": record.terminated,
            "truncated": record.truncated,
            **{f"metric_{name}": value for name, value in record.metrics.items()},
        },
        "scores": _score(record) if record.scored else None,
        "model_usage": _usages(results, record, price),
        "started_at": iso_time(record.started),
        "completed_at": iso_time(record.started + record.seconds),
        "total_time": record.seconds,
        "uuid": f"{results.plan.identity()}-{record.key}",
    }


def _summary(results: EvaluationResults, record: AttemptRecord, price: ModelPrice | None) -> dict[str, Any]:
    messages = 2 * len(record.turns)
    error = record.error if record.error and not record.scored else None
    return _shared(results, record, price) | {"completed": True, "message_count": messages, "error": error}


def _sample(results: EvaluationResults, record: AttemptRecord, price: ModelPrice | None) -> dict[str, Any]:
    error = record.error or record.status
    return _shared(results, record, price) | {
        "messages": _messages(results, record),
        "output": _output(results, record),
        "turn_count": record.steps,
        "error": None if record.scored else {"message": error, "traceback": error, "traceback_ansi": error},
    }


def _messages(results: EvaluationResults, record: AttemptRecord) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in record.turns:
        parts: list[dict[str, Any]] = []
        for name in turn.images:
            if (data := read_image(results.path, name)) is not None:
                url = f"data:{media_type(name)};base64,{base64.b64encode(data).decode()}"
                parts.append({"type": "image", "image": url})
        content = [*parts, {"type": "text", "text": turn.observation}] if parts else turn.observation
        marks = {"reward": turn.reward, "action": turn.action, "action_valid": turn.action_valid}
        messages.append({"role": "user", "content": content, "source": "input"})
        answer = {"role": "assistant", "content": turn.response, "source": "generate", "model": results.plan.model}
        messages.append(answer | {"metadata": marks | {"format_valid": turn.format_valid}})
    if record.final_observation:
        messages.append({"role": "user", "content": record.final_observation, "source": "input"})
    return messages


def _output(results: EvaluationResults, record: AttemptRecord) -> dict[str, Any]:
    if not record.turns:
        return {"model": results.plan.model}
    last = record.turns[-1]
    choice = {"message": {"role": "assistant", "content": last.response}, "stop_reason": STOP_REASONS[last.finish]}
    return {"model": results.plan.model, "choices": [choice], "completion": last.response}


def _header(
    results: EvaluationResults,
    plan: EnvironmentPlan,
    figures: EnvironmentFigures,
    records: Sequence[AttemptRecord],
    price: ModelPrice | None,
) -> dict[str, Any]:
    started = min((one.started for one in records), default=0.0)
    ended = max((one.started + one.seconds for one in records), default=0.0)
    cost = total_dollars(attempt_dollars(one, price) for one in records)
    usage = {results.plan.model: _model_usage(total_usage(records), cost)} if any(r.requests for r in records) else {}
    complete = len(records) == len(plan.indices) * results.plan.attempts
    return {
        "version": LOG_VERSION,
        "status": "success" if complete else "cancelled",
        "eval": _spec(results, plan, started),
        "plan": {"steps": [{"solver": results.plan.strategy, "params": dict(results.plan.strategy_options)}]},
        "results": _results(plan, figures, records, results.plan.attempts),
        "stats": {"started_at": iso_time(started), "completed_at": iso_time(ended), "model_usage": usage},
    }


def _spec(results: EvaluationResults, plan: EnvironmentPlan, started: float) -> dict[str, Any]:
    evaluation = results.plan
    return {
        "eval_id": evaluation.identity(),
        "run_id": evaluation.identity(),
        "created": iso_time(started),
        "task": f"arlarena/{plan.name}",
        "task_id": f"{evaluation.identity()}-{plan.name}",
        "task_version": plan.version,
        "task_args": {**plan.options, "split": plan.split, "set": plan.set, "parser": plan.parser},
        "dataset": {"name": plan.set or f"{plan.name}/{plan.split}", "samples": len(plan.indices)},
        "model": evaluation.model,
        "model_args": {"sampling": evaluation.sampling, "strategy": evaluation.strategy, "images": evaluation.images},
        "config": {"epochs": evaluation.attempts},
        "packages": {},
        "metadata": {"seed": evaluation.seed, "template": plan.template, "exported_by": "arlarena"},
        "scorers": [{"name": SCORER, "metrics": [{"name": "accuracy"}]}],
    }


def _results(
    plan: EnvironmentPlan, figures: EnvironmentFigures, records: Sequence[AttemptRecord], k: int
) -> dict[str, Any]:
    found = figures.all
    metrics: dict[str, Any] = {}
    if found.success is not None:
        metrics["accuracy"] = {"name": "accuracy", "value": found.success}
    if found.ci95 is not None:
        metrics["ci95_low"] = {"name": "ci95_low", "value": found.ci95[0]}
        metrics["ci95_high"] = {"name": "ci95_high", "value": found.ci95[1]}
    score = {
        "name": SCORER,
        "scorer": SCORER,
        "scored_samples": found.attempts,
        "unscored_samples": len(records) - found.attempts,
        "metrics": metrics,
    }
    return {"total_samples": len(plan.indices) * k, "completed_samples": len(records), "scores": [score]}
