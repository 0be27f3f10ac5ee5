"""A person plays: a new task, and from a recorded state on; the episode is recorded for evaluation and cloning."""

import json

import msgspec
import pytest
from support.console.page_support import make_run, page_server

from arlarena.console.page.reading.records import episode_line


@pytest.fixture(scope="module")
def played(tmp_path_factory):
    """A page of a run, and a game that a person has won. Yields (page, folder, the finished game)."""
    folder = tmp_path_factory.mktemp("play")
    make_run(folder / "run")
    with page_server([folder / "run"], folder) as page:
        status, game = page.send("POST", "/api/play", {"environment": "sokoban", "split": "test", "index": 0})
        assert status == 201, game
        yield page, folder, game


def finish(page, game):
    """Play the same invalid action until the game is over."""
    while not game["state"]["done"]:
        status, game = page.send("POST", f"/api/play/{game['id']}/step", {"action": "nowhere"})
        assert status == 200
    return game


def test_a_new_task_shows_what_a_model_sees(played):
    _, _, game = played
    assert game["task"] == "sokoban/test/0"
    assert game["reply_format"]["action"] == "<action>{action}</action>"
    assert "up" in game["state"]["admissible_actions"]
    assert (game["state"]["turn"], game["state"]["reward"], game["saved"]) == (0, None, None)


def test_a_finished_game_is_recorded_and_continued_from_a_turn(played):
    page, folder, game = played
    _, after = page.send("POST", f"/api/play/{game['id']}/step", {"action": "up", "thought": "why not"})
    assert (after["state"]["turn"], after["state"]["action_valid"]) == (1, True)
    over = finish(page, after)
    assert over["saved"]["episodes"] == str(folder / "played" / "episodes.jsonl")
    status, reply = page.send("POST", f"/api/play/{game['id']}/step", {"action": "up"})
    assert (status, reply["error"]["message"]) == (409, "the game is over")
    line = (folder / "played" / "episodes.jsonl").read_bytes()
    episode, raw = episode_line("episodes.jsonl", line), json.loads(line)
    assert (raw["player"], episode.task, episode.success, len(episode.turns)) == ("human", "sokoban/test/0", False, 15)
    assert episode.turns[0].response == "<think>why not</think><action>up</action>"
    assert episode.turns[0].admissible_actions
    talks = [json.loads(line) for line in (folder / "played" / "conversations.jsonl").read_text().splitlines()]
    assert len(talks) == 15
    assert [message["role"] for message in talks[0]["messages"]] == ["user", "assistant"]
    assert talks[0]["messages"][1]["content"] == episode.turns[0].response
    assert page.send("DELETE", f"/api/play/{game['id']}")[0] == 200
    assert page.get(f"/api/play/{game['id']}")[0] == 404

    assert "played" in [run["id"] for run in page.ok("/api/runs")["runs"]]
    page.catalog.get("played").index.refresh()
    status, again = page.send("POST", "/api/play", {"run": "played", "episode": "e.played.0", "turn": 4})
    assert (status, again["replay"]) == (201, {"turns": 4, "matches": True, "differs_at": None})
    assert again["state"]["turn"] == 4
    assert again["state"]["state_key"] == episode.turns[4].state_key
    over = finish(page, again)
    lines = (folder / "played" / "episodes.jsonl").read_bytes().splitlines()
    seconds = [turn["seconds"] is None for turn in json.loads(lines[1])["turns"]]
    assert seconds == [True] * 4 + [False] * 11
    assert len((folder / "played" / "conversations.jsonl").read_text().splitlines()) == 15 + 11


def test_a_game_with_options_is_continued_with_the_same_options(tmp_path):
    """The default is rooms of 7 x 7 and 15 turns. The run, whose options the game had, is gone."""
    run = make_run(tmp_path / "run")
    options = "size = 6\nmax_steps = 4\n"
    (run / "config.toml").write_text(f'[environment]\nname = "sokoban"\n[environment.options]\n{options}')
    with page_server([run], tmp_path) as page:
        _, game = page.send("POST", "/api/play", {"run": "run", "split": "test", "index": 1})
        finish(page, game)
    line = json.loads((tmp_path / "played" / "episodes.jsonl").read_text())
    assert (line["options"], len(line["turns"])) == ({"size": 6, "max_steps": 4}, 4)
    with page_server([tmp_path / "played"], tmp_path) as page:
        status, again = page.send("POST", "/api/play", {"run": "played", "episode": "e.played.0", "turn": 2})
        assert (status, again["replay"]["matches"]) == (201, True)
        assert again["state"]["remaining_steps"] == 2
        assert again["state"]["observation"] == line["turns"][2]["observation"]


def test_a_state_that_differs_from_the_record_is_reported(played):
    page, folder, _ = played
    line = json.loads((folder / "played" / "episodes.jsonl").read_bytes().splitlines()[0])
    line["turns"][2]["state_key"] = "another"
    (folder / "run" / "episodes" / "changed.jsonl").write_bytes(msgspec.json.encode(line) + b"\n")
    page.catalog.get("run").index.refresh()
    status, game = page.send("POST", "/api/play", {"run": "run", "episode": "e.changed.0", "turn": 4})
    assert (status, game["replay"]["matches"], game["replay"]["differs_at"]) == (201, False, 2)


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        ({"environment": "chess"}, 400, "environment must be one of"),
        ({"environment": "../x"}, 400, "environment must be one of"),
        ({"run": "none"}, 404, "no run"),
        ({"run": "run", "episode": "e.none.0", "turn": 0}, 404, "no episode"),
        ({"run": "run", "episode": "e.after.0", "turn": 99}, 400, "turn must be below 3"),
        ({"run": "run", "episode": "e.after.0"}, 400, "turn must be of type int"),
        ({"environment": "sokoban", "index": "0"}, 400, "index must be of type int"),
        ({"environment": "sokoban", "split": "none"}, 409, "the task cannot be played"),
    ],
)
def test_wrong_requests_are_named(played, body, status, says):
    page, _, _ = played
    found, reply = page.send("POST", "/api/play", body)
    assert found == status, reply
    assert says in reply["error"]["message"]


def test_requests_of_other_sites_and_forms_are_refused(played):
    page, _, _ = played
    assert page.send("POST", "/api/play", {}, Origin="http://evil.example")[0] == 403
    assert page.send("POST", "/api/play", {}, Content_Type="text/plain")[0] == 400


def test_playing_can_be_disabled(tmp_path):
    make_run(tmp_path / "run")
    with page_server([tmp_path / "run"], tmp_path, play=False) as page:
        assert page.ok("/api/play/environments")["enabled"] is False
        assert page.send("POST", "/api/play", {"environment": "sokoban"})[0] == 403
