"""The unmodified client and validator of the `openenv` package against every registered environment."""

import json
import subprocess
from pathlib import Path

import pytest

from arlarena.environment.registry import installed

ROOT = Path(__file__).resolve().parents[4]
PYTHON = ROOT / ".venv-openenv" / "bin" / "python"
DRIVER = ROOT / "tests" / "support" / "environments" / "openenv_driver.py"

pytestmark = pytest.mark.skipif(
    not PYTHON.exists(), reason="OPENENV'S CLIENT IS NOT INSTALLED: `make setup EXTRA=openenv` makes .venv-openenv"
)


# Slow but for one environment: the package takes seconds to import, and its validator as long again. What differs from
# one environment to the other is in test_any_environment.py.
ENVIRONMENTS = [pytest.param(name, marks=() if name == "sokoban" else pytest.mark.slow) for name in installed()]


@pytest.fixture(scope="module", params=ENVIRONMENTS)
def found(request, tmp_path_factory, start_server):
    with start_server(tmp_path_factory.mktemp("openenv"), request.param, capacity=8) as (url, _):
        done = subprocess.run([PYTHON, DRIVER, url], capture_output=True, text=True, timeout=100)
        assert done.returncode == 0, done.stderr
        yield json.loads(done.stdout)


@pytest.mark.parametrize("check", ["sync client", "async client", "errors", "mcp client", "validator"])
def test_openenv(found, check):
    assert found[check] == "ok", found[check]
