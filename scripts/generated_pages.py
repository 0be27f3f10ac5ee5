"""Writes generated pages, or checks that they are up to date."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def write_or_check(wanted: Mapping[Path, str]) -> int:
    """Write the files in `wanted` (path → text), except files that already have this text. Return 0, the exit status.

    If the command line contains `--check`, write no file. Print the name of each file whose text differs. Return 1 if
    the text of a file differs, else 0.
    """
    outdated = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in outdated:
            print(f"{path} is out of date: run python -m scripts.{Path(sys.argv[0]).stem}", file=sys.stderr)
        return 1 if outdated else 0
    for path in outdated:
        path.write_text(wanted[path], encoding="utf-8")
    return 0
