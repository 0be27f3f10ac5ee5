"""Writes the result of a benchmark."""

from __future__ import annotations

import json
import os
import platform
from pathlib import Path
from typing import Any

MACHINE = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}


def finish(result: dict[str, Any], out: Path | None) -> int:
    """Add the key `machine` to the result of a benchmark, and print the result as JSON.

    If `out` is given, also write the result to this file.

    Returns the exit status: 0 if `result["passed"]` is true, else 1.
    """
    result["machine"] = MACHINE
    print(json.dumps(result, indent=1))
    if out:
        out.write_text(json.dumps(result, indent=1) + "\n")
    return 0 if result["passed"] else 1
