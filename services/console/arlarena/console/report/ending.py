"""The reason why training ended, from the trainer's record (`training.json`)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import msgspec

from arlarena.proto.text.wording import counted


class RunEnding(msgspec.Struct):
    """The reason why training ended, after `step` of `steps` steps.

    `limit`: the value of the setting in `ended_by`, or None if `ended_by` is not a setting. `detail`: the name of the
    signal, or the message of the error.
    """

    ended_by: Literal["steps", "max_minutes", "max_environment_steps", "signal", "error"]
    step: int
    steps: int
    limit: float | None = None
    detail: str = ""


def read_ending(path: Path) -> dict[str, object] | None:
    """Returns the content of `training.json`, or None if the file is missing or damaged.

    The file is missing until training ends. It is also missing if the trainer was killed.
    """
    try:
        return msgspec.to_builtins(msgspec.json.decode(path.read_bytes(), type=RunEnding))  # type: ignore[no-any-return]
    except (OSError, msgspec.MsgspecError):
        return None


def describe_ending(record: dict[str, object] | None) -> str:
    """Returns text such as `ended by max_minutes = 9 after 53 of 80 steps`, or "" if `record` is None.

    `record`: the result of `read_ending`.
    """
    if record is None:
        return ""
    ending = msgspec.convert(record, RunEnding)
    after = f"after {ending.step:,} of {counted(ending.steps, 'step')}"
    if ending.ended_by == "steps":
        return "finished after 1 step" if ending.steps == 1 else f"finished after all {ending.steps:,} steps"
    if ending.ended_by == "signal":
        return f"stopped by {ending.detail} {after}"
    if ending.ended_by == "error":
        return f"ended by an error {after}: {ending.detail}"
    return f"ended by {ending.ended_by} = {ending.limit or 0.0:,.10g} {after}"
