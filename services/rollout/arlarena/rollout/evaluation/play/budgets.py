"""Budgets of an evaluation: tokens, money and time.

`ModelAccess.check` checks the budgets before each request. If a budget is spent, requests in flight are not cancelled.
Their replies may exceed a budget of tokens or money.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from arlarena.rollout.evaluation.errors import BudgetSpent, EvaluationError
from arlarena.rollout.evaluation.models.protocol import TokenUsage

# A function that returns the price of a token usage, or None if the price is unknown.
Price = Callable[[TokenUsage], float | None]


def no_price(usage: TokenUsage) -> float | None:
    """Return None: the price is unknown."""
    return None


@dataclass(frozen=True, slots=True)
class BudgetLimits:
    """The budgets of an evaluation. None: unlimited.

    Attributes:
        tokens: input and output tokens of all replies, including replies before a resume.
        money: price of all replies, including replies before a resume, in the currency of the price function.
        seconds: time since this process created the `BudgetMeter`.
    """

    tokens: int | None = None
    money: float | None = None
    seconds: float | None = None


class BudgetMeter:
    """Sums the token usage of an evaluation, and ends the evaluation when a budget is spent.

    Attributes:
        tokens: sum of the input and output tokens.
        money: sum of the replies' prices, without unknown prices.
        unpriced: number of replies with an unknown price.
    """

    def __init__(
        self, limits: BudgetLimits, price: Price = no_price, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Create a meter with no usage, and start to measure the time.

        Raises:
            EvaluationError: there is a budget of money, but the model's price is unknown.
        """
        if limits.money is not None and price(TokenUsage(input=1, output=1)) is None:
            raise EvaluationError(
                "the price of this model is unknown, so a budget of money cannot be checked: give a price file with "
                "the model's price"
            )
        self._limits, self._price, self._clock, self._started = limits, price, clock, clock()
        self.tokens, self.money, self.unpriced = 0, 0.0, 0

    def add(self, usage: TokenUsage) -> None:
        """Add the token usage of a reply."""
        self.tokens += (usage.input or 0) + (usage.output or 0)
        price = self._price(usage)
        if price is None:
            self.unpriced += 1
        else:
            self.money += price

    def add_earlier(self, usages: Iterable[TokenUsage]) -> None:
        """Add the token usage of replies that arrived before a resume."""
        for usage in usages:
            self.add(usage)

    def check(self) -> None:
        """Check the budgets.

        Raises:
            BudgetSpent: a budget is spent, or there is a budget of money and the price of a reply is unknown.
        """
        limits, tokens = self._limits, self.tokens
        if limits.tokens is not None and tokens >= limits.tokens:
            raise BudgetSpent(f"the budget of {limits.tokens} tokens is spent ({tokens} used)")
        if limits.money is not None and self.money >= limits.money:
            raise BudgetSpent(f"the money budget of {limits.money:g} is spent ({self.money:.4f} used)")
        if limits.money is not None and self.unpriced:
            raise BudgetSpent(
                f"the price of {self.unpriced} replies is unknown, so the budget of money cannot be checked"
            )
        if limits.seconds is not None and self._clock() - self._started >= limits.seconds:
            raise BudgetSpent(f"the budget of {limits.seconds:g} s is spent")
