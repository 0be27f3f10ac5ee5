"""Runs that are damaged, deleted, empty or shared: the page shows what is left, and names the rest."""

import contextlib
import json
import random
import shutil
import threading

import pytest
from support.console.page_support import group, make_run, page_server, record, write_metrics, write_step

DRAW = random.Random(3)
PATHS = ("", "/alarms", "/steps", "/steps/8/groups", "/episodes", "/facets", "/behaviour", "/episodes/t8.0.0",
         "/episodes/t8.0.0/turns/0", "/episodes/t8.0.0/turns/1/visits", "/episodes/g4.0.1/turns/0",
         "/episodes/e.after.1/turns/2")  # fmt: skip
KNOWN = {"damaged", "not_found", "unavailable"}


def make_full_run(folder):
    """A run with every kind of file that the page reads."""
    run = make_run(folder)
    (run / "logs").mkdir()
    line = {"ts": 1.0, "level": "warning", "service": "trainer", "event": "mismatch", "step": 3, "mean_k3": 0.5}
    (run / "logs" / "trainer.log").write_text(json.dumps(line) + "\n")
    (run / "progress").mkdir()
    (run / "progress" / "train-step.json").write_text('{"step": 21, "doing": "collecting"}')
    (run / "training.json").write_text('{"ended_by": "steps", "step": 20, "steps": 20}')
    (run / "summary.json").write_text('{"env": "guess"}')
    (run / "flows.jsonl").write_text('{"step": 1, "success": {"up>up": 0.5}, "failure": {}}\n')
    (run / "policy").mkdir()
    (run / "policy" / "tokenizer.json").write_text('{"version": "1.0"}')
    return run


def assert_answers(page, run="run"):
    """Every route answers, or names what it cannot read. Returns the problems of the run."""
    page.catalog.get(run).index.refresh()
    for path in ("/api/runs", "/api/metrics", "/api/series?metrics=success_rate,loss", "/api/play/environments"):
        page.ok(path)
    for path in PATHS:
        status, reply = page.get(f"/api/runs/{run}{path}")
        assert status == 200 or reply["error"]["code"] in KNOWN, (path, reply)
    return page.ok(f"/api/runs/{run}")["problems"]


def damages(data):
    """Ways in which a writer, a full disk or an attacker leaves a file."""
    yield b""
    yield data[: len(data) // 3]
    yield data[:-1]
    yield data + data[: len(data) // 2]
    yield bytes(len(data))
    for _ in range(2):
        changed = bytearray(data)
        for _ in range(1 + len(changed) // 100):
            changed[DRAW.randrange(len(changed))] = DRAW.randrange(256)
        yield bytes(changed)
    yield b'{"id": 5}\n[1, {"a": [[[[]]]]}]\n\xff\xfe\x00'


def test_every_damaged_file_leaves_a_page_that_answers(tmp_path):
    run = make_full_run(tmp_path / "run")
    files = [path for path in sorted(run.rglob("*")) if path.is_file()]
    assert len(files) >= 14
    with page_server([run], tmp_path) as page:
        page.catalog.stop()  # the test refreshes the index itself
        assert assert_answers(page) == []
        for path in files:
            data = path.read_bytes()
            for damaged in damages(data):
                path.write_bytes(damaged)
                assert_answers(page)
            path.write_bytes(data)
            assert assert_answers(page) == [], path
        assert page.ok("/api/runs/run/episodes")["total"] == 15


def test_the_groups_before_a_damaged_one_are_shown_and_the_damage_is_named_once(tmp_path):
    run = make_run(tmp_path / "run")
    path = run / "records" / "step-000008.records"
    path.write_bytes(path.read_bytes() + b"\xff\xff\xff\xff and more")
    with page_server([run], tmp_path) as page:
        index = page.catalog.get("run").index
        page.catalog.stop()
        assert not index.refresh()  # the file is read again only if it changes
        (problem,) = page.ok("/api/runs/run")["problems"]
        assert "record 3 has 4294967295 bytes" in problem["reason"]
        assert page.ok("/api/runs/run/episodes?step_min=8")["total"] == 5


@pytest.mark.parametrize("what", ["run.json", "records", "metrics.jsonl", "episodes/after.jsonl", "."])
def test_what_is_deleted_while_it_is_viewed_is_gone_and_the_rest_is_shown(tmp_path, what):
    run = make_full_run(tmp_path / "run")
    with page_server([run, make_run(tmp_path / "other")], tmp_path) as page:
        page.catalog.stop()
        page.ok("/api/runs/run/episodes/t8.0.0/turns/0")
        path = run / what
        shutil.rmtree(path) if path.is_dir() else path.unlink()
        assert_answers(page)
        assert page.ok("/api/runs/other/episodes")["total"] == 15
        if what == ".":
            assert page.ok("/api/runs/run/episodes")["total"] == 0
            assert page.ok("/api/runs/run")["state"] == "inactive"
        make_full_run(tmp_path / "new").rename(run) if what == "." else None
        if what == ".":
            assert_answers(page)
            assert page.ok("/api/runs/run/episodes")["total"] == 15


def test_a_run_without_a_step_is_shown(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "run.json").write_text('{"id": "x", "name": "empty", "schema": 3}')
    (run / "metrics.jsonl").write_text("")
    with page_server([run], tmp_path) as page:
        assert_answers(page)
        (found,) = page.ok("/api/runs")["runs"]
        assert (found["step"], found["success"], found["environment_steps"]) == (0, None, None)
        assert page.ok("/api/series?metrics=success_rate&x=run_seconds") == {
            "x": "run_seconds", "x_unit": "s", "series": [],
        }  # fmt: skip


def test_two_pages_show_a_run_that_grows(tmp_path):
    """The second page reads the index of the first, which alone writes it."""
    run = make_run(tmp_path / "run")
    with page_server([run], tmp_path) as first, page_server([run], tmp_path) as second:
        assert [page.catalog.get("run").database.writable for page in (first, second)] == [True, False]
        write_step(run, 9, [record(group("new", [True, False]), 9)])
        write_metrics(run, range(21, 22))
        while second.ok("/api/runs/run/episodes?group=new")["total"] < 2:
            first.catalog.get("run").index.refresh()
        assert second.ok("/api/runs")["runs"][0]["step"] == 21
        assert second.ok("/api/runs/run/episodes/t9.0.0/turns/0")["action"] == "up"


def test_the_second_page_writes_the_index_after_the_first_has_ended(tmp_path):
    run = make_run(tmp_path / "run")
    with contextlib.ExitStack() as first, contextlib.ExitStack() as second:
        first.enter_context(page_server([run], tmp_path))
        page = second.enter_context(page_server([run], tmp_path))
        assert not page.catalog.get("run").database.writable
        first.close()
        write_step(run, 9, [record(group("new", [True, False]), 9)])
        page.catalog.get("run").index.refresh()
        assert page.catalog.get("run").database.writable
        assert page.ok("/api/runs/run/episodes?group=new")["total"] == 2


def test_many_requests_at_once_while_the_run_grows(tmp_path):
    run = make_run(tmp_path / "run")
    problems = []
    with page_server([run], tmp_path) as page:

        def ask():
            for _ in range(10):
                for path in PATHS:
                    status, reply = page.get(f"/api/runs/run{path}")
                    if status != 200:
                        problems.append((path, reply))

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for thread in threads:
            thread.start()
        for step in range(9, 29):
            write_step(run, step, [record(group(f"g{step}", [True, False]), step)])
            write_metrics(run, range(step + 12, step + 13))
        for thread in threads:
            thread.join(60)
        page.catalog.get("run").index.refresh()
        assert page.ok("/api/runs/run/steps?limit=100")["total"] == 22
    assert problems == []
