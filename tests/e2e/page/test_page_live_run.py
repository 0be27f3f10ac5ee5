"""A person watches a run that trains: its state, its new steps, and its end."""

import fcntl
import json

import pytest
from support.console.page_browser_support import checked_tab
from support.console.page_support import make_run, page_server, write_metrics

# Issue 24: a live run shows a new step within five seconds.
LIMIT_S = 5.0


@pytest.fixture
def live_run(tmp_path):
    """An unfinished run whose lock a process holds, as `arlarena up` does."""
    run = make_run(tmp_path / "live")
    state = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(state | {"finished": False}))
    (run / "progress").mkdir()
    activity = {"step": 21, "doing": "collecting", "groups": 3, "groups_wanted": 24}
    (run / "progress" / "train-step.json").write_text(json.dumps(activity))
    with (run / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield run


@pytest.fixture
def page(browser, live_run, tmp_path):
    with (
        page_server([live_run], tmp_path) as server,
        checked_tab(browser, f"http://127.0.0.1:{server.port}") as tab,
    ):
        yield tab


def test_a_new_step_appears_in_the_curves_and_in_the_list(page, live_run):
    curves = page.open("curves?runs=live&q=success", ".chart .values span")
    page.wait_for("document.querySelector('.values').innerText.includes('20.0')")
    write_metrics(live_run, range(21, 22), success_rate=0.777)
    page.wait_for("document.querySelector('.values').innerText.includes('77.7')", LIMIT_S)
    assert "20.0" not in curves.locator(".values").first.inner_text()
    page.open("runs", "tbody tr")
    page.wait_for("document.querySelector('tbody').innerText.includes('77.7')")
    write_metrics(live_run, range(22, 23), success_rate=0.888)
    page.wait_for("document.querySelector('tbody').innerText.includes('88.8')", LIMIT_S)


def test_a_running_run_is_marked_and_its_end_is_shown(page, live_run):
    tab = page.open("run/live", "#summary")
    page.wait_for("document.getElementById('live').textContent === '1 live'", LIMIT_S)
    summary = tab.locator("section[aria-labelledby=summary]")
    assert summary.locator(".badge").first.inner_text().split() == ["✓", "running"]
    assert "step 21: collecting, 3 of 24 groups" in summary.inner_text()
    assert tab.locator("#live.on").count() == 1
    state = json.loads((live_run / "run.json").read_text())
    (live_run / "run.json").write_text(json.dumps(state | {"finished": True}))
    page.wait_for("document.querySelector('section .badge').innerText.includes('finished')", LIMIT_S)
    page.wait_for("document.getElementById('live').textContent === ''", LIMIT_S)


def test_an_error_that_ended_a_run_is_shown(page, live_run):
    ending = {"ended_by": "error", "step": 3, "steps": 9, "detail": "the loss of 3 steps in a row was not finite"}
    (live_run / "training.json").write_text(json.dumps(ending))
    tab = page.open("run/live", "#summary")
    wanted = f"an error, after 3 steps: {ending['detail']}"
    assert wanted in tab.locator("section[aria-labelledby=summary]").inner_text()
