"""Declares hyperparameters (numbers) of a method as fields of a frozen dataclass, with default, range and meaning."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, fields
from typing import Any

from arlarena.trainer.objectives.registry import RecipeError

_KEY = "hyperparameter"


@dataclass(frozen=True, slots=True)
class Hyperparameter:
    """The declaration of a hyperparameter. If `above` is True, the value `low` itself is not allowed."""

    description: str
    low: float = -math.inf
    high: float = math.inf
    above: bool = False

    def check(self, name: str, value: object) -> None:
        """Check that `value` is a finite number within the range.

        Raises:
            RecipeError: `value` is not a number, not finite or out of range. The message begins with `name`.
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
    """Declare a hyperparameter of a dataclass. Returns a `dataclasses.field`. For example:

        epsilon: float = hyperparameter(0.2, "ratio's distance from 1 where the gradient is 0", above=0)

    Args:
        default: the default value. None means that the hyperparameter is not set, and its feature is off.
        description: what the hyperparameter does, in a few words, with the unit.
        above: the value must be greater than this bound. Give either `above` or `at_least`.
        at_least: the smallest allowed value.
        at_most: the largest allowed value.
    """
    low = at_least if above is None else above
    return field(default=default, metadata={_KEY: Hyperparameter(description, low, at_most, above is not None)})


def hyperparameters(kind: type[Any]) -> dict[str, Hyperparameter]:
    """Return the hyperparameters that a dataclass declares, by name."""
    return {each.name: each.metadata[_KEY] for each in fields(kind) if _KEY in each.metadata}


def check_hyperparameters(owner: str, config: Any) -> None:
    """Check every hyperparameter of `config`.

    Raises:
        RecipeError: a value is not a finite number, or is out of range. The message begins with `owner`, such as the
            name of the recipe.
    """
    declared = hyperparameters(type(config))
    for each in fields(config):
        value = getattr(config, each.name)
        if each.name in declared and not (value is None and each.default is None):
            declared[each.name].check(f"{owner}.{each.name}", value)
