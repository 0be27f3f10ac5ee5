"""No pinned dependency has a known vulnerability (pip-audit with the data base of OSV)."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PIP_AUDIT = ROOT / ".venv-containers" / "bin" / "pip-audit"
OFFLINE = ("ConnectionError", "ProxyError", "Timeout", "SSLError", "Max retries", "Name or service not known", "403 ")

pytestmark = [
    pytest.mark.slow,  # one request for each of a hundred packages
    pytest.mark.timeout(600),
    pytest.mark.skipif(not PIP_AUDIT.exists(), reason="PIP-AUDIT IS NOT INSTALLED: run `make setup EXTRA=containers`"),
]


def test_no_pinned_dependency_has_a_known_vulnerability() -> None:
    options = ("--vulnerability-service", "osv", "--disable-pip", "--no-deps", "--progress-spinner", "off")
    command = [str(PIP_AUDIT), *options, "--requirement", str(ROOT / "constraints.txt")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, check=False)
    if done.returncode and any(word in done.stderr for word in OFFLINE):
        pytest.skip(f"NO NETWORK, SO DEPENDENCIES ARE NOT AUDITED: {done.stderr.strip().splitlines()[-1][:300]}")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "No known vulnerabilities found" in done.stdout + done.stderr
