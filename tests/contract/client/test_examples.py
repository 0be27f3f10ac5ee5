"""The scripts of the guides, run as a reader would run them."""

import subprocess
import sys
from pathlib import Path

import pytest
from environment_support import environment_server

EXAMPLES = Path(__file__).resolve().parents[3] / "examples"


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with environment_server(tmp_path_factory.mktemp("environment")) as (address, _):
        yield address


def run(name, *arguments):
    command = [sys.executable, EXAMPLES / name, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_plain_http(url):
    done = run("plain_http.py", url, "--episodes", "2")
    assert done.returncode == 0, done.stderr
    assert "sokoban/train/1" in done.stdout
    assert done.stdout.endswith("solved 2 of 2\n")


def test_plain_http_shows_what_the_server_refuses(url):
    done = run("plain_http.py", url + "/nowhere")
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "Traceback" not in done.stderr


def test_trl_without_trl(url):
    done = run("trl_grpo.py", url, "--dry-run", "--tasks", "3")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("task ") == 3
