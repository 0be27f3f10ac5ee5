"""Parses the option `--openenv KEY=VALUE`. The option sets properties that an OpenEnv server does not report."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import msgspec

from arlarena.proto.config import ConfigError
from arlarena.proto.text.names import nearest
from arlarena.rollout.evaluation.openenv.rules import OpenEnvSettings
from arlarena.rollout.evaluation.start.environments import EnvironmentChoice, assign
from arlarena.rollout.evaluation.start.options import assignment

FLAG = "--openenv"
RESET = "reset"
TEXTS = ("text_field", "action_field", "instructions")
VALUES = {
    "conversation": "true or false",
    "max_steps": "an integer above 0",
    "success_reward": "a finite number",
}
# Fields of a reset request that only the evaluation sets. Each value is the advice in the error message.
TASK_FIELDS = {"seed": "use --seed", "episode_id": "leave it out", "split": "use --split", "index": "use --tasks"}


def openenv_settings(texts: Sequence[str], choices: Sequence[EnvironmentChoice]) -> OpenEnvSettings | None:
    """Return the settings from `--openenv`, or None if the option is not given.

    Args:
        texts: values of `--openenv`, KEY=VALUE each. A VALUE that is not valid TOML is a string.
        choices: the values of `--env`.

    Raises:
        ConfigError: a key is unknown or given twice, a value is invalid, or no `--env` is a URL.
    """
    if not texts:
        return None
    if not any(choice.url for choice in choices):
        raise ConfigError(f"{FLAG} is for the URL of an OpenEnv server: give --env URL, or leave {FLAG} out")
    values: dict[str, Any] = {}
    for text in texts:
        key, value = _checked(text)
        if key in values:
            raise ConfigError(f"{FLAG} {key}: is given twice")
        if key.startswith(f"{RESET}."):
            assign(values, key, value, FLAG)
        else:
            values[key] = value
    return msgspec.convert(values, OpenEnvSettings)


def _checked(text: str) -> tuple[str, Any]:
    key, value = assignment(FLAG, text)
    table, _, name = key.partition(".")
    if table == RESET and name:
        if name in TASK_FIELDS:
            raise ConfigError(f"{FLAG} {key}: the evaluation sets {name} itself; {TASK_FIELDS[name]}")
        return key, value
    if key not in TEXTS and key not in VALUES:
        known = (*TEXTS, *VALUES, f"{RESET}.FIELD")
        raise ConfigError(f"{FLAG} {key}: unknown; {nearest(key, known)}")
    if key in TEXTS:  # these settings are strings, even if the value looks like a number or a date
        return key, value if isinstance(value, str) else text.partition("=")[2].strip()
    try:
        kind = {field.name: field.type for field in msgspec.structs.fields(OpenEnvSettings)}[key]
        valid = msgspec.convert(value, kind)
    except msgspec.ValidationError:
        valid = None
    if valid is None or (isinstance(valid, float) and not math.isfinite(valid)):
        raise ConfigError(f"{FLAG} {text}: write {key}=VALUE with {VALUES[key]}")
    return key, valid
