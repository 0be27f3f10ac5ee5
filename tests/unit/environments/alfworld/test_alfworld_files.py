"""Folders of games: what is found in them, what it is called, and what is said of what is broken."""

import json
import shutil

import pytest

from arlarena.environment.protocols import TaskError
from arlarena.environment.registry import load
from arlarena.environments.alfworld.files.export import export
from arlarena.environments.alfworld.options import read_options
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import ResetSpec

SMALL = {"things": [4, 8], "receptacles": 6}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two games of each split, as files."""
    folder = tmp_path_factory.mktemp("alfworld")
    options = read_options("test", SMALL)
    for split in ("train", "valid_seen", "valid_unseen"):
        for index in (0, 1):
            export(folder, split, index, options)
    return folder


@pytest.fixture
def root(made, tmp_path):
    """A copy of them to spoil."""
    return shutil.copytree(made, tmp_path / "games")


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)


def games(root, **options):
    return load("test", "alfworld", {"games": str(root), **options})


def sizes(environment):
    return {split.name: split.size for split in environment.info.splits}


def ids(environment, split="train"):
    return [
        environment.task(ResetSpec(split=split, index=index)).id for index in range(sizes(environment).get(split, 0))
    ]


def paths(root, split="train"):
    return sorted((root / split).glob("*/*/game.tw-pddl"))


def edit(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def moved(path, folder):
    """The game in another folder beside its own."""
    target = path.parents[2] / folder / path.parent.name
    target.parent.mkdir(exist_ok=True)
    return shutil.move(path.parent, target)


def start(environment, split="train", index=0):
    return environment.start(environment.task(ResetSpec(split=split, index=index)))


def test_games_are_called_by_their_folders_in_the_order_of_their_names(root):
    environment = games(root)
    assert sizes(environment) == {"train": 2, "valid_seen": 2, "valid_unseen": 2}
    assert ids(environment) == [f"alfworld/train/{p.parent.parent.name}/{p.parent.name}" for p in paths(root)]
    assert ids(environment) == sorted(ids(environment))
    assert environment.info.version == "files-1"


def test_a_game_is_found_by_its_name_and_by_its_index(root):
    environment = games(root)
    for at, name in enumerate(ids(environment, "valid_unseen")):
        by_name = environment.task(ResetSpec(task_id=name))
        assert by_name == environment.task(ResetSpec(task_id=f"alfworld/valid_unseen/{at}"))
        assert (by_name.id, by_name.index, by_name.split) == (name, at, "valid_unseen")
        assert environment.start(by_name).observe().metadata.task_id == name


@pytest.mark.parametrize(
    "name", ["alfworld/train/nowhere/trial_0", "alfworld/test/0", "alfworld/train/2", "sokoban/train/0"]
)
def test_another_name_is_no_game(root, name):
    with pytest.raises(TaskError):
        games(root).task(ResetSpec(task_id=name))


def test_an_unknown_split_is_named(root):
    with pytest.raises(TaskError, match="unknown split 'test'; known: train, valid_seen, valid_unseen"):
        games(root).task(ResetSpec(split="test"))


def test_a_split_whose_games_are_all_left_out_is_none(root):
    shutil.rmtree(root / "valid_seen")
    for path in paths(root, "valid_unseen"):
        edit(path, solvable=False)
    assert sizes(games(root)) == {"train": 2}


def test_folders_of_another_name_are_left_alone_where_there_are_splits_and_are_training_else(root):
    (root / "train").rename(root / "spring")
    assert set(sizes(games(root))) == {"valid_seen", "valid_unseen"}
    for split in ("valid_seen", "valid_unseen"):
        shutil.rmtree(root / split)
    assert sizes(games(root)) == {"train": 2}
    assert ids(games(root))[0].startswith("alfworld/train/spring/")


@pytest.mark.parametrize("solvable", [False, None, "yes"])
def test_what_does_not_say_that_it_can_be_solved_is_left_out(root, solvable):
    path = paths(root)[0]
    edit(path, solvable=solvable)
    left = ids(games(root))
    # What is no boolean is a broken file, which stays in and is named when it is played.
    assert len(left) == (2 if solvable == "yes" else 1)


def test_sliced_things_and_movable_receptacles_are_left_out(root):
    moved(paths(root)[0], "pick_and_place_simple-AppleSliced-None-Fridge-1")
    moved(paths(root)[1], "pick_and_place_with_movable_recep-Apple-Bowl-Fridge-1")
    assert set(sizes(games(root))) == {"valid_seen", "valid_unseen"}


def test_kinds_of_tasks_can_be_chosen(root):
    moved(paths(root)[0], "look_at_obj_in_light-Mug-None-DeskLamp-301")
    moved(paths(root)[-1], "pick_two_obj_and_place-Mug-None-Shelf-301")
    assert [name.split("/")[2] for name in ids(games(root, task_types=["pick_two_obj_and_place"]))] == [
        "pick_two_obj_and_place-Mug-None-Shelf-301"
    ]
    with pytest.raises(ConfigError, match="task_types: juggle; known:"):
        games(root, task_types=["juggle"])


def test_the_kind_of_a_task_is_that_of_its_trajectory_then_that_of_its_folder(root):
    environment = games(root)
    beside = [path.with_name("traj_data.json") for path in paths(root)]
    edit(beside[0], task_type="said by the file")
    beside[1].unlink()
    kinds = [start(environment, index=index).observe().metadata.kind for index in (0, 1)]
    assert kinds == ["said by the file", paths(root)[1].parents[1].name.split("-")[0]]


def test_a_broken_trajectory_does_not_matter(root):
    for path in paths(root):
        path.with_name("traj_data.json").write_text("{")
    assert start(games(root)).observe().metadata.kind == paths(root)[0].parents[1].name.split("-")[0]


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda path: path.write_text(path.read_text()[:1000]), "truncated"),
        (lambda path: path.write_text("[]"), "Expected `object`, got `array`"),
        (lambda path: path.write_text('{"solvable": true}'), "missing required field `pddl_domain`"),
        (lambda path: edit(path, grammar=7), "Expected `str`, got `int` - at `\\$.grammar`"),
        (lambda path: path.write_bytes(b'{"solvable": true, "pddl_domain": "\xff"}'), "byte 0xff .* is not UTF-8"),
        (lambda path: edit(path, pddl_problem="(define"), "the text is cut short"),
        (lambda path: edit(path, pddl_domain="(define)"), "PDDL domain: action .* is missing: .*backend = 'textworld'"),
        (lambda path: edit(path, grammar="{}"), 'grammar: one rule "task"'),
    ],
)
def test_a_broken_game_is_named_when_it_is_played_and_the_others_are_not_touched(root, spoil, message):
    path = paths(root)[0]
    spoil(path)
    environment = games(root)
    assert sizes(environment)["train"] == 2
    with pytest.raises(TaskError, match=message) as refused:
        start(environment)
    assert str(refused.value).startswith(str(path))
    assert start(environment, index=1).observe().observation.text.startswith("-= Welcome")


def test_a_game_that_is_gone_is_named(root):
    environment = games(root)
    path = paths(root)[0]
    path.unlink()
    with pytest.raises(TaskError, match="No such file") as refused:
        start(environment)
    assert str(path) in str(refused.value)


def test_a_single_file_is_a_split_of_one_game(root):
    path = paths(root)[0]
    environment = games(path)
    assert sizes(environment) == {"train": 1}
    assert ids(environment) == ["alfworld/train/game"]
    assert start(environment).observe().metadata.kind in path.parents[1].name


def test_files_may_have_any_name_that_ends_right(root):
    path = paths(root)[0]
    path.rename(path.with_name("another.tw-pddl"))
    assert any(name.endswith("/another") for name in ids(games(root)))


@pytest.mark.parametrize("inner", ["json_2.1.1", "json_2.1.2"])
def test_alfworld_data_has_its_games_in_a_folder_of_their_own(root, monkeypatch, tmp_path, inner):
    (tmp_path / "data" / "logic").mkdir(parents=True)
    root.rename(tmp_path / "data" / inner)
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "data"))
    environment = load("test", "alfworld", {})
    assert sizes(environment) == {"train": 2, "valid_seen": 2, "valid_unseen": 2}
    assert ids(environment)[0].count("/") == 3, "the folder is no part of a game's name"


def test_without_games_it_says_what_was_looked_for(tmp_path):
    with pytest.raises(
        ConfigError, match=r"no game that can be played: <split>/<task>/<trial>/game.tw-pddl"
    ) as refused:
        games(tmp_path)
    assert str(tmp_path) in str(refused.value)
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        games(tmp_path / "nowhere")


def test_whoever_named_the_folder_is_told(tmp_path, monkeypatch):
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "away"))
    with pytest.raises(ConfigError, match=r"^ALFWORLD_DATA: .*away: no such file or folder"):
        load("test", "alfworld", {})
    with pytest.raises(ConfigError, match=r"^\[environment\.options\] games: .*gone: no such file or folder"):
        load("[environment]", "alfworld", {"games": str(tmp_path / "gone")})


def test_info_says_whether_the_games_are_official(root):
    assert load("test", "alfworld", SMALL).info.data.official is False
    exported = games(root).info.data
    assert exported.official is False
    assert str(root) in exported.description
    first = paths(root)[0]
    problem = json.loads(first.read_text())["pddl_problem"]
    edit(first, pddl_problem=problem.replace("(problem made)", "(problem plan_trial_T20190908_231731_054988)"))
    assert games(root).info.data.official is True
    edit(first, pddl_problem=problem.replace("(problem made)", "(problem kitchen)"))
    assert games(root).info.data.official is None
