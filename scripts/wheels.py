#!/usr/bin/env python3
"""Builds a wheel of every Python package of this repository into the folder OUT.

    .venv/bin/python scripts/wheels.py OUT

The build uses the pinned build back end in .venv. Packages that are installed from OUT need no checkout:

    pip install --find-links OUT arlarena-console arlarena-env-server arlarena-guess
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from setup import DISTRIBUTIONS

ROOT = Path(__file__).resolve().parents[1]


def build(out: Path) -> int:
    """Build all wheels into `out`. Return pip's exit status."""
    folders = [str(ROOT / name.partition("[")[0]) for name in DISTRIBUTIONS]
    options = ["--no-deps", "--no-build-isolation", "--check-build-dependencies", "--wheel-dir", str(out)]
    return subprocess.call([sys.executable, "-m", "pip", "wheel", "--quiet", *options, *folders])


def main() -> int:
    """Build the wheels into the folder that the command line names."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: .venv/bin/python scripts/wheels.py OUT", file=sys.stderr)
        return 2
    return build(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
