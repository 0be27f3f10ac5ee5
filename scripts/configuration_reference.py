"""Writes the reference of a run's TOML file from the settings of the services.

The script writes the page `docs/reference/configuration.md` and the data file of the command `arlarena config`.

.venv/bin/python -m scripts.configuration_reference            write both files
.venv/bin/python -m scripts.configuration_reference --check    exit with 1 if a file differs from the settings
"""

from __future__ import annotations

import re
import sys
import types
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

import msgspec
from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined
from scripts.generated_pages import write_or_check

from arlarena.console.cli.configuration import DATA, Setting, Tables
from arlarena.console.settings import BrokerSettings, ConsoleSettings, Threads
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environments.alfworld.options import AlfworldOptions
from arlarena.environments.sokoban.options import Curriculum, SokobanOptions
from arlarena.environments.tir_math.options import SandboxOptions, TirMathOptions
from arlarena.environments.tir_math.problems.hub import HubOptions
from arlarena.environments.webshop.options import WebShopOptions
from arlarena.inference.settings import InferenceSettings
from arlarena.proto.config import Table
from arlarena.proto.shared_settings import Gpus, RunSettings
from arlarena.rollout.settings import EvaluationSettings, RolloutSettings
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.objectives.clipping import CLIPS
from arlarena.trainer.objectives.hyperparameters import Hyperparameter, hyperparameters
from arlarena.trainer.policy_settings import PolicySettings, TinyPolicy
from arlarena.trainer.settings import CloneSettings, TrainerSettings

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "reference" / "configuration.md"
CONSOLE = ROOT / "services" / "console" / "arlarena" / "console"
TABLES: dict[str, type[Table]] = {
    "run": RunSettings,
    "redis": BrokerSettings,
    "environment": EnvironmentSettings,
    "environment.options (sokoban)": SokobanOptions,
    "environment.options.curriculum (sokoban)": Curriculum,
    "environment.options (alfworld)": AlfworldOptions,
    "environment.options (tir_math)": TirMathOptions,
    "environment.options.sandbox (tir_math)": SandboxOptions,
    "environment.options.train (tir_math)": HubOptions,
    "environment.options (webshop)": WebShopOptions,
    "policy": PolicySettings,
    "policy.tiny": TinyPolicy,
    "inference": InferenceSettings,
    "rollout": RolloutSettings,
    "clone": CloneSettings,
    "trainer": TrainerSettings,
    "evaluation": EvaluationSettings,
    "console": ConsoleSettings,
    "console.threads": Threads,
    "console.gpus": Gpus,
}
HEAD = """\
# Configuration

This page lists every key of the TOML file of a run. `scripts/configuration_reference.py` writes
this page from the settings of the services.

- All keys are optional. `configs/` contains complete files.
- Keys that end in `_s` are times in seconds.
- An unknown key, a wrong type, or a value out of range is an error. The message names the key.
- `arlarena up` checks all tables before it starts a process ([Run on one
  machine](../how-to/run-on-one-machine.md)). If the file does not set a port, `arlarena up` uses a
  free port.
- `arlarena config TABLE` prints a table of this page.
"""
OVERRIDES = "trainer.recipe_overrides"
RECIPE = """
These keys change the method. Each key replaces the value that the recipe sets. If the recipe sets no
value, the default of this table is used. [Objectives](../explanation/objectives.md) explains the
keys and their values. Clips of plugins add their own hyperparameters.
"""
NAMES = {int: "whole number", float: "number", str: "text", bool: "true, false", Path: "path", SecretStr: "secret text"}
# Units of numbers: pattern of the key → unit.
UNITS = {
    r"_s$": "seconds",
    r"_minutes$": "minutes",
    r"_mb$": "MiB",
    r"_bytes$": "bytes",
    r"_chars$": "characters",
    r"_tokens$|^tokens_|_tokens_per_|^max_model_len$|^max_positions$": "tokens",
    r"_steps$|^steps$|^staleness$": "steps",
    r"_groups$|^groups_": "groups",
    r"_rows$": "rows",
}
BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}


def tables() -> Tables:
    """Return all tables of a run's TOML file: name of the table → its settings."""
    found = {name: list(_settings(model)) for name, model in TABLES.items()}
    return found | {OVERRIDES: list(_overrides())}


def page(tables: Tables) -> str:
    """Return the text of the page `docs/reference/configuration.md`."""
    parts = [HEAD]
    for name, settings in tables.items():
        parts += [f"\n## {_title(name)}\n", RECIPE if name == OVERRIDES else "", "\n"]
        parts.append("| key | type, range | default | meaning |\n|---|---|---|---|\n")
        parts += [_row(each) for each in settings]
    return "".join(parts)


def _title(name: str) -> str:
    table, _, environment = name.partition(" ")
    return f"`[{table}]` of {environment.strip('()')}" if environment else f"`[{table}]`"


def _row(setting: Setting) -> str:
    kind = ", ".join(filter(None, (setting.kind, setting.unit)))
    default = f"`{setting.default}`" if setting.default else ""
    return f"| `{setting.key}` | {_cell(kind)} | {default} | {_cell(setting.description)} |\n"


def _settings(model: type[Table]) -> Iterator[Setting]:
    for key, field in model.model_fields.items():
        table = isinstance(field.annotation, type) and issubclass(field.annotation, Table)
        kind = "table" if table else _kind(field.annotation, field.metadata)
        default = "" if table else _value(field.get_default(call_default_factory=True))
        yield Setting(key, kind, default, _unit(key, kind), _meaning(field))


def _overrides() -> Iterator[Setting]:
    """Yield the keys of `[trainer.recipe_overrides]`: the fields of a recipe, and the hyperparameters of all clips."""
    for field in fields(Recipe):
        if field.name == "clip_options":
            yield from _hyperparameters_of_clips()
        elif field.name != "name":
            if declared := hyperparameters(Recipe).get(field.name):
                kind, description = _range(declared), declared.description
            else:
                kind, description = ", ".join(field.metadata["values"]), field.metadata["description"]
                kind = kind or NAMES[type(field.default)]
            yield Setting(field.name, kind, _value(field.default), _unit(field.name, kind), description)


def _hyperparameters_of_clips() -> Iterator[Setting]:
    seen = set()
    for clip in CLIPS.values():
        for key, declared in hyperparameters(clip.config).items():
            if key in seen:
                continue
            seen.add(key)
            readers = [name for name, other in CLIPS.items() if key in hyperparameters(other.config)]
            only = "" if len(readers) == len(CLIPS) else f"; only for clip {', '.join(readers)}"
            (default,) = (field.default for field in fields(clip.config) if field.name == key)
            yield Setting(key, _range(declared), _value(default), "", declared.description + only)


def _range(number: Hyperparameter) -> str:
    low = f"{'>' if number.above else '≥'} {number.low:g}" if number.low > -float("inf") else ""
    high = f"≤ {number.high:g}" if number.high < float("inf") else ""
    return ", ".join(filter(None, ("number", low, high)))


def _unit(key: str, kind: str) -> str:
    if "number" not in kind:
        return ""
    return next((unit for pattern, unit in UNITS.items() if re.search(pattern, key)), "")


def _meaning(field: FieldInfo) -> str:
    return field.description or ""


def _kind(annotation: Any, metadata: Any = ()) -> str:
    """Return the type and range of a setting in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    bounds = "".join(f", {text}" for text in _bounds(metadata))
    if origin is Annotated:
        return _kind(inside[0], inside[1:]) + bounds
    if origin is Literal:
        return ", ".join(map(str, inside))
    if origin in (Union, types.UnionType):
        return " or ".join(_kind(each) for each in inside if each is not type(None)) + bounds
    if origin in (tuple, list):
        return f"list of: {_kind(inside[0])}" + bounds
    if origin is dict:
        return "table"
    if isinstance(annotation, type) and issubclass(annotation, Table):
        return "table"
    return NAMES.get(annotation, "text") + bounds


def _bounds(metadata: Any) -> Iterator[str]:
    for each in metadata:
        nested = getattr(each, "metadata", None)
        yield from _bounds(nested or ())
        for name, text in BOUNDS.items():
            if (bound := getattr(each, name, None)) is not None:
                yield text.format(f"{bound:g}" if isinstance(bound, float) else bound)


def _value(value: Any) -> str:
    """Return a default value as TOML. If the value is missing or a table, return ""."""
    if value is None or value is PydanticUndefined or value is MISSING or isinstance(value, Table):
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str | Path):
        return f'"{value}"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_value, value))}]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key} = {_value(each)}" for key, each in value.items()) + "}"
    return str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _data(tables: Tables) -> str:
    """Return the data file of `arlarena config`: JSON with one setting per line."""
    parts = []
    for name, settings in tables.items():
        lines = ",\n".join(f"  {msgspec.json.encode(each).decode()}" for each in settings)
        parts.append(f" {msgspec.json.encode(name).decode()}: [\n{lines}\n ]")
    return "{\n" + ",\n".join(parts) + "\n}\n"


def main() -> int:
    """Write the page and the data file, or check them (`--check`). Return the exit status."""
    found = tables()
    wanted = {PAGE: page(found), CONSOLE / DATA: _data(found)}
    return write_or_check(wanted)


if __name__ == "__main__":
    sys.exit(main())
