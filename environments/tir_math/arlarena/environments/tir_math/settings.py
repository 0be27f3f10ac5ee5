"""The environment variable of TIR Math. Only this module of the environment reads environment variables."""

from __future__ import annotations

import os
from pathlib import Path


def tir_math_data() -> Path | None:
    """Return the folder TIR_MATH_DATA, or None if the variable is not set. The folder has train.jsonl and a file for
    each test split.
    """
    value = os.environ.get("TIR_MATH_DATA")
    return Path(value).expanduser() if value else None
