"""The snippets of the guides run as documented. Only addresses and ports are replaced."""

import contextlib
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
GUIDES = ROOT / "docs" / "how-to"
ADDRESS = "http://127.0.0.1:8000"
# A package that the reader has to write is not installed here.
SERVE = re.compile(r"^(?:\.venv/bin/)?arlarena serve env (?!my_)\S+(?: --port \d+)?", re.MULTILINE)


def snippets(page, language):
    """(heading, text) of each fenced block of a language, in order."""
    text = (GUIDES / page).read_text(encoding="utf-8")
    results, heading = [], ""
    for match in re.finditer(rf"^#+ ([^\n]+)$|^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        if match[1] is not None:
            heading = match[1]
        else:
            results.append((heading, match[2]))
    return results


def command_line(text):
    """A command of a guide, with the programs of this environment and a free port."""
    command = re.sub(r" --port \d+", "", text)
    return [str(Path(sys.executable).parent / "arlarena"), *shlex.split(command)[1:], "--port", "0"]


@pytest.fixture(scope="module")
def served():
    """The address of the server, started by the command of the guide."""
    ((_, text),) = [
        one for one in snippets("use-a-client.md", "sh") if one[1].startswith(".venv/bin/arlarena serve env sokoban")
    ]
    with subprocess.Popen(command_line(text), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            listening = json.loads(process.stdout.readline())
            yield f"http://127.0.0.1:{listening['port']}"
        finally:
            process.terminate()


PYTHON = snippets("use-a-client.md", "python")


@pytest.mark.parametrize("snippet", PYTHON, ids=[f"{number}-{heading}" for number, (heading, _) in enumerate(PYTHON)])
def test_each_snippet_of_the_client_guide_runs(served, tmp_path, snippet):
    assert ADDRESS in snippet[1], "it names no server, so it cannot show a client"
    code = snippet[1].replace(ADDRESS, served)
    done = subprocess.run(
        [sys.executable, "-W", "error::RuntimeWarning", "-c", code],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_the_client_guide_has_a_snippet_for_each_client():
    page = (GUIDES / "use-a-client.md").read_text(encoding="utf-8")
    listed = set(re.findall(r"`arlarena\.client\.(\w+)\.(\w+)`", page))
    shown = "\n".join(code for _, code in PYTHON)
    assert len(listed) >= 4
    for module, name in listed:
        assert re.search(rf"^from arlarena\.client\.{module} import .*{name}", shown, re.MULTILINE), (module, name)


def test_the_install_command_of_the_client_guide_works(tmp_path):
    ((_, text),) = [one for one in snippets("use-a-client.md", "sh") if one[1].startswith("pip install")]
    arguments = shlex.split(text)[2:]
    offline = ["--no-index", "--no-deps", "--no-build-isolation", "--quiet", "--target", str(tmp_path)]
    command = [sys.executable, "-m", "pip", "install", *offline, *arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    for part in ("client/gymnasium.py", "client/sync.py", "proto/env_api.py"):
        assert (tmp_path / "arlarena" / part).is_file()
    assert "does not provide the extra" not in done.stderr


@pytest.mark.slow  # 25 s: it creates a policy and starts two servers
def test_the_commands_of_the_evaluation_guide_work(tmp_path):
    lines = [line for _, text in snippets("evaluate-a-checkpoint.md", "sh") for line in text.splitlines()]
    lines = [line.replace("--config configs/", f"--config {ROOT}/configs/") for line in lines]
    parts = ("serve env", "serve inference", "trainer tiny", "rollout evaluate")
    environment, inference, making, evaluation = (next(line for line in lines if part in line) for part in parts)
    with contextlib.ExitStack() as stack:
        for command, address in ((environment, ADDRESS), (inference, "http://127.0.0.1:8100")):
            if command == inference:
                subprocess.run([sys.executable, *shlex.split(making)[1:]], cwd=tmp_path, check=True, timeout=100)
            server = subprocess.Popen(command_line(command), cwd=tmp_path, stdout=subprocess.PIPE, text=True)
            stack.enter_context(server)
            stack.callback(server.terminate)
            port = json.loads(server.stdout.readline())["port"]
            here = f"http://127.0.0.1:{port}"
            making, evaluation = making.replace(address, here), evaluation.replace(address, here)
        command = [sys.executable, *shlex.split(evaluation)[1:]]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "result.json").read_text())
    assert (result["environment"], result["episodes"], result["errors"]) == ("sokoban", 8, 0)


@pytest.mark.parametrize("page", ["write-an-environment.md"])
def test_the_commands_that_start_servers_work(page):
    commands = SERVE.findall((GUIDES / page).read_text(encoding="utf-8"))
    assert commands
    for text in commands:
        with subprocess.Popen(command_line(text), cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
            assert json.loads(process.stdout.readline())["event"] == "listening", text
            process.terminate()
