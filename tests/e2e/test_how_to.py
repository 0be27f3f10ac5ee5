"""The guides for newcomers: their snippets run as shown, and their first commands lead to a trained policy."""

import json
import os
import re
import shlex
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from support.processes import forking_support

from arlarena.console.cli.scaffold import init

DOCS = Path(__file__).resolve().parents[2] / "docs"
OBJECTIVE = DOCS / "how-to" / "write-an-objective.md"
GUIDES = {"my_clip": OBJECTIVE, "my_game": DOCS / "how-to" / "write-an-environment.md"}


def snippets(page: Path, language: str) -> list[str]:
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.DOTALL)
    return found


def test_the_objectives_shown_are_accepted_with_the_configuration_shown(tmp_path: Path) -> None:
    for number, code in enumerate(snippets(OBJECTIVE, "python")):
        (tmp_path / f"shown_{number}.py").write_text(code)
    _, settings, entry_point = snippets(OBJECTIVE, "toml")
    plugins = '[trainer]\nplugins = ["shown_0", "shown_1"]\n'
    assert settings.startswith("[trainer]\n")
    (tmp_path / "run.toml").write_text(plugins + settings.removeprefix("[trainer]\n"))
    done = forking_support.run(["arlarena.trainer.settings", "run.toml"], cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")
    written = (init("objective", "my_clip", tmp_path) / "pyproject.toml").read_text()
    assert entry_point in written


def test_the_options_shown_exist() -> None:
    *_, command = snippets(OBJECTIVE, "sh")
    assert "--plugin" in command
    done = forking_support.run(["arlarena.console", "up", "--help"], env=os.environ | {"COLUMNS": "200"})
    assert "--plugin MODULE" in re.sub(r"\s+", " ", done.stdout)


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of its own into which packages can be installed, and that has what this one has."""
    folder = tmp_path_factory.mktemp("newcomer") / "venv"
    venv.create(folder, with_pip=True)
    (site,) = folder.glob("lib/python*/site-packages")
    here = Path(json.__file__).parents[1]
    packages = [path for path in sys.path if path.endswith("site-packages") and not path.startswith(str(here))]
    (site / "this.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in packages))
    return folder / "bin" / "python"


# Slow: a whole run with all its processes, twice.
@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", GUIDES)
def test_the_first_commands_of_the_guide_lead_to_a_trained_policy(name: str, python: Path, tmp_path: Path) -> None:
    folder, programs = tmp_path, {"arlarena": "arlarena.console", "pip": "pip", "pytest": "pytest"}
    # The build back end is here already; pip would download it.
    variables = os.environ | {"OMP_NUM_THREADS": "1", "PIP_NO_BUILD_ISOLATION": "0"}
    for text in snippets(GUIDES[name], "sh")[0].splitlines():
        program, *arguments = shlex.split(text, comments=True)
        if program == "cd":
            folder /= arguments[0]
            continue
        command = [str(python), "-m", programs[program], *arguments]
        if arguments[:1] == ["serve"]:
            server = subprocess.Popen([*command, "--port", "0"], cwd=folder, env=variables, stdout=subprocess.PIPE)
            with server:
                assert server.stdout is not None
                assert json.loads(server.stdout.readline())["event"] == "listening"
                server.terminate()
            continue
        done = subprocess.run(
            command, cwd=folder, env=variables, capture_output=True, text=True, timeout=800, check=False
        )
        assert done.returncode == 0, (text, done.stdout[-3000:], done.stderr[-3000:])
    lines = (folder / "runs" / name / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3, 4, 5]
