"""The environment variable of TIR Math. Only this module of the environment reads environment variables."""

from __future__ import annotations

import os
from pathlib import Path


def tir_math_data() -> Path | None:
    """Return the folder that TIR_MATH_DATA names. Return None if this environment variable is not set. The folder must
    contain train.jsonl. Each other .jsonl file is a test split.
    """
    value = os.environ.get("TIR_MATH_DATA")
    return Path(value).expanduser() if value else None
