"""WebShop's index folder between processes: shared by the workers of a server, and safe if a build is killed."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request

import pytest
from support.environments.environment_support import environment_server

OPTIONS = "\n[environment.options]\nproducts = 300\nevaluation_goals = 8\n"
START_S = 60
# Builds a generated catalogue. After the first product the build waits, so that it can be killed.
BUILD = """
import sys, time
from pathlib import Path
from arlarena.environments.webshop.catalogue import open as catalogue
from arlarena.environments.webshop.generated.catalogue import GeneratedShop
from arlarena.environments.webshop.generated.options import GeneratedOptions

class Slow(GeneratedShop):
    def items(self):
        for number, item in enumerate(super().items()):
            if number == 150 and sys.argv[2] == "wait":
                print("half", flush=True)
                time.sleep(600)
            yield item

print(catalogue.open_generated(Slow(GeneratedOptions(300, 0, 8)), Path(sys.argv[1])).search("tea"), flush=True)
"""


@pytest.fixture
def variables(tmp_path):
    return {"XDG_CACHE_HOME": str(tmp_path / "cache"), "WEBSHOP_DATA": ""}


def test_workers_share_one_index_folder(tmp_path, variables):
    arguments = ("--workers", "2")
    with environment_server(
        tmp_path, "webshop", extra=OPTIONS, arguments=arguments, variables=variables, capacity=64
    ) as (url, _):
        first = [play(url, index) for index in range(12)]
        again = [play(url, index) for index in range(12)]
    assert first == again  # whichever worker plays
    built = list((tmp_path / "cache" / "arlarena" / "webshop").glob("*/meta.json"))
    assert len(built) == 1


@pytest.mark.slow  # starts three servers with seven processes in total
def test_episodes_are_equal_for_any_number_of_workers(tmp_path, variables):
    seen = []
    for workers in (1, 2, 4):
        folder = tmp_path / str(workers)
        folder.mkdir()
        arguments = ("--workers", str(workers)) if workers > 1 else ()
        with environment_server(
            folder, "webshop", extra=OPTIONS, arguments=arguments, variables=variables, capacity=64
        ) as (url, _):
            seen.append([play(url, index) for index in range(12)])
    assert seen[0] == seen[1] == seen[2]


def test_a_build_that_is_killed_does_not_break_the_next_start(tmp_path):
    index = tmp_path / "index"
    command = [sys.executable, "-c", BUILD, str(index)]
    killed = subprocess.Popen([*command, "wait"], stdout=subprocess.PIPE, text=True)
    assert killed.stdout.readline() == "half\n"
    waiting = subprocess.Popen([*command, "go"], stdout=subprocess.PIPE, text=True)  # waits for the lock
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait(timeout=START_S)
    killed.stdout.close()
    assert not index.exists()
    found = waiting.communicate(timeout=START_S)[0]
    assert waiting.returncode == 0
    assert found.startswith("[")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["index", "index.lock"]
    assert not list(index.glob("segments*"))


def play(url, index):
    """The texts of a short episode, on a connection of its own."""
    opened = post(f"{url}/v1/sessions", {"reset": [{"index": index}]})["sessions"][0]
    texts = [opened["result"]["observation"]["text"]]
    for number, action in enumerate(("search[premium tea]", "click[next >]")):
        step = {"session_id": opened["session_id"], "action": {"text": action}, "step_index": number}
        texts.append(post(f"{url}/step", step)["observation"]["text"])
    return texts


def post(url, body):
    """The answer to a request. A server that still loads answers 503."""
    ends = time.monotonic() + START_S
    while True:
        request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=30) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            if error.code != 503 or time.monotonic() > ends:
                raise
            time.sleep(0.05)
