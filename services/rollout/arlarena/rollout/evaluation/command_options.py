"""The options of `arlarena eval`, grouped by topic. `command.main` sets their defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

# What is evaluated.
Model = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help="One of: openai/NAME, anthropic/NAME or google/NAME; the NAME of a model at --base-url; the folder of a "
        "checkpoint; expert (the environment's solver); random (random admissible actions); person (you play).",
    ),
]

# Environments.
EnvironmentNames = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME|URL",
        help="Name of an environment, or URL of a running ARLArena or OpenEnv server. For a name, the command starts "
        "a server on this machine. Repeat the option for several environments.",
    ),
]
EnvironmentOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="[NAME:]KEY=VALUE",
        help="Option for an environment that this command starts, such as size=7. With several environments, write "
        "the environment's name first, such as sokoban:size=7. May be repeated.",
    ),
]
OpenEnvOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Setting for OpenEnv servers: text_field, action_field, conversation, instructions, max_steps, "
        "success_reward or reset.FIELD. May be repeated. The guide docs/how-to/evaluate-on-openenv.md explains them.",
    ),
]
SetName = Annotated[
    str | None,
    typer.Option(
        "--set", metavar="NAME", help="Standard evaluation set, such as sokoban-v1. It fixes tasks, options and seed."
    ),
]

# Tasks of each environment.
SplitName = Annotated[
    str | None,
    typer.Option(
        metavar="NAME", help="Split of the tasks.  [default: test; if there is no test, the only evaluation split]"
    ),
]
FirstTask = Annotated[int, typer.Option(min=0, metavar="INDEX", help="Index of the first task.")]
TaskCount = Annotated[
    int | None, typer.Option(min=1, metavar="N", help="Number of tasks.  [default: all tasks from --first to the end]")
]
TaskIndices = Annotated[
    str | None,
    typer.Option(metavar="LIST", help="Task indices, such as 0,7,20-29. Use it instead of --first and --count."),
]
AttemptCount = Annotated[int, typer.Option(min=1, metavar="K", help="Attempts per task, for avg@k and pass@k.")]
Seed = Annotated[
    int, typer.Option(min=0, metavar="N", help="Seed for resets and sampling. A standard set has its own seed.")
]

# The model's API and its sampling.
BaseUrl = Annotated[
    str | None,
    typer.Option(
        metavar="URL",
        help="Address of the model's API, such as http://127.0.0.1:8100. If MODEL has no vendor prefix, the server "
        "must be OpenAI-compatible.",
    ),
]
Temperature = Annotated[
    float | None, typer.Option(min=0.0, metavar="T", help="Sampling temperature.  [default: the API's default]")
]
TopP = Annotated[
    float | None,
    typer.Option(
        min=0.0, max=1.0, metavar="P", help="Probability mass for nucleus sampling.  [default: the API's default]"
    ),
]
MaxTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Maximum number of tokens in a reply.  [default: the API's default; for Anthropic's API: 4096]",
    ),
]
ModelParameters = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Additional parameter for the model's API, such as reasoning_effort=low. May be repeated.",
    ),
]
SendImages = Annotated[bool, typer.Option(help="Send the observations' images to the model.")]

# Strategy.
StrategyName = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="plain: the prompt is sent unchanged. react: the model writes a thought and an action in each turn. "
        "debate: several agents answer, then a vote or a judge chooses one answer.",
    ),
]
StrategyOptions = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=VALUE",
        help="Option of the debate strategy: agents=3, rounds=2 or judge=false. May be repeated.",
    ),
]

# Limits of the requests.
Concurrency = Annotated[int, typer.Option(min=1, metavar="N", help="Maximum number of concurrent requests.")]
RequestsPerMinute = Annotated[
    float | None, typer.Option(min=0.0, metavar="N", help="Maximum number of requests per minute.  [default: none]")
]
TokensPerMinute = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="N",
        help="Maximum number of tokens per minute. Messages and replies both count.  [default: none]",
    ),
]

# Budgets.
MaxCost = Annotated[
    float | None,
    typer.Option(
        min=0.0, metavar="DOLLARS", help="Stop sending requests when the replies have cost this much.  [default: none]"
    ),
]
MaxTotalTokens = Annotated[
    int | None,
    typer.Option(
        min=1,
        metavar="N",
        help="Stop sending requests after this many tokens. Messages and replies both count.  [default: none]",
    ),
]
MaxMinutes = Annotated[
    float | None,
    typer.Option(
        min=0.0,
        metavar="MINUTES",
        help="Stop sending requests this many minutes after the first attempt of this process starts.  [default: none]",
    ),
]
PriceFile = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="Price file (TOML). It replaces the built-in price file."),
]

# Files, and the dry run.
ConfigFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        help="TOML file with the tables [rollout] (timeouts and retries) and [inference] (the policy server for a "
        "checkpoint).",
    ),
]
OutputDirectory = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="Directory for the results. The same command with the same directory resumes an evaluation.  "
        "[default: evaluations/MODEL-TIME]",
    ),
]
DryRun = Annotated[
    bool,
    typer.Option(
        "--dry-run",
        help="Print the tasks, the first prompt, and estimated upper bounds of requests, tokens and cost. Send no "
        "request to a model.",
    ),
]
