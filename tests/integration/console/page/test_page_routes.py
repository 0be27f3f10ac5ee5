"""The API of the run page over HTTP, against docs/reference/page-api.md."""

import json

import pytest
from support.console.page_support import group, make_run, page_server, record, write_step

from arlarena.console.page.views.episode import MAX_TOKENS


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    make_run(folder / "runs" / "small")
    with page_server([folder / "runs"], folder) as page:
        yield page


def test_runs_and_one_run(page):
    (run,) = page.ok("/api/runs")["runs"]
    shown = {
        key: run[key] for key in ("id", "state", "environment", "method", "seed", "step", "steps", "before", "after")
    }
    assert shown == {
        "id": "small", "state": "finished", "environment": "guess", "method": "sampo", "seed": 7, "step": 20,
        "steps": 9, "before": 0.25, "after": 0.75,
    }  # fmt: skip
    # 2 plain episodes of step 4; 3 and 2 episodes of step 8, which two files hold; 2 evaluations of 4 episodes.
    assert run["index"] == {"ready": True, "progress": 1.0, "episodes": 2 + 3 + 2 + 8, "problems": 0}
    detail = page.ok("/api/runs/small")
    assert detail["recorded"] == {"steps": [4, 8], "groups": 3, "figures": True}
    assert 'name = "small"' in detail["configuration"]
    assert [each["label"] for each in detail["evaluations"]] == ["before", "after"]


def test_curves(page):
    names = {metric["name"]: metric for metric in page.ok("/api/metrics")["metrics"]}
    assert names["success_rate"]["unit"] == "share"
    assert names["success_rate"]["description"].startswith("share of episodes")
    found = page.ok("/api/series?metrics=success_rate,none&x=run_seconds&points=10")
    (series,) = found["series"]
    assert series["x"] == [4, 8, 12, 16, 20, 24, 28, 32, 36, 40]
    assert series["y"][0] == pytest.approx(0.015)
    assert (series["low"][0], series["high"][0]) == (0.01, 0.02)
    assert page.ok("/api/series?metrics=success_rate")["series"][0]["low"] is None
    assert page.get("/api/series?metrics=a&x=hours")[0] == 400
    assert page.get("/api/series?runs=other")[0] == 404


def test_groups_of_a_step(page):
    steps = page.ok("/api/runs/small/steps")
    assert [(step["step"], step["recorded"], step["complete"]) for step in steps["steps"]] == [
        (8, 2, True),
        (4, 1, None),
    ]
    assert (steps["steps"][0]["trained"], steps["steps"][0]["filtered"]) == (1, 1)
    found = page.ok("/api/runs/small/steps/8/groups")
    assert (found["head"]["clip_low"], found["head"]["ratio_level"]) == (0.2, "trajectory")
    first, second = found["groups"]
    assert (first["id"], first["status"], first["kind"], first["success"]) == ("one", "trained", "easy", 2)
    assert [member["status"] for member in first["members"]] == ["trained", "trained", "stale"]
    assert first["members"][1]["advantages"] == [0.5, 0.75]
    assert first["members"][1]["advantage"] == pytest.approx(0.625)
    assert first["members"][1]["outside"] == 0.5
    assert first["members"][2]["reason"] == "age 5 is above staleness = 1"
    assert first["members"][2]["mean_ratio"] is None
    assert second["status"] == "filtered"
    plain = page.ok("/api/runs/small/steps/4/groups")
    assert plain["head"] is None
    assert plain["groups"][0]["status"] is None
    assert page.get("/api/runs/small/steps/5/groups")[0] == 404


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("source=training&status=stale", ["t8.0.2", "t8.1.1"]),
        ("kind=easy&success=false", ["t8.0.1"]),
        ("invalid_min=1", ["t8.1.0", "t8.1.1"]),
        ("label=after&success=true", ["e.after.0", "e.after.1", "e.after.2"]),
        ("step_max=4", ["g4.0.0", "g4.0.1"]),
        ("turns_min=3&label=before&limit=2&offset=1", ["e.before.1", "e.before.2"]),
        ("q=left&status=filtered", ["t8.1.0", "t8.1.1"]),
        ("q=%22number+1%22+lef*", ["t8.1.0", "t8.1.1"]),
        ("q=zebra", []),
        ("task=TEST/3&sort=return&order=desc", ["e.before.3", "e.after.3"]),
        ("group=two", ["t8.1.0", "t8.1.1"]),
    ],
)
def test_filters(page, query, ids):
    found = page.ok(f"/api/runs/small/episodes?{query}")
    assert [episode["id"] for episode in found["episodes"]] == ids
    assert found["total"] == (4 if "limit" in query else len(ids))


@pytest.mark.parametrize(
    "query", ["sort=x", "limit=9999", "turns_min=a", "success=maybe", "order=up", "q=" + "a" * 201]
)
def test_wrong_filters_are_named(page, query):
    status, reply = page.get(f"/api/runs/small/episodes?{query}")
    assert (status, reply["error"]["code"]) == (400, "bad_request")
    assert query.partition("=")[0].removesuffix("_min") in reply["error"]["message"]


@pytest.mark.parametrize(
    "query", ['q="', "q=NEAR(a+b)", "q=text:*", "q=' OR 1=1 --", "q=a AND", "kind=' OR '1'='1", "q=%00"]
)
def test_texts_are_no_queries(page, query):
    found = page.ok(f"/api/runs/small/episodes?{query.replace(' ', '+').replace(chr(34), '%22')}")
    assert found["total"] == (15 if query in ('q="', "q=%00") else 0)  # a text without a word is no filter


def test_an_episode_and_its_neighbours(page):
    found = page.ok("/api/runs/small/episodes/t8.0.1")
    assert found["siblings"] == ["t8.0.0", "t8.0.1", "t8.0.2"]
    assert found["ids"] == {"previous": "t8.0.0", "next": "t8.0.2"}
    assert [turn["visits"] for turn in found["turn_list"]] == [3, 3]
    assert [turn["step_advantage"] for turn in found["turn_list"]] == [0.0, 0.25]
    assert found["turn_list"][0]["outside"] == 0.5
    assert found["weights"] == "life:3:d3"
    assert page.get("/api/runs/small/episodes/t9.9.9")[0] == 404


def test_the_figures_of_a_turn_are_those_of_the_record(page):
    found = page.ok("/api/runs/small/episodes/t8.0.1/turns/1")
    assert found["tokens"] == {
        "ids": [5, 6, 7], "texts": None, "mask": [1, 1, 0], "sampler_log_probs": [-0.5, -0.25, -1.0],
        "log_probs": [-0.8, -0.3, None], "old_log_probs": [-0.5, -0.25, None], "reference_log_probs": None,
        "entropies": [0.5, 0.25, None], "ratios": [1.1, 1.8, None], "clip": [0, 2, None], "kept": True,
        "truncated": False,
    }  # fmt: skip
    assert found["advantage"] == {"episode": 0.5, "step": 0.25, "total": 0.75, "anchor_size": 3}
    assert found["admissible_actions"] == ["up", "down"]
    assert found["reply"]["marks"][1] == {"start": 7, "end": 10, "kind": "think"}
    assert found["versions"] == [{"start": 0, "end": 3, "version": "life:3:d3", "step": 3}]
    stale = page.ok("/api/runs/small/episodes/t8.0.2/turns/0")
    assert stale["tokens"]["log_probs"] is None
    assert stale["advantage"]["total"] == 1.0
    evaluated = page.ok("/api/runs/small/episodes/e.after.3/turns/2")
    assert (evaluated["tokens"], evaluated["prompt"]) == (None, None)
    assert evaluated["next"]["observation"]["text"] == "end"
    assert page.get("/api/runs/small/episodes/e.after.3/turns/3")[0] == 404


def test_visits_of_an_anchor_state(page):
    found = page.ok("/api/runs/small/episodes/t8.0.1/turns/1/visits")
    assert [(visit["episode"], visit["turn"], visit["this"]) for visit in found["visits"]] == [
        ("t8.0.0", 1, False), ("t8.0.1", 1, True), ("t8.0.2", 1, False),
    ]  # fmt: skip
    first = page.ok("/api/runs/small/episodes/t8.0.1/turns/0/visits")["visits"][0]
    assert first["step_return"] == pytest.approx(-0.1 + 0.95 * -1.1)


def test_behaviour_counts_each_group_once(page):
    sides = {side["name"]: side for side in page.ok("/api/runs/small/behaviour")["sides"]}
    assert sides["evaluation before"]["success"] == {"episodes": 1, "transitions": {"up>up": 1, "up>down": 1}}
    assert sides["evaluation after"]["success"]["transitions"] == {"up>up": 3, "up>down": 3}
    last = sides["training, last steps"]
    assert last["steps"] == [8, 8]
    assert last["success"]["transitions"] == {"up>down": 2}
    assert last["failure"]["transitions"] == {"left>-": 2, "up>down": 1}


def test_replies_have_headers_that_stop_scripts(page):
    status, _, headers = page.request("GET", "/")
    assert status == 200
    policy = headers["content-security-policy"]
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert page.request("GET", "/static/..%2fcommand.py")[0] == 404
    assert page.request("GET", "/api/runs/..%2f..%2fetc")[0] == 404
    assert page.request("GET", "/api/runs", Host="evil.example")[0] == 403
    assert page.request("POST", "/api/runs")[0] == 405
    assert page.send("POST", "/api/play", {"x": "y" * (2 << 20)})[0] == 413


def test_a_page_on_another_address_needs_the_token(tmp_path):
    make_run(tmp_path / "run")
    with page_server([tmp_path / "run"], tmp_path, token="right", host="0.0.0.0") as page:
        assert page.get("/api/runs")[0] == 401
        assert page.request("GET", "/login?token=wrong")[0] == 401
        status, _, headers = page.request("GET", "/login?token=right")
        assert status == 303
        cookie = headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert page.get("/api/runs", Cookie=cookie.partition(";")[0])[0] == 200
        assert page.get("/api/runs", Authorization="Bearer right")[0] == 200
        assert page.get("/api/health")[0] == 200


def test_hostile_text_is_data(tmp_path):
    """HTML, control characters and a turn of 1 MB are text in JSON, in full; lists show their start."""
    run = make_run(tmp_path / "run")
    text = "<script>alert(1)</script>\x1b[31m\u202e" + "A" * 1_100_000
    one = group("evil", [True, False], ("up",))
    for trajectory in one.trajectories:
        trajectory.turns[0].observation = trajectory.turns[0].response = trajectory.turns[0].action = text
        trajectory.turns[0].response_ids, trajectory.turns[0].logprobs = b"\5\0\0\0" * 30_000, b"\0\0\0\0" * 30_000
        trajectory.turns[0].loss_mask = b"\1" * 30_000
    write_step(run, 9, [record(one, 9, "filtered")])
    with page_server([run], tmp_path) as page:
        _, body, headers = page.request("GET", "/api/runs/run/episodes/t9.0.0/turns/0")
        turn = json.loads(body)
        assert headers["content-type"] == "application/json"
        assert turn["observation"] == {"text": text[:1_000_000], "truncated": True}
        assert len(turn["tokens"]["ids"]) == MAX_TOKENS
        assert turn["tokens"]["truncated"]
        shown = page.ok("/api/runs/run/episodes/t9.0.0")
        assert len(shown["turn_list"][0]["preview"]) == 200
        assert "\x1b" not in shown["turn_list"][0]["action"]
        assert page.ok("/api/runs/run/episodes?q=alert")["total"] == 2
