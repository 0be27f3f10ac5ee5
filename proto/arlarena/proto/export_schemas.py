"""Write the JSON Schemas of `trajectory.py`: `python -m arlarena.proto.export_schemas [--check] [FOLDER]`.

FOLDER defaults to `proto/schemas` of the checkout. `--check` writes nothing, and exits with status 1 if a file is
missing or outdated.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from arlarena.proto.trajectory import json_schemas

CHECKOUT_SCHEMAS = Path(__file__).resolve().parents[2] / "schemas"


def rendered() -> dict[str, str]:
    """Returns {file name: text} of all schema files, as they should be."""
    return {
        f"{name}.json": json.dumps(schema, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
        for name, schema in json_schemas().items()
    }


def outdated(folder: Path) -> list[str]:
    """Returns the names of the schema files that are missing in `folder` or outdated."""

    def current(name: str, text: str) -> bool:
        path = folder / name
        return path.is_file() and path.read_text(encoding="utf-8") == text

    return [name for name, text in rendered().items() if not current(name, text)]


def export(folder: Path) -> list[Path]:
    """Write all schema files to `folder`. Returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    files = {folder / name: text for name, text in rendered().items()}
    for path, text in files.items():
        path.write_text(text, encoding="utf-8")
    return list(files)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns 1 if `--check` found a missing or outdated file, else 0."""
    parser = argparse.ArgumentParser(prog="python -m arlarena.proto.export_schemas", description="Export JSON Schemas.")
    parser.add_argument("folder", nargs="?", type=Path, help="output folder (default: proto/schemas of the checkout)")
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit with status 1 if a file is missing or outdated"
    )
    options = parser.parse_args(arguments)
    folder = options.folder or CHECKOUT_SCHEMAS
    if options.folder is None and not (folder.parent / "pyproject.toml").is_file():
        parser.error("arlarena-proto is not installed from a checkout: give the output folder as argument")
    if not options.check:
        print("\n".join(str(path) for path in export(folder)))
        return 0
    for name in (stale := outdated(folder)):
        print(f"{folder / name} is not current: run `python -m arlarena.proto.export_schemas`", file=sys.stderr)
    return 1 if stale else 0


if __name__ == "__main__":
    sys.exit(main())
