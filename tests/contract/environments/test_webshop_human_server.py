"""The shop for people as a process: the command, and an episode in a headless browser."""

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import urllib.error
import urllib.request

import pytest
from support.environments.browser_support import browser_path, open_tab
from support.processes import forking_support

from arlarena.environments.webshop.__main__ import main
from arlarena.environments.webshop.environment import load
from arlarena.environments.webshop.human.record import load_episodes
from arlarena.environments.webshop.human.replay import replay
from arlarena.environments.webshop.human.visit_service import STALE
from arlarena.proto.env_api import ResetSpec

CONFIG = (
    '[environment]\nname = "webshop"\n[environment.options]\nproducts = 300\nevaluation_goals = 8\nmax_steps = 12\n'
)
SIZES = ((1440, 1000), (390, 844))


@pytest.fixture(scope="module")
def variables(tmp_path_factory):
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("WEBSHOP_", "XDG_CACHE"))}
    return kept | {"XDG_CACHE_HOME": str(tmp_path_factory.mktemp("cache"))}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    path = tmp_path_factory.mktemp("config") / "shop.toml"
    path.write_text(CONFIG)
    return path


@contextlib.contextmanager
def shop_process(config, variables, *arguments):
    """The address of a running shop, and its process."""
    command = ["arlarena.environments.webshop", "human", "--config", str(config), *arguments]
    with config.with_name("log").open("w") as log:
        process = forking_support.popen(
            command, env=variables, stdout=subprocess.PIPE, stderr=log, imports="arlarena.env_server"
        )
    try:
        line = process.stdout.readline()
        assert line, config.with_name("log").read_text()
        announced = json.loads(line)
        yield f"http://{announced['host']}:{announced['port']}", process
    finally:
        process.kill()
        process.wait(20)


@pytest.mark.skipif(browser_path() is None, reason="no Chromium: the same episode is played over HTTP by other tests")
def test_a_browser_plays_an_episode(tmp_path, config, variables, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", variables["XDG_CACHE_HOME"])
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    options = {"products": 300, "evaluation_goals": 8, "max_steps": 12}
    environment = load("test", options)
    task = environment.task(ResetSpec(split="test", index=2))
    game = environment.game(task)
    wanted, goal = game.wanted, game.goal
    arguments = ("--port", "0", "--out", str(tmp_path), "--split", "test", "--index", "2")
    with shop_process(config, variables, *arguments) as (url, process), open_tab(url) as tab:
        tab.resize(*SIZES[0])
        tab.press("Start shopping")
        tab.search(wanted.title)
        shots = [_shot(tab, tmp_path, f"results-{width}", width, height) for width, height in SIZES]
        tab.press(wanted.asin)
        for _, value in goal.options:
            tab.press(value)
        assert tab.value("document.querySelectorAll('[aria-pressed=true]').length") == len(goal.options)
        shots += [_shot(tab, tmp_path, f"item-{width}", width, height) for width, height in SIZES]
        tab.press("Buy now")
        assert goal.instruction in tab.text()
        assert "100 of 100 points" in " ".join(tab.text().split())
        shots += [_shot(tab, tmp_path, f"score-{width}", width, height) for width, height in SIZES]
        tab.press("Next task")
        tab.search("something else")
        tab.back()  # the browser shows the earlier page from its cache
        tab.search("another thing")
        assert STALE in tab.text()
        assert "1 of 12 actions" in tab.text()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0
    assert shots == [size for _ in range(3) for size in SIZES]
    (episode,) = load_episodes(tmp_path / "episodes.jsonl")
    assert (episode.task, episode.success) == ("webshop/test/2", True)
    assert replay(environment, episode).purchase == episode.purchase


def _shot(tab, folder, name, width, height):
    """Take a screenshot, check that the page is not wider than the window, and return the picture's size."""
    tab.resize(width, height)
    assert tab.value("document.documentElement.scrollWidth") <= width
    path = folder / f"{name}.png"
    tab.screenshot(path)
    return struct.unpack(">II", path.read_bytes()[16:24])


def test_sigterm_ends_the_shop_with_status_zero(tmp_path, config, variables):
    with shop_process(config, variables, "--port", "0", "--out", str(tmp_path)) as (url, process):
        with urllib.request.urlopen(url, timeout=20) as answer:
            assert "Start shopping" in answer.read().decode()
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_beyond_loopback_a_token_is_required(config, variables, monkeypatch, capsys):
    monkeypatch.delenv("WEBSHOP_HUMAN_TOKEN", raising=False)
    assert main(["human", "--host", "0.0.0.0", "--config", str(config)]) == 2
    assert "WEBSHOP_HUMAN_TOKEN" in capsys.readouterr().err
    with_token = variables | {"WEBSHOP_HUMAN_TOKEN": "let-me-in-please"}
    with shop_process(config, with_token, "--host", "0.0.0.0", "--port", "0") as (url, _):
        address = url.replace("0.0.0.0", "127.0.0.1")
        with urllib.request.urlopen(address, timeout=20) as answer:
            assert 'name="token"' in answer.read().decode()
        with pytest.raises(urllib.error.HTTPError, match="403"):
            urllib.request.urlopen(f"{address}/start", data=b"index=0&token=guess", timeout=20)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--index", "8"], "tasks 0 to 7"), (["--capacity", "0"], "must be positive"), (["--idle-s", "0"], "positive")],
)
def test_wrong_arguments_are_named(config, variables, monkeypatch, capsys, arguments, message):
    monkeypatch.setenv("XDG_CACHE_HOME", variables["XDG_CACHE_HOME"])
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    assert main(["human", "--config", str(config), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_another_environments_file_is_refused(tmp_path, capsys):
    path = tmp_path / "other.toml"
    path.write_text('[environment]\nname = "sokoban"\n')
    assert main(["human", "--config", str(path)]) == 2
    assert "sokoban" in capsys.readouterr().err


def test_a_taken_port_exits_with_three(config, variables, monkeypatch, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", variables["XDG_CACHE_HOME"])
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        assert main(["human", "--config", str(config), "--port", str(taken.getsockname()[1])]) == 3
    assert "choose another" in capsys.readouterr().err
