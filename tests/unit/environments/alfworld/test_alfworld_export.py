"""Generated games written as files: equal when read back, and with the fields that alfworld's tools need."""

import json

import pytest
from support.processes import forking_support

from arlarena.environments.alfworld.engine.game import Game
from arlarena.environments.alfworld.files.game_files import FileGames
from arlarena.environments.alfworld.houses.generator import HouseOptions
from arlarena.environments.alfworld.houses.made_games import GeneratedGames

CONFIG = '[environment]\nname = "{name}"\n[environment.options]\nthings = [4, 8]\nreceptacles = 6\nmax_steps = 40\n'
HOUSES = HouseOptions(things=(4, 8), receptacles=6)


def run(*arguments):
    command = ["arlarena.environments.alfworld.files.export", *map(str, arguments)]
    return forking_support.run(command, imports="arlarena.env_server")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("export")
    config = folder / "run.toml"
    config.write_text(CONFIG.format(name="alfworld"))
    for split, first in (("train", 5), ("valid_unseen", 0)):
        done = run("--split", split, "--first", first, "--count", 8, "--out", folder / "games", "--config", config)
        assert done.returncode == 0, done.stderr
        assert len(done.stdout.splitlines()) == 8
    return folder / "games"


def index_of(name):
    return int(name.rpartition("trial_")[2])


@pytest.mark.parametrize("split", ["train", "valid_unseen"])
def test_exported_games_are_equal_when_read_back(out, split):
    read, made = FileGames(out), GeneratedGames(HOUSES, 40, 512)
    assert read.sizes() == {"train": 8, "valid_unseen": 8}
    names = [read.name(split, at) for at in range(8)]
    assert sorted(map(index_of, names)) == list(range(5, 13) if split == "train" else range(8))
    for at, name in enumerate(names):
        one, other = read.game(split, at), made.game(split, index_of(name))
        assert (one.content_key, one.type, one.goal.type) == (other.content_key, other.type, other.type)
        assert Game(one.rules).feedback == Game(other.rules).feedback


def test_folders_and_trajectories_have_the_format_of_alfworlds_tools(out):
    for path in out.glob("*/*/*/traj_data.json"):
        told = json.loads(path.read_text())
        wanted = told["pddl_params"]
        assert set(wanted) == {"object_target", "parent_target", "toggle_target", "mrecep_target", "object_sliced"}
        assert (wanted["mrecep_target"], wanted["object_sliced"]) == ("", False)
        where = wanted["parent_target"] or wanted["toggle_target"]
        name = f"{told['task_type']}-{wanted['object_target']}-None-{where}-{told['scene']['scene_num']}"
        assert path.parent.parent.name == name
        assert bool(wanted["toggle_target"]) == (told["task_type"] == "look_at_obj_in_light")


def test_the_walkthrough_wins_the_game(out):
    games = FileGames(out)
    for path in out.glob("train/*/*/game.tw-pddl"):
        file = json.loads(path.read_text())
        assert file["solvable"] is True
        game = Game(games.game("train", games.index("train", str(path.parent.relative_to(out / "train")))).rules)
        for command in file["walkthrough"]:
            assert command in game.commands
            game.play(command)
        assert game.won


def test_a_game_is_written_to_the_same_bytes_without_leftovers(out):
    paths = sorted(path for path in out.rglob("*") if path.is_file())
    assert {path.name for path in paths} == {"game.tw-pddl", "traj_data.json"}
    before = {path: path.read_bytes() for path in paths}
    done = run("--first", 5, "--count", 2, "--out", out, "--config", out.parent / "run.toml")
    assert done.returncode == 0
    assert {path: path.read_bytes() for path in sorted(p for p in out.rglob("*") if p.is_file())} == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--count", 0], "--count at least 1"),
        (["--first", -1], "--first must be at least 0"),
        (["--config", "nowhere.toml"], "nowhere.toml: no such configuration file"),
        (
            ["--config", "sokoban.toml"],
            "name = 'sokoban': must be alfworld, because only games of alfworld can be exported",
        ),
        (["--out", "sokoban.toml"], "--out sokoban.toml: "),
    ],
)
def test_export_errors_have_no_stack_trace(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sokoban.toml").write_text(CONFIG.format(name="sokoban"))
    done = run("--count", 1, *(["--out", tmp_path / "games"] if "--out" not in arguments else []), *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
