"""The page beside a run of `arlarena up`: it shows the run while it trains, and its faults do not reach the run."""

import contextlib
import json
import os
import re
import resource
import signal
import socket
import time

import psutil
from support.console.page_support import Page
from support.console.up_support import Up


def start(up: Up, *arguments: str, **environment: str) -> None:
    """Start a run with a page that trains until the flag `train-on` is removed."""
    (up.flags / "train-on").write_text("yes")
    environment["ARLARENA_CACHE_DIR"] = str(up.folder / "cache")
    up.start("up", str(up.config), "--page", *arguments, **environment)


def stop_training(up: Up) -> str:
    """End the training. Returns what the launcher printed; the run must have succeeded."""
    (up.flags / "train-on").unlink()
    said, _ = up.processes[-1].communicate(timeout=60)
    assert up.processes[-1].returncode == 0, said
    assert json.loads((up.run / "summary.json").read_text())["after"]["success"] > 0.5
    return str(said)


def stop_training_without_page(up: Up) -> str:
    """End the training some steps after the end of the page. Returns what the launcher printed."""
    up.until(lambda: not page_processes(up))
    steps = up.steps() + 5
    up.until(lambda: up.steps() >= steps)
    return stop_training(up)


def page_log(up: Up) -> list[str]:
    path = up.run / "logs" / "page.log"
    return path.read_text().splitlines() if path.exists() else []


def wait_for_page(up: Up) -> Page:
    up.until(lambda: any('"listening"' in line for line in page_log(up)))
    line = next(line for line in page_log(up) if '"listening"' in line)
    return Page(json.loads(line)["port"], None)


def page_processes(up: Up) -> list[psutil.Process]:
    children = psutil.Process(up.processes[-1].pid).children()
    return [child for child in children if {"view", "--nice"} <= set(words_of(child))]


def words_of(process: psutil.Process) -> list[str]:
    """The command line of a process; empty if it has ended."""
    with contextlib.suppress(psutil.NoSuchProcess):  # also a process that its parent has not waited for
        return process.cmdline()
    return []


def test_the_address_is_printed_and_a_new_step_is_shown_within_five_seconds(up: Up) -> None:
    start(up, "--set", "console.page_port=0")
    page = wait_for_page(up)
    (process,) = page_processes(up)
    assert process.nice() > os.nice(0)  # the page runs with a lower priority than the run
    up.until(lambda: up.steps() >= 2)
    steps, began = up.steps() + 1, time.monotonic()
    up.until(lambda: page.ok("/api/runs")["runs"][0]["step"] >= steps)
    assert time.monotonic() - began < 5
    (run,) = page.ok("/api/runs")["runs"]
    assert (run["name"], run["state"], run["environment"]) == ("test", "running", "sokoban")
    said = stop_training(up)
    assert re.search(rf"\[[\d.]+ s\] the run is shown at http://127\.0\.0\.1:{page.port}\n", said), said
    assert not process.is_running()


def test_a_killed_page_is_reported_and_the_run_succeeds(up: Up) -> None:
    start(up, "--set", "console.page_port=0")
    wait_for_page(up)
    page_processes(up)[0].send_signal(signal.SIGKILL)
    said = stop_training_without_page(up)
    assert "the run page has ended (killed by SIGKILL)" in said
    assert "the run continues without a page" in said


def test_a_page_whose_disk_is_full_shows_the_run_and_the_run_succeeds(up: Up) -> None:
    (up.flags / "hold-policy").touch()
    start(up, "--set", "console.page_port=0")
    page = wait_for_page(up)
    page_processes(up)[0].rlimit(resource.RLIMIT_FSIZE, (0, 0))
    (up.flags / "hold-policy").unlink()
    up.until(lambda: (up.run / "episodes" / "before.jsonl").exists())
    up.until(lambda: "error" in page.ok("/api/runs")["runs"][0]["index"])
    up.until(lambda: page.ok("/api/runs")["runs"][0]["step"] >= 2)
    stop_training(up)


def test_a_used_port_is_replaced_by_a_free_one(up: Up) -> None:
    with socket.create_server(("127.0.0.1", 0)) as used:
        port = used.getsockname()[1]
        start(up, "--set", f"console.page_port={port}")
        assert wait_for_page(up).port != port
        stop_training(up)


def test_a_page_that_cannot_start_is_reported_and_the_run_succeeds(up: Up) -> None:
    start(up, ARLARENA_PAGE_TOKEN_FILE=str(up.folder / "missing"))
    up.until(lambda: any("missing" in line for line in page_log(up)))
    said = stop_training_without_page(up)
    assert "the run page has ended (exit status 2): " in said
    assert "missing" in said


def test_no_page_starts_without_it(up: Up) -> None:
    code, said = up.up("--no-page")
    assert code == 0, said
    assert "shown at" not in said
    assert page_log(up) == []
