"""TIR Math as a server: the sandbox starts first, reports its health, and its failures are not the policy's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import time
from typing import Any

import httpx2 as httpx
import psutil
import pytest
from support.environments.environment_support import environment_server
from support.processes import forking_support

from arlarena.sandbox import kernel
from arlarena.sandbox.forks import ForkSandbox, ForkSettings
from arlarena.sandbox.lockdown import LAYERS

pytestmark = pytest.mark.skipif(not kernel.supported(), reason="the sandbox of forks needs Linux on x86-64 or aarch64")

BARE = "support.sandbox.bare_program"  # a zygote without libraries
PROGRAM = "```python\n{}\n```"
QUICK = """
[environment.options]
max_turns = 9
[environment.options.families.products]
[environment.options.sandbox]
wall_s = 3.0
cpu_s = 2.0
max_running = 4
max_waiting = 4
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """(URL, process) of a server shared by all tests that do not kill it; its start takes seconds."""
    with environment_server(tmp_path_factory.mktemp("tir"), "tir_math", capacity=64, extra=QUICK) as (url, process):
        yield url, process
        children = psutil.Process(process.pid).children() if process.poll() is None else []
    assert psutil.wait_procs(children, timeout=10)[1] == []


@pytest.fixture
def client(server):
    with httpx.Client(base_url=server[0], timeout=60) as opened:
        yield opened


def opened(client: httpx.Client, count: int = 1) -> list[dict[str, Any]]:
    reply = client.post("/v1/sessions", json={"count": count, "reset": [{"split": "train", "index": 3}]})
    assert reply.status_code in (200, 201), reply.text
    found: list[dict[str, Any]] = reply.json()["sessions"]
    return found


def step(client: httpx.Client, session: str, text: str) -> httpx.Response:
    return client.post("/step", json={"session_id": session, "action": {"text": text}})


def test_a_complete_episode_over_http(server, client):
    health = client.get("/health").json()
    assert health["status"] == "healthy"
    layers = health["details"]["sandbox"]["layers"]
    assert {"rlimits", "capabilities", "no_new_privs", "landlock", "seccomp"} <= set(layers)
    (session,) = opened(client)
    problem = session["result"]["observation"]["text"]
    product = problem.split(":")[1].split(".")[0]
    after = step(client, session["session_id"], PROGRAM.format(f"print({product})")).json()
    said = after["observation"]["message"]
    assert said.startswith("Code execution result: ")
    end = step(client, session["session_id"], "\\boxed{" + said.split(": ")[1] + "}").json()
    assert (end["reward"], end["done"], end["metadata"]["success"]) == (1.0, True, True)
    info = client.get("/v1/info").json()
    assert (info["actions"], info["stop"], info["horizon"]) == (None, [], 9)
    assert len(psutil.Process(server[1].pid).children()) == 2  # a zygote for programs, one for answers


def test_a_killed_zygote_is_not_a_wrong_answer(server, client):
    sessions = [one["session_id"] for one in opened(client, 4)]
    for zygote in psutil.Process(server[1].pid).children():
        os.kill(zygote.pid, signal.SIGKILL)
    for number, session in enumerate(sessions):
        answer = step(client, session, PROGRAM.format(f"print({number} + 1)"))
        assert answer.status_code == 200, answer.text
        assert answer.json()["observation"]["text"] == f"Code execution result: {number + 1}"
        assert step(client, session, "\\boxed{\\frac{1}{2}}").json()["reward"] == 0.0
    assert client.get("/health").json()["details"]["sandbox"]["restarts"] == 1


async def test_requests_beyond_the_queue_are_429_and_can_be_retried(server):
    async with httpx.AsyncClient(base_url=server[0], timeout=60) as client:
        body = {"count": 12, "reset": [{"split": "train", "index": 3}]}
        sessions = [one["session_id"] for one in (await client.post("/v1/sessions", json=body)).json()["sessions"]]

        async def one(session: str) -> httpx.Response:
            text = PROGRAM.format("import time; time.sleep(1); print('done')")
            return await client.post("/step", json={"session_id": session, "action": {"text": text}, "step_index": 0})

        answers = await asyncio.gather(*(one(session) for session in sessions))
        refused = [session for session, answer in zip(sessions, answers, strict=True) if answer.status_code == 429]
        assert len(refused) == 12 - 4 - 4
        for answer in answers:
            if answer.status_code == 429:
                assert int(answer.headers["Retry-After"]) >= 1
                error = answer.json()
                assert (error["code"], error["blame"], error["retryable"]) == ("busy", "infra", True)
            else:
                assert answer.json()["observation"]["text"] == "Code execution result: done"
        again = await one(refused[0])  # nothing of it had been played
        assert again.json()["observation"]["step"] == 1


def test_a_missing_required_layer_stops_the_servers_start(tmp_path):
    sandbox = ForkSandbox(ForkSettings(required=()), BARE)
    absent = [layer for layer in LAYERS if layer not in sandbox.health().layers]
    sandbox.close()
    if not absent:
        pytest.skip("this machine offers every layer of protection")
    config = tmp_path / "c.toml"
    config.write_text(f'[environment.options.sandbox]\nrequired = ["seccomp", "{absent[0]}"]\n')
    done = forking_support.run(["arlarena.env_server", "tir_math", "--config", str(config), "--port", "0"])
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert f"[environment.options.sandbox]: this machine does not support: {absent[0]}" in done.stderr


@pytest.mark.parametrize(
    ("options", "mentions"),
    [
        ("[environment.options]\nmax_turn = 3\n", ["max_turn", "did you mean 'max_turns'"]),
        ('[environment.options.sandbox]\nbackend = "docker"\n', ["image"]),
        ('[environment.options.sandbox]\nimage = "x"\n', ["backend = 'docker'"]),
        ('[environment.options.sandbox]\nrequired = ["secomp"]\n', ["secomp", "known: rlimits"]),
        ('[environment.options]\ntrain = "/no/such/file.jsonl"\n', ["/no/such/file.jsonl"]),
        ("[environment.options.families.no_such_family]\n", ["no_such_family", "count_primes"]),
    ],
)
def test_invalid_options_are_named(tmp_path, options, mentions):
    config = tmp_path / "c.toml"
    config.write_text('[environment]\nname = "tir_math"\n' + options)
    done = forking_support.run(["arlarena.env_server.settings", str(config)])
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for mention in mentions:
        assert mention in done.stderr


def test_programs_of_many_sessions_run_in_parallel(client):
    sleep = PROGRAM.format("import time; time.sleep(0.5); print('done')")
    names = [one["session_id"] for one in opened(client, 8)]
    items = [{"session_id": name, "op": "step", "action": {"text": sleep}} for name in names]
    begun = time.monotonic()
    results = client.post("/v1/batch", json={"items": items}).json()["results"]
    assert [one["observation"]["text"] for one in results] == ["Code execution result: done"] * 8
    assert time.monotonic() - begun < 8 * 0.5  # one after the other they would take longer


def test_tir_math_data_gives_the_problems(tmp_path):
    problem = '{{"problem": "What is {n} + {n}?", "answer": "{twice}"}}\n'
    data = tmp_path / "data"
    data.mkdir()
    (data / "train.jsonl").write_text("".join(problem.format(n=n, twice=2 * n) for n in range(40)))
    (data / "sums.jsonl").write_text(problem.format(n=7, twice=14) * 3)
    command = ["arlarena.env_server.settings", str(tmp_path / "c.toml")]
    (tmp_path / "c.toml").write_text('[environment]\nname = "tir_math"\n')
    environment = {**os.environ, "TIR_MATH_DATA": str(data)}
    assert forking_support.run(command, env=environment).returncode == 0
    with (
        environment_server(tmp_path, "tir_math", extra="", variables={"TIR_MATH_DATA": str(data)}) as (url, _),
        httpx.Client(base_url=url, timeout=60) as client,
    ):
        info = client.get("/v1/info").json()
        sizes = {split["name"]: split["size"] for split in info["splits"]}
        assert sizes["sums"] == 1
        assert sizes["train"] + sizes["validation"] == 39  # one of them is a test problem
        assert "expert" not in info["capabilities"]
        assert info["version"].startswith("3-listed-")
        assert info["options"]["train"] == str(data / "train.jsonl")
        assert info["options"]["tests"] == {"sums": str(data / "sums.jsonl")}
        assert client.get("/health").json()["details"]["left_out"] == {"repeated": 2, "unanswered": 0, "tested": 1}
        body = {"count": 1, "reset": [{"split": "sums", "index": 0}]}
        (session,) = client.post("/v1/sessions", json=body).json()["sessions"]
        assert session["result"]["observation"]["text"] == "What is 7 + 7?"
        assert step(client, session["session_id"], "\\boxed{14.0}").json()["reward"] == 1.0
    logged = [json.loads(line) for line in (tmp_path / "stderr.log").read_text().splitlines()]
    assert [event["message"] for event in logged if event["event"] == "environment_warning"] == [
        "problems: 3 are left out: 2 that repeat an earlier question, 1 that are for training but also in a test set"
    ]
    (tmp_path / "empty").mkdir()
    environment["TIR_MATH_DATA"] = str(tmp_path / "empty")
    done = forking_support.run(command, env=environment)
    assert done.returncode == 2
    assert f"TIR_MATH_DATA: {tmp_path / 'empty'} has no train.jsonl" in done.stderr


# Last, because the server of the other tests is gone afterwards.
def test_a_killed_server_leaves_no_processes(server, client):
    process = server[1]
    (session,) = opened(client)
    program = {"session_id": session["session_id"], "action": {"text": PROGRAM.format("while True: pass")}}
    with contextlib.suppress(httpx.HTTPError):
        client.post("/step", json=program, timeout=0.5)
    descendants = psutil.Process(process.pid).children(recursive=True)
    assert len(descendants) == 3  # two zygotes, and the program
    process.kill()
    assert psutil.wait_procs(descendants, timeout=10)[1] == []
