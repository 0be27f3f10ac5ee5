"""A run in which every text is an attack: names, labels, metrics, actions, reasons, logs. It is shown as text."""

import json
from urllib.parse import quote

import msgspec
import pytest
from support.console.page_browser_support import ATTACK, ROOM, checked_tab
from support.console.page_support import episode_line, group, make_run, page_server, record, turn, write_metrics

from arlarena.proto.records.group_records import StepRecord, encode_frame, record_path, write_records
from arlarena.proto.trajectory import Task, Trajectory, write_groups

# A name of a folder has no slash.
FOLDER = "<img src=x onerror=window.attacked=1>\u202e"
VIEWS = {
    "runs": "tbody tr",
    "run/{run}": "#summary",
    "curves?runs={run}": ".plot path.line",
    "groups/{run}/8": ".group",
    "episodes/{run}": "tbody tr",
    "episode/{run}/t8.0.0/0": "a.visit",
    "episode/{run}/t8.0.0/0?overlay=ratio": "a.visit",
    "episode/{run}/e.after.1/0": "main[data-turn='0']",
    "behaviour/{run}": ".flow",
    "play?run={run}": ".play-form",
}


def hostile_group(name):
    turns = tuple(
        turn(0, number, ATTACK, observation=f"{ATTACK}\n{ROOM if number else ''}", state_key=ATTACK,
             response=f"<{ATTACK}>{ATTACK}</action>", admissible_actions=(ATTACK, "up"), format_valid=False)
        for number in range(2)
    )  # fmt: skip
    played = tuple(
        Trajectory(ATTACK, 0, turns, won, not won, float(won), won, kind=ATTACK, fault=ATTACK) for won in (True, False)
    )
    task = Task(ATTACK, ATTACK, -1, name=ATTACK)
    return msgspec.structs.replace(group(name, [True, False]), task=task, trajectories=played, worker=ATTACK)


@pytest.fixture(scope="module")
def hostile(tmp_path_factory):
    """A folder with the hostile run."""
    folder = tmp_path_factory.mktemp("hostile")
    run = make_run(folder / FOLDER)
    state = {"id": "x", "name": ATTACK, "command": ATTACK, "code": [ATTACK], "stages": {ATTACK: 1.0}, "schema": 3,
             "restarts": {ATTACK: 1}, "finished": False, "started": ATTACK}  # fmt: skip
    (run / "run.json").write_text(json.dumps(state))
    safe = json.dumps(ATTACK.replace("\x00", "").replace("\x1b", ""))
    (run / "config.toml").write_text(
        f"[run]\nname = {safe}\nseed = 3\n[environment]\nname = {safe}\n[trainer]\nrecipe = {safe}\n"
    )
    (run / "training.json").write_text(json.dumps({"ended_by": ATTACK, "step": 3, "limit": ATTACK, "detail": ATTACK}))
    write_metrics(run, range(21, 23), **{ATTACK: 0.5, f"kl_share/{ATTACK}": 1.0})
    both = msgspec.structs.replace(record(hostile_group(ATTACK), 8), reason=ATTACK)
    members = tuple(msgspec.structs.replace(member, reason=ATTACK) for member in both.members)
    head = StepRecord(8, ATTACK, ATTACK, ATTACK, 0.2, 0.3, None, ATTACK, True, {ATTACK: 1})
    write_records(
        record_path(run, 8), [encode_frame(head), encode_frame(msgspec.structs.replace(both, members=members))]
    )
    write_groups(run / "groups" / "step-000004.msgpack", [hostile_group(ATTACK)])
    line = episode_line(1, success=True, words=(ATTACK, "up", ATTACK))
    line = msgspec.structs.replace(line, task=ATTACK, kind=ATTACK, fault=ATTACK, final_observation=ATTACK)
    (run / "episodes" / "after.jsonl").write_bytes(2 * (msgspec.json.encode(line) + b"\n"))
    kinds = [{"kind": ATTACK, "n": 1, "success": 0.5, "ci95": [0, 1]}]
    result = {"success": 0.5, "ci95": [0, 1], "episodes": 2, "environment": ATTACK, "by_kind": kinds}
    (run / "eval_sets" / "after.json").write_text(json.dumps(result))
    (run / "flows.jsonl").write_text(json.dumps({"step": 1, "success": {f"{ATTACK}>up": 0.5}, "failure": {}}) + "\n")
    (run / "logs").mkdir()
    alarm = {"ts": 1.0, "level": "error", "service": ATTACK, "event": ATTACK, "step": 12, "reason": ATTACK, ATTACK: 1}
    (run / "logs" / "trainer.log").write_text(json.dumps(alarm) + "\n")
    (run / "episodes" / f"{FOLDER}.jsonl").write_text("{}\n")
    return folder


def test_no_view_runs_code_of_a_run(browser, hostile):
    with page_server([hostile], hostile) as server, checked_tab(browser, f"http://127.0.0.1:{server.port}") as page:
        page.tab.on("dialog", lambda dialog: page.errors.append(f"dialog {dialog.message}"))
        for route, ready in VIEWS.items():
            tab = page.open(route.format(run=quote(FOLDER)), ready)
            tab.wait_for_timeout(100)
            assert tab.evaluate("window.attacked") is None, route
            assert tab.locator("main script, main style, main iframe, main [onerror], main img[src=x]").count() == 0
            assert "javascript:" not in json.dumps(tab.evaluate("[...document.links].map(link => link.href)"))
            assert "\u202e" not in tab.inner_text("body"), route  # it would reverse the text after it
            tab.set_viewport_size({"width": 390, "height": 900})
            assert tab.evaluate("document.documentElement.scrollWidth") <= 390, route
            tab.set_viewport_size({"width": 1440, "height": 900})
            assert "<script>window.attacked" in tab.inner_text("main") or route.startswith("play"), route
