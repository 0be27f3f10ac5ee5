"""Countdown games like those of reasoning-gym, but drawn without its computer algebra: 200 times as fast."""

from __future__ import annotations

from random import Random
from typing import Any

MAX_DRAFTS = 1_000  # of one game; about one in 10 has a target within the bounds


def fast(dataset: type[Any]) -> type[Any]:
    """Return a generator class that draws games faster. The wording of its questions is unchanged."""
    return type("FastCountdown", (dataset,), {"_generate_expression": lambda self, rng: draw(rng, self.config)})


def draw(random: Random, config: Any) -> tuple[str, list[int], int]:
    """Draw a game. Return the expression, the numbers, and the target, which is within the bounds of `config`.

    As in reasoning-gym, operators are applied from left to right, and division only without remainder.

    Raises:
        ValueError: no target was found within the bounds.
    """
    count = random.randint(config.min_numbers, config.max_numbers)
    for _ in range(MAX_DRAFTS):
        numbers = [random.randint(config.min_value, config.max_value) for _ in range(count)]
        text, value = _expression(random, numbers, config.operators)
        if config.min_target <= value <= config.max_target:
            return text, numbers, value
    raise ValueError(f"no target of {config.min_target} to {config.max_target} with these numbers")


def _expression(random: Random, numbers: list[int], operators: tuple[str, ...]) -> tuple[str, int]:
    """Draw operators between the numbers. Division may reorder the numbers."""
    text, value, is_sum = str(numbers[0]), numbers[0], False
    for place in range(1, len(numbers)):
        operator = random.choice(operators)
        if operator == "/":
            able = [other for other in range(place, len(numbers)) if value % numbers[other] == 0]
            if able:
                other = random.choice(able)
                numbers[place], numbers[other] = numbers[other], numbers[place]
            else:
                operator = "-"
        number = numbers[place]
        if operator in "*/":
            text = f"({text})" if is_sum else text
            value = value * number if operator == "*" else value // number
        else:
            value = value + number if operator == "+" else value - number
        text, is_sum = f"{text} {operator} {number}", operator in "+-"
    return text, value
