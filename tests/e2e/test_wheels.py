"""Wheels of all distributions, as docs/how-to/install-without-a-checkout.md builds, installs and uses them."""

import os
import re
import shlex
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "how-to" / "install-without-a-checkout.md"
# Files that are no Python and that code reads at run time, or that others are promised.
TEMPLATES = ("NAME.py", "test_NAME.py", "pyproject.toml", "README.md", "run.toml")
DATA = {
    "arlarena_console": [
        "console/data/configuration.json",
        "console/report/templates/report.html.j2",
        *(f"console/templates/{kind}/{file}.template" for kind in ("environment", "objective") for file in TEMPLATES),
    ],
    "arlarena_proto": ["proto/schemas/Group.json", "proto/schemas/GroupTask.json"],
    "arlarena_alfworld": [
        "environments/alfworld/houses/data/rooms.json",
        "environments/alfworld/engine/data/domain.pddl",
        "environments/alfworld/engine/data/grammar.twl2",
    ],
}


def blocks() -> list[list[str]]:
    """The commands of each block of the page."""
    found = re.findall(r"^```sh\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    return [block.splitlines() for block in found]


def test_every_distribution_is_built() -> None:
    folders = {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/pyproject.toml")}
    folders |= {str(path.parent.relative_to(ROOT)) for path in ROOT.glob("*/*/pyproject.toml")}
    command = [sys.executable, "-c", "import setup; print(*(name.partition('[')[0] for name in setup.DISTRIBUTIONS))"]
    done = subprocess.run(command, cwd=ROOT / "scripts", capture_output=True, text=True, check=True, timeout=60)
    assert set(done.stdout.split()) == folders


# Slow: builds thirteen wheels, makes a virtual environment, and downloads what they need from pip's index.
@pytest.mark.slow
@pytest.mark.timeout(900)
def test_wheels_are_built_and_installed_and_work_in_an_empty_environment(tmp_path: Path) -> None:
    ((build,), (install,), use) = blocks()
    command = [sys.executable, *shlex.split(build)[1:-1], str(tmp_path / "wheels")]
    subprocess.run(command, cwd=ROOT, check=True, timeout=600)
    wheels = {path.name.partition("-")[0]: path for path in (tmp_path / "wheels").glob("*.whl")}
    assert len(wheels) == 13
    for name, files in DATA.items():
        assert {f"arlarena/{file}" for file in files} <= set(zipfile.ZipFile(wheels[name]).namelist())

    venv.create(tmp_path / "empty", with_pip=True)
    programs = tmp_path / "empty" / "bin"
    variables = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "VIRTUAL_ENV")}
    said = []
    for text in (install, *use):
        program, *arguments = shlex.split(text)
        done = subprocess.run(
            [str(programs / program), *arguments],
            cwd=tmp_path, env=variables, capture_output=True, text=True, timeout=600, check=False,
        )  # fmt: skip
        assert done.returncode == 0, (text, done.stdout, done.stderr)
        said.append(done.stdout)
    assert "Train and evaluate language-model agents" in said[1]
    assert (tmp_path / "my_game" / "my_game.py").is_file()
    assert "12 of 12 checks hold" in said[3]
