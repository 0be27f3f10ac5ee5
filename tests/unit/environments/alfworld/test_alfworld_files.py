"""Folders of games: which games are found, their names, and errors of broken games."""

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
    """A copy of them to damage."""
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
    """Copy the game to a sibling folder."""
    target = path.parents[2] / folder / path.parent.name
    target.parent.mkdir(exist_ok=True)
    return shutil.move(path.parent, target)


def start(environment, split="train", index=0):
    return environment.start(environment.task(ResetSpec(split=split, index=index)))


def test_games_are_named_by_their_folders_and_sorted(root):
    environment = games(root)
    assert sizes(environment) == {"train": 2, "valid_seen": 2, "valid_unseen": 2}
    assert ids(environment) == [f"alfworld/train/{p.parent.parent.name}/{p.parent.name}" for p in paths(root)]
    assert ids(environment) == sorted(ids(environment))
    assert environment.info.version == "files-1"


def test_a_game_is_found_by_name_and_by_index(root):
    environment = games(root)
    for at, name in enumerate(ids(environment, "valid_unseen")):
        by_name = environment.task(ResetSpec(task_id=name))
        assert by_name == environment.task(ResetSpec(task_id=f"alfworld/valid_unseen/{at}"))
        assert (by_name.id, by_name.index, by_name.split) == (name, at, "valid_unseen")
        assert environment.start(by_name).observe().metadata.task_id == name


@pytest.mark.parametrize(
    "name", ["alfworld/train/nowhere/trial_0", "alfworld/test/0", "alfworld/train/2", "sokoban/train/0"]
)
def test_an_unknown_name_is_no_game(root, name):
    with pytest.raises(TaskError):
        games(root).task(ResetSpec(task_id=name))


def test_an_unknown_split_is_named(root):
    with pytest.raises(TaskError, match="unknown split 'test'; known: train, valid_seen, valid_unseen"):
        games(root).task(ResetSpec(split="test"))


def test_a_split_without_games_is_not_listed(root):
    shutil.rmtree(root / "valid_seen")
    for path in paths(root, "valid_unseen"):
        edit(path, solvable=False)
    assert sizes(games(root)) == {"train": 2}


def test_other_folders_are_training_games_only_without_split_folders(root):
    (root / "train").rename(root / "spring")
    assert set(sizes(games(root))) == {"valid_seen", "valid_unseen"}
    for split in ("valid_seen", "valid_unseen"):
        shutil.rmtree(root / split)
    assert sizes(games(root)) == {"train": 2}
    assert ids(games(root))[0].startswith("alfworld/train/spring/")


@pytest.mark.parametrize("solvable", [False, None, "yes"])
def test_games_not_marked_solvable_are_left_out(root, solvable):
    path = paths(root)[0]
    edit(path, solvable=solvable)
    left = ids(games(root))
    # Another type than a boolean is a broken file, which is included and named when played.
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
    with pytest.raises(ConfigError, match="task_types: unknown kinds of tasks juggle; known:"):
        games(root, task_types=["juggle"])


def test_the_kind_comes_from_the_trajectory_then_from_the_folder(root):
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
        (lambda path: edit(path, pddl_problem="(define"), "the text may be truncated"),
        (lambda path: edit(path, pddl_domain="(define)"), "PDDL domain: action .* is missing: .*backend = 'textworld'"),
        (lambda path: edit(path, grammar="{}"), 'grammar: one rule "task"'),
    ],
)
def test_a_broken_game_is_named_when_played_and_others_still_work(root, spoil, message):
    path = paths(root)[0]
    spoil(path)
    environment = games(root)
    assert sizes(environment)["train"] == 2
    with pytest.raises(TaskError, match=message) as refused:
        start(environment)
    assert str(refused.value).startswith(str(path))
    assert start(environment, index=1).observe().observation.text.startswith("-= Welcome")


def test_a_deleted_game_is_named(root):
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


def test_files_may_have_any_name_with_the_right_suffix(root):
    path = paths(root)[0]
    path.rename(path.with_name("another.tw-pddl"))
    assert any(name.endswith("/another") for name in ids(games(root)))


@pytest.mark.parametrize("inner", ["json_2.1.1", "json_2.1.2"])
def test_games_are_found_in_the_inner_folder_of_alfworld_data(root, monkeypatch, tmp_path, inner):
    (tmp_path / "data" / "logic").mkdir(parents=True)
    root.rename(tmp_path / "data" / inner)
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path / "data"))
    environment = load("test", "alfworld", {})
    assert sizes(environment) == {"train": 2, "valid_seen": 2, "valid_unseen": 2}
    assert ids(environment)[0].count("/") == 3, "the folder is no part of a game's name"


def test_without_games_the_error_names_the_expected_files(tmp_path):
    with pytest.raises(ConfigError, match=r"no playable game: expected <split>/<task>/<trial>/game.tw-pddl") as refused:
        games(tmp_path)
    assert str(tmp_path) in str(refused.value)
    with pytest.raises(ConfigError, match="nowhere: no such file or folder"):
        games(tmp_path / "nowhere")


def test_the_error_names_the_option_or_variable_of_the_folder(tmp_path, monkeypatch):
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
