"""The page of a live run: new data arrives, and nothing of the page reaches the run."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import pytest
from support.console.page_support import (
    Page,
    episode_line,
    group,
    make_run,
    page_server,
    record,
    write_metrics,
    write_step,
)
from support.processes import forking_support

from arlarena.console.page.index.builder import EpisodeIndexer
from arlarena.console.page.index.database import RunDatabase
from arlarena.console.page.reading.run_files import BoundedFiles


def state_of(folder: Path) -> dict[str, tuple[int, int, bytes]]:
    """Name, mode, time and content of every file and folder of a run."""
    return {
        path.relative_to(folder).as_posix(): (
            path.stat().st_mode,
            path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in sorted(folder.rglob("*"))
    }


def wait_for(condition, seconds=20.0):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "the condition did not come true"
        time.sleep(0.02)
    return found


@contextlib.contextmanager
def stream(page, query=""):
    """Yield a function that returns the next event (name, data) of /api/events."""
    connection = http.client.HTTPConnection("127.0.0.1", page.port, timeout=30)
    with contextlib.closing(connection):
        connection.request("GET", f"/api/events{query}")
        reply = connection.getresponse()
        assert reply.headers["content-type"].startswith("text/event-stream")

        def following():
            name = ""
            while line := reply.readline().decode().rstrip("\n"):
                if line.startswith("event: "):
                    name = line.removeprefix("event: ")
                elif line.startswith("data: "):
                    assert reply.readline() == b"\n"
                    return name, json.loads(line.removeprefix("data: "))
            return following()

        yield following


def test_a_new_step_arrives_within_five_seconds(tmp_path):
    run = make_run(tmp_path / "run")
    (run / "logs").mkdir()
    with page_server([run], tmp_path) as page, stream(page, "?runs=run") as following:
        assert following() == ("hello", {"runs": ["run"]})
        name, data = following()
        assert (name, data["step"]) == ("step", 20)
        while (event := following())[0] != "index":
            assert event[0] == "state"
        started = time.monotonic()
        write_metrics(run, range(21, 22), loss=0.5)
        name, data = following()
        assert (name, data["step"], data["metrics"]["loss"]) == ("step", 21, 0.5)
        assert time.monotonic() - started < 5
        line = {"ts": 5.0, "level": "warning", "service": "trainer", "event": "mismatch", "step": 21, "mean_k3": 0.5}
        (run / "logs" / "trainer.log").write_text(json.dumps(line) + "\n")
        name, data = following()
        assert (name, data["event"], data["step"], data["message"]) == ("alarm", "mismatch", 21, "mean_k3 = 0.5")
        write_step(run, 9, [record(group("new", [True, False]), 9)])
        while (event := following())[0] != "index" or event[1]["episodes"] != 17:
            assert event[0] == "index"
        assert page.ok("/api/runs/run/episodes?group=new")["total"] == 2
        assert page.ok("/api/series?metrics=loss")["series"][0]["last_step"] == 21


def test_a_page_without_a_run_shows_the_first_run(tmp_path):
    (tmp_path / "data").mkdir()
    command = [sys.executable, "-m", "arlarena.console", "view", tmp_path / "data", "--port", "0"]
    refused = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert (refused.returncode, "contains no run" in refused.stderr) == (2, True)
    command += ["--wait", "--cache-dir", tmp_path / "cache"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        page = Page(json.loads(process.stdout.readline())["port"], None)
        with stream(page) as following:
            assert following() == ("hello", {"runs": []})
            make_run(tmp_path / "data" / "run")
            name, data = following()
            assert (name, data["run"], data["step"]) == ("step", "run", 20)
        assert [run["id"] for run in page.ok("/api/runs")["runs"]] == ["run"]
        process.terminate()


def test_files_may_grow_be_replaced_and_vanish_while_they_are_read(tmp_path):
    run = make_run(tmp_path / "run")
    database = RunDatabase(tmp_path / "cache", run, "x")
    builder = EpisodeIndexer(BoundedFiles(run), database)
    builder.refresh()
    assert builder.progress.episodes == 15
    path = run / "episodes" / "live.jsonl"
    whole = [msgspec.json.encode(episode_line(number, success=True)) + b"\n" for number in range(3)]
    path.write_bytes(whole[0] + whole[1][:50])
    assert builder.refresh()
    assert builder.progress.episodes == 16
    with path.open("ab") as file:
        file.write(whole[1][50:] + whole[2])
    builder.refresh()
    assert builder.progress.episodes == 18
    with database.connect() as connection:
        offsets = connection.execute("SELECT offset, size FROM episodes WHERE label = 'live' ORDER BY id").fetchall()
    assert [path.read_bytes()[start : start + size] for start, size in offsets] == whole
    replaced = path.with_name("other")
    replaced.write_bytes(whole[2])
    replaced.replace(path)
    builder.refresh()
    assert builder.progress.episodes == 16
    path.unlink()
    builder.refresh()
    assert builder.progress.episodes == 15
    assert not builder.refresh()
    database.close()


def test_long_files_are_indexed_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("arlarena.console.page.index.builder.BATCH_EPISODES", 3)
    run = make_run(tmp_path / "run")
    whole = [msgspec.json.encode(episode_line(number, success=True)) + b"\n" for number in range(10)]
    (run / "episodes" / "long.jsonl").write_bytes(b"".join(whole))
    with page_server([run], tmp_path) as page:
        listed = page.ok("/api/runs/run/episodes?label=long")["episodes"]
        assert [episode["task"] for episode in listed] == [f"guess/test/{number}" for number in range(10)]
        (side,) = [each for each in page.ok("/api/runs/run/behaviour")["sides"] if each["label"] == "long"]
        assert side["success"] == {"episodes": 10, "transitions": {"up>down": 10, "up>up": 10}}
        assert page.ok("/api/runs/run/episodes?label=long&q=guess")["total"] == 10


def test_an_existing_index_is_used_again_and_a_second_page_only_reads(tmp_path):
    run = make_run(tmp_path / "run")
    first = RunDatabase(tmp_path / "cache", run, "x")
    EpisodeIndexer(BoundedFiles(run), first).refresh()
    second = RunDatabase(tmp_path / "cache", run, "x")
    assert (first.writable, second.writable) == (True, False)
    builder = EpisodeIndexer(BoundedFiles(run), second)
    assert not builder.refresh()
    assert (builder.progress.ready, builder.progress.episodes) == (True, 15)
    first.close()
    second.close()
    third = RunDatabase(tmp_path / "cache", run, "x")
    assert not EpisodeIndexer(BoundedFiles(run), third).refresh()  # nothing to do: the index was kept
    third.close()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("groups/step-000009.msgpack", b"\x05\0\0\0abcde", "record 0: not a group"),
        ("records/step-000009.records", b"\x05\0\0\0abcde", "record 0: not a StepRecord"),
        ("groups/step-000009.msgpack", b"\xff\xff\xff\xff", "the limit is"),
        ("episodes/odd.jsonl", b'{"id": 5}\n[]\n', "line 1: not an episode"),
        ("episodes/a b.jsonl", b"{}\n", "runs do not write files with such a name"),
        ("groups/other.msgpack", b"", "runs do not write files with such a name"),
    ],
)
def test_damaged_files_are_named_and_the_others_are_shown(tmp_path, name, content, reason):
    run = make_run(tmp_path / "run")
    (run / name).write_bytes(content)
    with page_server([run], tmp_path) as page:
        found = page.ok("/api/runs/run")
        assert found["problems"][0]["file"] == name
        assert reason in found["problems"][0]["reason"]
        assert page.ok("/api/runs/run/episodes")["total"] == 15


def test_a_record_that_vanishes_is_a_named_error(tmp_path):
    run = make_run(tmp_path / "run")
    with page_server([run], tmp_path) as page:
        page.ok("/api/runs/run/episodes/t8.1.0/turns/0")
        page.catalog.stop()  # the index does not notice
        (run / "records" / "step-000008.records").unlink()
        status, reply = page.get("/api/runs/run/episodes/t8.0.0")
        assert (status, reply["error"]["code"]) == (500, "damaged")
        assert "records/step-000008.records: the file no longer exists" in reply["error"]["message"]


def test_nothing_is_written_into_the_run(tmp_path):
    run = make_run(tmp_path / "run")
    for folder in (run / "records", run / "groups", run / "episodes", run / "eval_sets", run):
        folder.chmod(0o555)
    before = state_of(run)
    with page_server([run], tmp_path) as page:
        paths = ["", "/alarms", "/steps", "/steps/8/groups", "/episodes", "/facets", "/episodes/t8.0.0", "/behaviour",
                 "/episodes/t8.0.0/turns/0", "/episodes/t8.0.0/turns/0/visits"]  # fmt: skip
        for path in paths:
            page.ok(f"/api/runs/run{path}")
        page.ok("/api/series?metrics=success_rate")
    assert state_of(run) == before
    for folder in (run, *filter(Path.is_dir, run.iterdir())):
        folder.chmod(0o755)


def test_runs_of_earlier_releases_and_empty_runs_are_not_recorded_but_no_error(tmp_path):
    for name in ("bare", "old"):
        (tmp_path / "runs" / name).mkdir(parents=True)
        (tmp_path / "runs" / name / "run.json").write_text("{}" if name == "bare" else '{"id": "x", "schema": 1}')
    (tmp_path / "runs" / "old" / "metrics.jsonl").write_text('{"step": 1, "reward": 0.5}\n')
    with page_server([tmp_path / "runs"], tmp_path) as page:
        for name in ("bare", "old"):
            for path in ("", "/alarms", "/steps", "/episodes", "/facets", "/behaviour"):
                page.ok(f"/api/runs/{name}{path}")
        found = page.ok("/api/runs/bare")
        assert (found["environment"], found["success"], found["configuration"], found["state"]) == (None,) * 3 + (
            "running",
        )
        assert page.ok("/api/metrics?runs=old")["metrics"][0] == {
            "name": "reward", "unit": "", "description": "", "section": "training", "module": "",
        }  # fmt: skip


def test_a_killed_page_leaves_the_run_and_starts_again(tmp_path):
    run = make_run(tmp_path / "run")
    before = state_of(run)
    command = ["arlarena.console", "view", str(run), "--port", "0", "--cache-dir", str(tmp_path / "cache")]
    for number in (signal.SIGKILL, signal.SIGTERM):
        with (tmp_path / "log").open("w") as log:
            process = forking_support.popen(command, stdout=subprocess.PIPE, stderr=log, cwd=tmp_path)
        assert process.stdout
        page = Page(json.loads(process.stdout.readline())["port"], None)
        wait_for(lambda page=page: page.ok("/api/runs")["runs"][0]["index"]["ready"])
        assert page.ok("/api/runs/run/episodes")["total"] == 15
        os.kill(process.pid, number)
        assert process.wait(20) == (-9 if number == signal.SIGKILL else 0)
        assert "Traceback" not in (tmp_path / "log").read_text()
    assert state_of(run) == before


def test_a_cache_that_cannot_be_written_does_not_stop_the_page(tmp_path):
    run = make_run(tmp_path / "run")
    (tmp_path / "cache").write_text("no folder")
    with page_server([run], tmp_path) as page:
        assert page.ok("/api/runs/run/episodes")["total"] == 15
        shutil.rmtree(page.catalog.runs()[0].database.path.parent)
