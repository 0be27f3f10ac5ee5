"""Checks the result of the environment's reset or step. An invalid result becomes an error reply without observation
and reward. Without the check, a reward of NaN would become null in JSON, and a client could read null as 0.
"""

from __future__ import annotations

import math
import sys
from numbers import Real
from typing import Any

from arlarena.env_server.errors import ApiError, invalid_result
from arlarena.proto.env_api import StepResult

_LARGEST = sys.float_info.max


def check_result(task: str, result: StepResult, *, stepped: bool) -> StepResult:
    """Returns `result` if it is valid. `task`: the id of the task, for the error message. `stepped`: True for a step,
    False for a reset.

    The reward of a step must be a finite number. The score must be a number in [0, 1]. `success`, `done`, `terminated`
    and `truncated` must be bool. `text` and `prompt` must be str. The function converts numbers of other types, such as
    numpy's, to float.

    Raises:
        ApiError: 500 if the result is invalid.
    """
    if stepped or result.reward is not None:
        result.reward = _number(task, "reward", result.reward, -_LARGEST, _LARGEST, "a finite number")
    seen, metadata = result.observation, result.metadata
    _check_type(task, "observation.text", seen.text, str)
    _check_type(task, "observation.prompt", seen.prompt, str)
    _check_type(task, "observation.terminated", seen.terminated, bool)
    _check_type(task, "observation.truncated", seen.truncated, bool)
    _check_type(task, "done", result.done, bool)
    if metadata is not None:
        metadata.score = _number(task, "score", metadata.score, 0, 1, "a number from 0 to 1")
        _check_type(task, "success", metadata.success, bool)
    return result


def _number(task: str, name: str, value: Any, low: float, high: float, expected: str) -> float:
    """Returns `value` as a float if it is in [low, high]. NaN and bool are errors. `expected`: text for the error."""
    if type(value) is float and low <= value <= high:  # the usual case, ten times as fast as the code below
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # the int is larger than any float
            number = math.inf
        if low <= number <= high:
            return number
    raise _invalid_value(task, name, value, expected)


def _check_type(task: str, name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise _invalid_value(task, name, value, f"a {kind.__name__}")


def _invalid_value(task: str, name: str, value: Any, expected: str) -> ApiError:
    text = repr(value)
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    found = f"{shown} ({type(value).__name__})"
    return invalid_result(f"{task}: the environment's {name} must be {expected}, but is {found}")
