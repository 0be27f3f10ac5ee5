"""The command line of `arlarena eval`."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import typer
from rich.console import Console

from arlarena.proto.http.event_loop import loop_factory, rare_garbage_collection
from arlarena.rollout.evaluation import command_options as given
from arlarena.rollout.evaluation.models.protocol import SamplingRequest
from arlarena.rollout.evaluation.play.budgets import BudgetLimits
from arlarena.rollout.evaluation.play.limits import ModelLimits
from arlarena.rollout.evaluation.run import evaluate
from arlarena.rollout.evaluation.start.options import EvaluateOptions, assignment
from arlarena.rollout.evaluation.start.tasks import TaskChoice

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _default_directory(model: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"
    return Path("evaluations") / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _assignments(flag: str, texts: list[str]) -> dict[str, Any]:
    """Parse the values of a repeated KEY=VALUE option. `flag`: name of the option, for error messages."""
    values: dict[str, Any] = {}
    for text in texts:
        key, value = assignment(flag, text)
        values[key] = value
    return values


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    model: given.Model,
    env: given.EnvironmentNames = None, option: given.EnvironmentOptions = None,
    openenv: given.OpenEnvOptions = None, set_name: given.SetName = None,
    split: given.SplitName = None, first: given.FirstTask = 0, count: given.TaskCount = None,
    tasks: given.TaskIndices = None, attempts: given.AttemptCount = 1, seed: given.Seed = 0,
    base_url: given.BaseUrl = None, temperature: given.Temperature = None, top_p: given.TopP = None,
    max_tokens: given.MaxTokens = None, param: given.ModelParameters = None,
    strategy: given.StrategyName = "plain", strategy_option: given.StrategyOptions = None,
    images: given.SendImages = True, concurrency: given.Concurrency = 16,
    requests_per_minute: given.RequestsPerMinute = None, tokens_per_minute: given.TokensPerMinute = None,
    max_cost: given.MaxCost = None, max_total_tokens: given.MaxTotalTokens = None, max_minutes: given.MaxMinutes = None,
    prices: given.PriceFile = None, config: given.ConfigFile = None, out: given.OutputDirectory = None,
    dry_run: given.DryRun = False,
) -> None:  # fmt: skip
    """Evaluate a model on environments.

    Prompts, reply format and step limit are the same as in training. The command writes plan.json, journal.jsonl,
    summary.json and report.html to the directory --out. To resume an interrupted evaluation, run the same command
    with the same --out.

    API keys are read from OPENAI_API_KEY, ANTHROPIC_API_KEY and GEMINI_API_KEY. With --base-url, the key is read from
    ARLARENA_EVAL_API_KEY instead. Most local servers need no key.

    Exit status: 0: all attempts are scored; 1: some attempts are not scored, or the evaluation failed; 2: an option is
    wrong; 128 + n: signal n stopped the evaluation. The first Ctrl-C waits for requests in flight. A second Ctrl-C
    does not wait.
    """
    options = EvaluateOptions(
        model=model,
        directory=out or _default_directory(model),
        environments=tuple(env or ()),
        options=tuple(option or ()),
        openenv=tuple(openenv or ()),
        set_name=set_name,
        base_url=base_url,
        tasks=TaskChoice(split, first, count, tasks),
        attempts=attempts,
        seed=seed,
        sampling=SamplingRequest(temperature, top_p, max_tokens, extra=_assignments("--param", param or [])),
        strategy=strategy,
        strategy_options=_assignments("--strategy-option", strategy_option or []),
        images=images,
        limits=ModelLimits(concurrency, requests_per_minute, tokens_per_minute),
        budgets=BudgetLimits(max_total_tokens, max_cost, None if max_minutes is None else 60 * max_minutes),
        prices=prices,
        config=config,
        dry_run=dry_run,
    )
    with rare_garbage_collection(), asyncio.Runner(loop_factory=loop_factory()) as runner:
        status = runner.run(evaluate(options, Console(highlight=False)))
    raise typer.Exit(status)
