"""The generated pages of docs/reference are what the commands and the server say."""

import re
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from arlarena.console.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "reference_pages.py"
REFERENCE = ROOT / "docs" / "reference"
FIX = "run python -m scripts.reference_pages"


def test_the_http_page_is_what_a_server_says() -> None:
    written = runpy.run_path(str(SCRIPT))["http_api"]()
    assert (REFERENCE / "http-api.md").read_text(encoding="utf-8") == written, FIX


def test_the_command_page_has_every_command_and_the_present_help_of_up() -> None:
    page = (REFERENCE / "command-line.md").read_text(encoding="utf-8")
    names = {str(each.name or each.callback.__name__) for each in app.registered_commands if each.callback}
    groups = {
        str(group.name): {str(each.name) for each in group.typer_instance.registered_commands if each.name}
        for group in app.registered_groups
        if group.typer_instance
    }
    wanted = names | groups.keys() | {f"{group} {name}" for group, members in groups.items() for name in members}
    assert {"up", "serve env", "init objective"} <= wanted
    assert wanted == set(re.findall(r"^## `arlarena ([a-z ]+)`$", page, re.MULTILINE)), FIX
    help_of = runpy.run_path(str(SCRIPT))["help_of"]
    assert f"## `arlarena up`\n\n```text\n{help_of('arlarena up')}\n```\n" in page, FIX


@pytest.mark.slow  # 30 s: each command is started for its help, and many import torch
@pytest.mark.timeout(300)
def test_the_pages_are_those_that_the_script_writes() -> None:
    command = [sys.executable, "-m", "scripts.reference_pages", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
