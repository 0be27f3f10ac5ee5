"""The command line of `arlarena eval`."""

from __future__ import annotations

import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from arlarena.rollout.evaluation.models.protocol import SamplingRequest
from arlarena.rollout.evaluation.play.budgets import BudgetLimits
from arlarena.rollout.evaluation.play.limits import ModelLimits
from arlarena.rollout.evaluation.run import evaluate
from arlarena.rollout.evaluation.start.options import EvaluateOptions, assignment
from arlarena.rollout.evaluation.start.tasks import TaskChoice

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
TASKS, MODEL, LIMITS = "Tasks", "Model", "Limits and budgets"


def _default_directory(model: str) -> Path:
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", model).strip("-.") or "model"
    return Path("evaluations") / f"{name}-{datetime.now(UTC):%Y%m%dT%H%M%SZ}"


def _assignments(flag: str, texts: list[str]) -> dict[str, Any]:
    """Return the values of an option KEY=VALUE that may be repeated."""
    values: dict[str, Any] = {}
    for text in texts:
        key, value = assignment(flag, text)
        values[key] = value
    return values


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def main(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="openai/NAME, anthropic/NAME or google/NAME; NAME with --base-url; the folder of a checkpoint; or "
            "expert, random or person.",
        ),
    ],
    env: Annotated[
        list[str] | None,
        typer.Option(help="Environment: a name, which is started here, or the URL of a server. May be repeated."),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(metavar="[NAME:]KEY=VALUE", help="Option of an environment that is started here."),
    ] = None,
    set_name: Annotated[
        str | None, typer.Option("--set", metavar="NAME", help="Standard evaluation set, for example sokoban-v1.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Split of the tasks.  [default: test]")] = None,
    first: Annotated[int, typer.Option(min=0, help="Index of the first task.")] = 0,
    count: Annotated[int | None, typer.Option(min=1, help="Number of tasks.  [default: all of the split]")] = None,
    tasks: Annotated[str | None, typer.Option(metavar="LIST", help="Indices of tasks, such as 0,7,20-29.")] = None,
    attempts: Annotated[int, typer.Option(min=1, help="Attempts per task.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Seed of resets and sampling.")] = 0,
    base_url: Annotated[str | None, typer.Option(metavar="URL", help="OpenAI-compatible server.")] = None,
    temperature: Annotated[float | None, typer.Option(min=0.0, help="Default: the API's.")] = None,
    top_p: Annotated[float | None, typer.Option(min=0.0, max=1.0, help="Default: the API's.")] = None,
    max_tokens: Annotated[int | None, typer.Option(min=1, help="Maximum tokens of a reply.")] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE", help="Further parameter of the model's API, such as reasoning_effort=low."),
    ] = None,
    strategy: Annotated[str, typer.Option(help="plain, react or debate.")] = "plain",
    strategy_option: Annotated[
        list[str] | None, typer.Option(metavar="KEY=VALUE", help="Option of the strategy, such as agents=3.")
    ] = None,
    images: Annotated[bool, typer.Option(help="Send images of the environment to the model.")] = True,
    concurrency: Annotated[int, typer.Option(min=1, help="Requests at the same time.")] = 16,
    requests_per_minute: Annotated[float | None, typer.Option(min=0.0)] = None,
    tokens_per_minute: Annotated[float | None, typer.Option(min=0.0, help="Of messages and replies together.")] = None,
    max_cost: Annotated[float | None, typer.Option(min=0.0, metavar="DOLLARS", help="Stop at this cost.")] = None,
    max_total_tokens: Annotated[int | None, typer.Option(min=1, help="Stop after this number of tokens.")] = None,
    max_minutes: Annotated[float | None, typer.Option(min=0.0, help="Stop after this time.")] = None,
    prices: Annotated[Path | None, typer.Option(help="Price file, in place of the built-in one.")] = None,
    config: Annotated[Path | None, typer.Option(help="TOML file with [rollout] and [inference].")] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="Directory of the results. The same command resumes it.  [default: evaluations/MODEL-TIME]"),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print what would be asked, and an estimated cost.")
    ] = False,
) -> None:
    """Evaluate a model on environments.

    Prompts, reply format and step limit are those of training. The results are in summary.json and report.html of the
    directory. If the evaluation is interrupted, the same command with the same --out goes on.

    Exit status: 0: all attempts are scored; 1: attempts remain, or a failure; 2: an option is wrong; 128 + n: stopped
    by signal n. A second Ctrl-C does not wait for requests in flight.
    """
    options = EvaluateOptions(
        model=model,
        directory=out or _default_directory(model),
        environments=tuple(env or ()),
        options=tuple(option or ()),
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
    raise typer.Exit(asyncio.run(evaluate(options, Console(highlight=False))))
