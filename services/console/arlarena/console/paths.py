"""Makes paths in a configuration absolute. The run's copy of the configuration then works in any folder."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

# Keys whose value may be a path. A value that is a name on the Hub stays unchanged. The keys of `[environment.options]`
# are not listed here. The description of each environment (`Info.paths`) lists the options that are paths.
PATHS = (
    "redis.password_file",
    "policy.path",
    "policy.tokenizer",
    "inference.model",
    "inference.weights_root",
    "inference.vllm_python",
)


def make_existing_paths_absolute(tables: dict[str, Any], folder: Path, keys: Iterable[str] = PATHS) -> None:
    """Replace each relative path in `tables` by its absolute path, if the path exists in `folder`.

    `keys`: the keys to check, such as `policy.path`. The part `*` of a key matches any name.
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
    """Returns `path` without `.` and `..`. Symbolic links are resolved only if `path` contains `..` or has no name."""
    return path.resolve() if ".." in path.parts or not path.name else path
