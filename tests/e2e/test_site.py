"""The documentation site builds without a warning, and its pages load nothing from another host."""

import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MKDOCS = ROOT / ".venv-docs" / "bin" / "mkdocs"

pytestmark = [
    pytest.mark.slow,  # 10 s on an idle machine: every page is rendered
    pytest.mark.timeout(300),
    pytest.mark.skipif(not MKDOCS.exists(), reason="MKDOCS IS NOT INSTALLED: `make setup EXTRA=docs` makes .venv-docs"),
]
LOADED = re.compile(
    r'<(?:script|img|iframe)[^>]*\ssrc="(https?:[^"]*)"|<link[^>]*rel="stylesheet"[^>]*href="(https?:[^"]*)"'
)


def test_the_site_builds_strictly_and_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    command = [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(tmp_path / "site")]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    pages = {path: path.read_text(encoding="utf-8") for path in (tmp_path / "site").rglob("*.html")}
    assert len(pages) > 30
    assert {path.name: LOADED.findall(text) for path, text in pages.items() if LOADED.search(text)} == {}
    objectives = pages[tmp_path / "site" / "explanation" / "objectives.html"]
    assert objectives.count("<math") >= 8
    assert "register_recipe" in pages[tmp_path / "site" / "reference" / "python" / "objectives.html"]
