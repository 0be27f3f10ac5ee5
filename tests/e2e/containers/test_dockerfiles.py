"""hadolint finds nothing in the Dockerfiles."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HADOLINT = ROOT / ".venv-containers" / "bin" / "hadolint"


@pytest.mark.skipif(
    not HADOLINT.exists(), reason="HADOLINT IS NOT INSTALLED: `make setup EXTRA=containers` makes .venv-containers"
)
def test_hadolint_finds_nothing() -> None:
    files = sorted(str(path) for path in (ROOT / "docker").glob("*.Dockerfile"))
    assert len(files) == 7
    done = subprocess.run([str(HADOLINT), *files], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "")
