"""The options of `arlarena eval`."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from arlarena.proto.config import ConfigError, assigned, parse_assignment
from arlarena.rollout.evaluation.models.protocol import SamplingRequest
from arlarena.rollout.evaluation.play.budgets import BudgetLimits
from arlarena.rollout.evaluation.play.limits import ModelLimits
from arlarena.rollout.evaluation.start.tasks import TaskChoice


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """The values of the command-line options. `command_options.py` explains the options.

    Attributes:
        model: MODEL.
        base_url: address of the model's API.
        environments, options, openenv: the values of `--env`, `--option` and `--openenv`.
        set_name: name of a standard evaluation set.
        directory: directory for plan, journal, summary and report.
    """

    model: str
    directory: Path
    environments: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    openenv: tuple[str, ...] = ()
    set_name: str | None = None
    base_url: str | None = None
    tasks: TaskChoice = field(default_factory=TaskChoice)
    attempts: int = 1
    seed: int = 0
    sampling: SamplingRequest = field(default_factory=SamplingRequest)
    strategy: str = "plain"
    strategy_options: dict[str, Any] = field(default_factory=dict)
    images: bool = True
    limits: ModelLimits = field(default_factory=ModelLimits)
    budgets: BudgetLimits = field(default_factory=BudgetLimits)
    prices: Path | None = None
    config: Path | None = None
    dry_run: bool = False


def assignment(flag: str, text: str) -> tuple[str, Any]:
    """Parse the value KEY=VALUE of the option `flag`. Return the key and the value.

    Raises:
        ConfigError: the key or the `=` is missing. The message omits the value, because it may be a secret.
    """
    key, equals, _ = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"{flag} {assigned(text)}: write KEY=VALUE")
    return parse_assignment(text, "KEY=VALUE")
