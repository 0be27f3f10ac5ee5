"""Checks the environment's result of a reset or step. For example, a NaN would become null in JSON, and a client may
read null as 0. So an invalid result becomes an error reply without observation and reward.
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
    """Returns `result` if it is valid. `task`: the task's name for the error. `stepped`: the result is from a step.

    The reward of a step must be a finite number. The score must be in [0, 1]. `success` and the marks of the end of an
    episode must be bool, text and prompt must be str. Numbers of other libraries, such as numpy, are converted to
    float.

    Raises:
        ApiError: 500, the result is invalid.
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


def _number(task: str, name: str, value: Any, least: float, most: float, wanted: str) -> float:
    """Returns `value` as a float if it is in [least, most]. NaN and bool are errors. `wanted`: text for the error."""
    if type(value) is float and least <= value <= most:  # the usual case, ten times as fast as the rest
        return value
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # the int is larger than any float
            number = math.inf
        if least <= number <= most:
            return number
    raise _broken(task, name, value, wanted)


def _check_type(task: str, name: str, value: Any, kind: type) -> None:
    if not isinstance(value, kind):
        raise _broken(task, name, value, f"a {kind.__name__}")


def _broken(task: str, name: str, value: Any, wanted: str) -> ApiError:
    text = repr(value)
    shown = text if len(text) <= 80 else f"{text[:80]}…"
    return invalid_result(f"{task}: the environment's {name} must be {wanted}, and is {shown} ({type(value).__name__})")
