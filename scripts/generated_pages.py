"""Pages that scripts generate: write them, or check that they are current."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path


def update(wanted: Mapping[Path, str]) -> int:
    """Write the files that differ from their wanted text, and return the exit status.

    With the flag `--check`, only print the names of these files.
    """
    wrong = [path for path, text in wanted.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    if "--check" in sys.argv[1:]:
        for path in wrong:
            print(f"{path} is out of date: run {Path(sys.argv[0]).name}", file=sys.stderr)
        return 1 if wrong else 0
    for path in wrong:
        path.write_text(wanted[path], encoding="utf-8")
    return 0
