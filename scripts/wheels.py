"""Build wheels of all Python packages of this repository, and write them into the folder OUT.

    .venv/bin/python -m scripts.wheels OUT

The build uses the pinned build back end in .venv. The wheels in OUT can be installed without the checkout:

    pip install --find-links OUT arlarena-console arlarena-env-server arlarena-guess
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from scripts.setup import DISTRIBUTIONS

ROOT = Path(__file__).resolve().parents[1]


def build(out: Path) -> int:
    """Build all wheels into `out`. Return pip's exit status."""
    folders = [str(ROOT / name.partition("[")[0]) for name in DISTRIBUTIONS]
    options = ["--no-deps", "--no-build-isolation", "--check-build-dependencies", "--wheel-dir", str(out)]
    return subprocess.call([sys.executable, "-m", "pip", "wheel", "--quiet", *options, *folders])


def main() -> int:
    """Build the wheels into the folder OUT. Return the exit status: 2 after a wrong command line, else pip's."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print("usage: .venv/bin/python -m scripts.wheels OUT", file=sys.stderr)
        return 2
    return build(Path(sys.argv[1]))


if __name__ == "__main__":
    sys.exit(main())
