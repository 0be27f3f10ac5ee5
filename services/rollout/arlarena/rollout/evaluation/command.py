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
            help="openai/NAME, anthropic/NAME or google/NAME; NAME of a model at --base-url; the folder of a "
            "checkpoint; or expert (the environment's solver), random (random admissible actions) or person (you).",
        ),
    ],
    env: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME|URL",
            help="Environment: its name (a server is started on this machine), or the URL of a running server of "
            "ARLArena or OpenEnv. Repeat the option for several environments.",
        ),
    ] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME:]KEY=VALUE",
            help="Option of an environment that is started here, such as size=7; with several environments, such as "
            "sokoban:size=7. May be repeated.",
        ),
    ] = None,
    openenv: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="How OpenEnv servers are played: text_field, action_field, conversation, instructions, max_steps, "
            "success_reward or reset.FIELD. May be repeated. The guide evaluate-on-openenv explains them.",
        ),
    ] = None,
    set_name: Annotated[
        str | None,
        typer.Option(
            "--set", metavar="NAME", help="Standard evaluation set, such as sokoban-v1: fixed tasks, options and seed."
        ),
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Split of the tasks.  [default: test]")] = None,
    first: Annotated[int, typer.Option(min=0, metavar="INDEX", help="Index of the first task.")] = 0,
    count: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Number of tasks.  [default: all from --first on]")
    ] = None,
    tasks: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="Indices of tasks, such as 0,7,20-29, instead of --first and --count."),
    ] = None,
    attempts: Annotated[int, typer.Option(min=1, metavar="K", help="Attempts per task, for avg@k and pass@k.")] = 1,
    seed: Annotated[
        int, typer.Option(min=0, metavar="N", help="Seed of resets and of sampling. A standard set has its own.")
    ] = 0,
    base_url: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Address of the model's API, such as http://127.0.0.1:8100. For a MODEL without a vendor's prefix: "
            "an OpenAI-compatible server.",
        ),
    ] = None,
    temperature: Annotated[
        float | None, typer.Option(min=0.0, metavar="T", help="Sampling temperature.  [default: that of the API]")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option(min=0.0, max=1.0, metavar="P", help="Nucleus sampling.  [default: that of the API]")
    ] = None,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Maximum tokens of a reply.  [default: that of the API]")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Further parameter of the model's API, such as reasoning_effort=low. May be repeated.",
        ),
    ] = None,
    strategy: Annotated[
        str,
        typer.Option(
            metavar="NAME",
            help="plain: the prompt is sent as it is. react: the model writes a thought and an action in each turn. "
            "debate: several agents answer and one answer is chosen.",
        ),
    ] = "plain",
    strategy_option: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="Option of the strategy debate: agents=3, rounds=2 or judge=false. May be repeated.",
        ),
    ] = None,
    images: Annotated[bool, typer.Option(help="Send images of the observations to the model.")] = True,
    concurrency: Annotated[int, typer.Option(min=1, metavar="N", help="Maximum requests at the same time.")] = 16,
    requests_per_minute: Annotated[
        float | None, typer.Option(min=0.0, metavar="N", help="Rate limit of requests.  [default: none]")
    ] = None,
    tokens_per_minute: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="N", help="Rate limit of tokens, messages and replies together.  [default: none]"
        ),
    ] = None,
    max_cost: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="DOLLARS", help="Send no further request when the replies cost this much.  [default: none]"
        ),
    ] = None,
    max_total_tokens: Annotated[
        int | None,
        typer.Option(min=1, metavar="N", help="Send no further request after this many tokens.  [default: none]"),
    ] = None,
    max_minutes: Annotated[
        float | None,
        typer.Option(
            min=0.0, metavar="MINUTES", help="Send no further request after this time of this process.  [default: none]"
        ),
    ] = None,
    prices: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Price file (TOML), in place of the built-in one."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="TOML file with the tables [rollout] (timeouts, retries) and [inference] (policy server of a "
            "checkpoint).",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR",
            help="Directory of the results. The same command resumes it.  [default: evaluations/MODEL-TIME]",
        ),
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option(
            "--dry-run",
            help="Print the tasks, the first prompt and upper bounds of requests, tokens and cost. Ask no model.",
        ),
    ] = False,
) -> None:
    """Evaluate a model on environments.

    Prompts, reply format and step limit are those of training. The directory --out gets plan.json, journal.jsonl,
    summary.json and report.html. If the evaluation is interrupted, the same command with the same --out resumes it.

    API keys are read from OPENAI_API_KEY, ANTHROPIC_API_KEY and GEMINI_API_KEY; with --base-url, from
    ARLARENA_EVAL_API_KEY, which most local servers do not need.

    Exit status: 0: all attempts are scored; 1: attempts remain, or a failure; 2: an option is wrong; 128 + n: stopped
    by signal n. A second Ctrl-C does not wait for requests in flight.
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
    raise typer.Exit(asyncio.run(evaluate(options, Console(highlight=False))))
