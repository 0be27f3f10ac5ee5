"""Numbers of a method, declared as fields of a frozen dataclass: default, range and meaning in one place."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from arlarena.trainer.objectives.registry import RecipeError

_KEY = "hyperparameter"


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """What is declared about a number. `above`: the lower bound is excluded."""

    description: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def check(self, name: str, value: object) -> None:
        """Refuse a value that is no finite number, or out of range; `name` begins the message.

        Raises:
            RecipeError: it is one.
        """
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise RecipeError(f"{name} = {value!r} must be a finite number")
        if not self.low <= value <= self.high or (self.above and value == self.low):
            bounds = [f"above {self.low:g}" if self.above else f"at least {self.low:g}"] * math.isfinite(self.low)
            bounds += [f"at most {self.high:g}"] * math.isfinite(self.high)
            raise RecipeError(f"{name} = {value!r} must be {' and '.join(bounds)}")


def hyperparameter(
    default: float | None,
    description: str,
    *,
    above: float | None = None,
    at_least: float = -math.inf,
    at_most: float = math.inf,
) -> Any:
    """Declare a number, as the default value of a dataclass field.

        epsilon: float = hyperparameter(0.2, "distance from 1 at which the gradient is 0", above=0)

    Args:
        default: its value where a recipe or a configuration gives none; None turns off what it controls.
        description: what it does, in a few words, with its unit.
        above: lower bound, excluded; in place of `at_least`.
        at_least: lower bound, included.
        at_most: upper bound, included.
    """
    low = at_least if above is None else above
    return field(default=default, metadata={_KEY: Hyperparameter(description, low, at_most, above is not None)})


def hyperparameters(kind: type[Any]) -> dict[str, Hyperparameter]:
    """The numbers that a dataclass declares, by name."""
    return {each.name: each.metadata[_KEY] for each in fields(kind) if _KEY in each.metadata}


def check_hyperparameters(owner: str, config: Any) -> None:
    """Check every number of `config`; `owner`, such as the recipe's name, begins the message.

    Raises:
        RecipeError: a value is no finite number, or out of range.
    """
    declared = hyperparameters(type(config))
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name in declared and not (value is None and each.default is None):
            declared[each.name].check(f"{owner}.{each.name}", value)
