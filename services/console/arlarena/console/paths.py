"""Paths in a configuration. Those that exist are made absolute, so that a run's copy of it works from any folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Keys that name a file or a folder. Names on the Hub are no paths and stay as they are. The environment's description
# says which of its options are paths.
PATHS = (
    "redis.password_file",
    "policy.path",
    "policy.tokenizer",
    "inference.model",
    "inference.weights_root",
    "inference.vllm_python",
)


def make_absolute(tables: dict[str, Any], folder: Path, keys: Iterable[str] = PATHS) -> None:
    """Replace every relative path that exists in `folder`, where the command runs, by the absolute one. `keys`: where
    paths are; `*` stands for any key.
    """
    for key in keys:
        _replace(tables, key.split("."), folder)


def _replace(table: Any, parts: Sequence[str], folder: Path) -> None:
    if not isinstance(table, dict):
        return
    for name in list(table) if parts[0] == "*" else [name for name in table if name == parts[0]]:
        value = table[name]
        if len(parts) > 1:
            _replace(value, parts[1:], folder)
        elif isinstance(value, str) and value and (folder / value).exists():
            table[name] = str(without_dots(folder / value).absolute())


def without_dots(path: Path) -> Path:
    """`path` without `.` and `..`. A path that has none of them is returned as it is, symbolic links included."""
    return path.resolve() if ".." in path.parts or not path.name else path
