"""The errors of an evaluation. Errors of a model's API are in `models.protocol`."""

from __future__ import annotations

from arlarena.rollout.evaluation.records import Status


class EvaluationError(RuntimeError):
    """The evaluation cannot start or cannot continue. The message names the cause and the fix."""


class AttemptFailed(RuntimeError):
    """This attempt cannot continue. Other attempts can.

    Attributes:
        status: the status of the attempt's record.
    """

    def __init__(self, message: str, status: Status) -> None:
        super().__init__(message)
        self.status = status


class EvaluationStopped(RuntimeError):
    """The evaluation ends now. Unfinished attempts can be resumed."""


class BudgetSpent(EvaluationStopped):
    """A budget of money, tokens or time is used up. A resume with a larger budget continues the evaluation."""
