"""The options of `arlarena eval`, by concept. `command.main` has their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# What is evaluated.
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="openai/NAME, anthropic/NAME or google/NAME; NAME of a model at --base-url; the folder of a "
        "checkpoint; or expert (the environment's solver), random (random admissible actions) or person (you).",
    ),
]

# Environments.
EnvironmentNames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|URL",
        help="Environment: its name (a server is started on this machine), or the URL of a running server of "
        "ARLArena or OpenEnv. Repeat the option for several environments.",
    ),
]
EnvironmentOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME:]KEY=VALUE",
        help="Option of an environment that is started here, such as size=7; with several environments, such as "
        "sokoban:size=7. May be repeated.",
    ),
]
OpenEnvOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="How OpenEnv servers are played: text_field, action_field, conversation, instructions, max_steps, "
        "success_reward or reset.FIELD. May be repeated. The guide evaluate-on-openenv explains them.",
    ),
]
SetName = Annotated[
    str | None,
    typer.Option(
        "--set", metavar="NAME", help="Standard evaluation set, such as sokoban-v1: fixed tasks, options and seed."
    ),
]

# Tasks of each environment.
SplitName = Annotated[str | None, typer.Option(metavar="NAME", help="Split of the tasks.  [default: test]")]
FirstTask = Annotated[int, typer.Option(min=0, metavar="INDEX", help="Index of the first task.")]
TaskCount = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Number of tasks.  [default: all from --first on]")
]
TaskIndices = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Indices of tasks, such as 0,7,20-29, instead of --first and --count."),
]
AttemptCount = Annotated[int, typer.Option(min=1, metavar="K", help="Attempts per task, for avg@k and pass@k.")]
Seed = Annotated[
    int, typer.Option(min=0, metavar="N", help="Seed of resets and of sampling. A standard set has its own seed.")
]

# The model's API and its sampling.
BaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Address of the model's API, such as http://127.0.0.1:8100. For a MODEL without a vendor's prefix: "
        "an OpenAI-compatible server.",
    ),
]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, metavar="T", help="Sampling temperature.  [default: that of the API]")
]
TopP = Annotated[
    float | None, typer.Option(min=0.0, max=1.0, metavar="P", help="Nucleus sampling.  [default: that of the API]")
]
MaxTokens = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Maximum tokens of a reply.  [default: that of the API]")
]
ModelParameters = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Further parameter of the model's API, such as reasoning_effort=low. May be repeated.",
    ),
]
SendImages = Annotated[bool, typer.Option(help="Send images of the observations to the model.")]

# Strategy.
StrategyName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="plain: the prompt is sent as it is. react: the model writes a thought and an action in each turn. "
        "debate: several agents answer and one answer is chosen.",
    ),
]
StrategyOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Option of the strategy debate: agents=3, rounds=2 or judge=false. May be repeated.",
    ),
]

# Limits of the requests.
Concurrency = Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of requests at the same time.")]
RequestsPerMinute = Annotated[
    float | None, typer.Option(min=0.0, metavar="N", help="Rate limit of requests.  [default: none]")
]
TokensPerMinute = Annotated[
    float | None,
    typer.Option(min=0.0, metavar="N", help="Rate limit of tokens, messages and replies together.  [default: none]"),
]

# Budgets.
MaxCost = Annotated[
    float | None,
    typer.Option(
        min=0.0, metavar="DOLLARS", help="Send no further request when the replies cost this much.  [default: none]"
    ),
]
MaxTotalTokens = Annotated[
    int | None,
    typer.Option(min=1, metavar="N", help="Send no further request after this many tokens.  [default: none]"),
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="MINUTES",
        help="Send no further request after this process has run for this time.  [default: none]",
    ),
]
PriceFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Price file (TOML), instead of the built-in file."),
]

# Files, and the dry run.
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file with the tables [rollout] (timeouts, retries) and [inference] (policy server of a checkpoint).",
    ),
]
OutputDirectory = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Directory of the results. The same command resumes it.  [default: evaluations/MODEL-TIME]",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the tasks, the first prompt and upper bounds of requests, tokens and cost. Ask no model.",
    ),
]
