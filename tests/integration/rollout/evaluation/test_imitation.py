"""The imitation server as a process, and the faults that it injects."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from support.evaluation.faults import FAULTS, FaultRates
from support.evaluation.imitation import KEY

TESTS = Path(__file__).resolve().parents[3]


@contextmanager
def process(*arguments: str) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(TESTS), *filter(None, sys.path)))}
    command = [sys.executable, "-m", "support.evaluation.imitation", *arguments]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
    try:
        assert server.stdout is not None
        yield "http://127.0.0.1:{}".format(json.loads(server.stdout.readline())["port"]), server
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def get(url: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    data = None if body is None else json.dumps(body).encode()
    headers = {"authorization": f"Bearer {KEY}", "content-type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(url, data, headers)) as response:
        answer: dict[str, Any] = json.load(response)
    return answer


def test_a_process_prints_its_address_answers_counts_and_ends_on_sigterm() -> None:
    with process("--kind", "openai", "--port", "0", "--reply", "<action>left</action>") as (url, server):
        body = {"model": "m", "messages": [{"role": "user", "content": "go"}]}
        for _ in range(2):
            answer = get(f"{url}/v1/chat/completions", body)
            assert answer["choices"][0]["message"]["content"] == "<action>left</action>"
        counts = get(f"{url}/imitation/counts")
        assert (counts["requests"], counts["outcomes"]) == (2, {"ok": 2})
        assert list(counts["answered"].values()) == [2]
        server.send_signal(signal.SIGTERM)
        assert server.wait(10) == 0


def test_a_script_of_a_module_writes_the_replies() -> None:
    with process("--kind", "openai", "--script", "support.evaluation.imitation:echo") as (url, _):
        body = {"model": "m", "messages": [{"role": "user", "content": "go"}]}
        answer = get(f"{url}/v1/chat/completions", body)
        assert answer["choices"][0]["message"]["content"] == "<think>1 messages</think><action>up</action>"


def test_the_rates_of_faults_are_the_given_ones_and_repeat_with_the_seed() -> None:
    rates = FaultRates.uniform(0.2, seed=3)
    faults = [rates.fault(f"{number}", 0) for number in range(20_000)]
    counts = Counter(faults)
    # 20,000 draws: the standard deviation of a rate of 0.02 is 0.001.
    assert all(counts[fault] / 20_000 == pytest.approx(0.2 / len(FAULTS), abs=0.005) for fault in FAULTS)
    assert faults == [rates.fault(f"{number}", 0) for number in range(20_000)]
    assert faults != [FaultRates.uniform(0.2, seed=4).fault(f"{number}", 0) for number in range(20_000)]
    assert faults != [rates.fault(f"{number}", 1) for number in range(20_000)]
