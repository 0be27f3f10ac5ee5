"""The errors of an evaluation. The errors of a model's API are in `models.errors`."""

from __future__ import annotations

from arlarena.rollout.evaluation.records import Status


class EvaluationError(RuntimeError):
    """The evaluation cannot start or cannot continue. The message names the cause and the fix."""


class AttemptFailed(RuntimeError):
    """This attempt cannot continue. Other attempts can continue.

    Attributes:
        status: the status of the attempt's record.
    """

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


class EvaluationStopped(RuntimeError):
    """The evaluation ends now. Unfinished attempts can be resumed."""


class BudgetSpent(EvaluationStopped):
    """A budget of money, tokens or time is spent. Resume the evaluation with a larger budget to continue."""
