"""Write `docs/guide/configuration.md`, the reference of a run's TOML file, from the settings of the services.

.venv/bin/python scripts/configuration_reference.py            write the page
.venv/bin/python scripts/configuration_reference.py --check    exit with 1 where the page differs from the settings
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import SecretStr
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from arlarena.console.settings import BrokerSettings, ConsoleSettings, Gpus, RunSettings, Threads
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.environments.alfworld.options import AlfworldOptions
from arlarena.environments.sokoban.options import SokobanOptions
from arlarena.environments.tir_math.options import SandboxOptions, TirMathOptions
from arlarena.inference.settings import InferenceSettings
from arlarena.proto.config import Table
from arlarena.rollout.settings import EvaluationSettings, RolloutSettings
from arlarena.trainer.objectives import Recipe
from arlarena.trainer.settings import CloneSettings, PolicySettings, TinyPolicy, TrainerSettings

PAGE = Path(__file__).resolve().parents[1] / "docs" / "guide" / "configuration.md"
TABLES: dict[str, type[Table]] = {
    "run": RunSettings,
    "redis": BrokerSettings,
    "environment": EnvironmentSettings,
    "environment.options (sokoban)": SokobanOptions,
    "environment.options (alfworld)": AlfworldOptions,
    "environment.options (tir_math)": TirMathOptions,
    "environment.options.sandbox (tir_math)": SandboxOptions,
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

Every key of a run's TOML file. `scripts/configuration_reference.py` writes this page from the services' settings. All
keys may be left out. An unknown key, a wrong type and a value out of range are errors that name the key. `arlarena up`
checks all tables before it starts anything ([running.md](running.md)). `configs/` has whole files. Names that end in
`_s` are seconds. Under `arlarena up` a port that the file does not name is a free one.
"""
RECIPE = """
## `[trainer.recipe_overrides]`

Options of the method. Each replaces the value that `recipe` gives it. [objectives.md](objectives.md) explains them and
their values. A default in this table holds where the recipe gives no value.

| key | default |
|---|---|
"""
NAMES = {int: "whole number", float: "number", str: "text", bool: "true, false", Path: "path", SecretStr: "secret text"}
BOUNDS = {"gt": "> {}", "ge": "≥ {}", "lt": "< {}", "le": "≤ {}"}


def page() -> str:
    """The whole text."""
    tables = [f"\n## {_title(name)}\n\n{''.join(_rows(model))}" for name, model in TABLES.items()]
    choices = [
        f"| `{field.name}` | {_value(field.default) or 'none'} |\n" for field in fields(Recipe) if field.name != "name"
    ]
    return HEAD + "".join(tables) + RECIPE + "".join(choices)


def _title(name: str) -> str:
    table, _, environment = name.partition(" ")
    return f"`[{table}]` of {environment.strip('()')}" if environment else f"`[{table}]`"


def _rows(model: type[Table]) -> Iterator[str]:
    yield "| key | type, range | default | meaning |\n|---|---|---|---|\n"
    for key, field in model.model_fields.items():
        table = isinstance(field.annotation, type) and issubclass(field.annotation, Table)
        kind = "table" if table else _kind(field.annotation, field.metadata)
        default = "" if table else _value(field.get_default(call_default_factory=True))
        yield f"| `{key}` | {kind} | {default} | {_cell(_meaning(field))} |\n"


def _meaning(field: FieldInfo) -> str:
    return field.description or ""


def _kind(annotation: Any, metadata: Any = ()) -> str:
    """Type and range, in words."""
    origin, inside = get_origin(annotation), get_args(annotation)
    bounds = "".join(f", {text}" for text in _bounds(metadata))
    if origin is Annotated:
        return _kind(inside[0], inside[1:]) + bounds
    if origin is Literal:
        return _cell(", ".join(f"`{value}`" for value in inside))
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
    if value is None or value is PydanticUndefined:
        return ""
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, str | Path):
        return f'`"{value}"`' if str(value) else '`""`'
    if isinstance(value, Table):
        return "a table"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(_bare, value))}]`"
    if isinstance(value, dict):
        pairs = ", ".join(f"{key} = {_bare(each)}" for key, each in value.items())
        return f"`{{{pairs}}}`"
    return f"`{value}`"


def _bare(value: Any) -> str:
    return _value(value).strip("`")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def main() -> int:
    """The command of the module's docstring."""
    text = page()
    if "--check" in sys.argv[1:]:
        same = PAGE.exists() and PAGE.read_text(encoding="utf-8") == text
        if not same:
            print(f"{PAGE} differs from the settings: run {Path(__file__).name}", file=sys.stderr)
        return 0 if same else 1
    PAGE.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
