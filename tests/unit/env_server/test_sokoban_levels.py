"""Level files, bounds on pushes, and the curriculum."""

import pytest

from arlarena.env_server.environment import load
from arlarena.env_server.sokoban.levels import blocks, load_levels
from arlarena.env_server.sokoban.room import Room
from arlarena.env_server.sokoban.rooms import generate
from arlarena.env_server.sokoban.solver import least_pushes
from arlarena.env_server.sokoban.splits import split_of
from arlarena.env_server.sokoban.symmetry import plan_hash, room_hash
from arlarena.proto.config import ConfigError
from arlarena.proto.env import ResetSpec

XSB = str.maketrans("_OX√PS", " .$*@+")


def level_file(path, rooms):
    text = "".join(f"; {i}\n" + "\n".join(room.rows()).translate(XSB) + "\n\n" for i, room in enumerate(rooms))
    path.write_text(text)
    return path


def test_blocks_end_at_empty_lines_and_at_semicolons():
    assert blocks("; 0\n##\n#@\n; 1\n#$\n\n\n #.\n") == [(2, "##\n#@"), (5, "#$"), (8, " #.")]


def test_levels_come_by_split_in_order_and_once(tmp_path):
    rooms = [generate(7, 7, 1, seed) for seed in range(60)]
    mirrored = Room.parse("\n".join(row[::-1] for row in rooms[0].rows()))
    level_file(tmp_path / "a.txt", rooms[:40])
    level_file(tmp_path / "b.txt", [mirrored, *rooms[40:]])
    found = load_levels(tmp_path)
    together = [room for split in found.values() for room in split]
    assert len({room_hash(room) for room in together}) == len(together)
    assert {room_hash(room) for room in together} == {room_hash(room) for room in rooms}
    assert mirrored not in together or rooms[0] not in together
    for split, its_rooms in found.items():
        assert all(split_of(room) == split for room in its_rooms)
    plans = [{plan_hash(room) for room in its_rooms} for its_rooms in found.values()]
    assert not (plans[0] & plans[1] | plans[0] & plans[2] | plans[1] & plans[2])


def test_an_environment_of_levels(tmp_path):
    path = level_file(tmp_path / "levels.txt", [generate(7, 7, 1, seed) for seed in range(60)])
    made = load("test", "sokoban", {"levels": str(path), "max_steps": 40})
    sizes = {split.name: split.size for split in made.info.splits}
    assert all(sizes.values())
    assert sum(sizes.values()) <= 60
    episode = made.start(made.task(ResetSpec(split="test", index=sizes["test"] - 1)))
    for reply in episode.expert():
        result = episode.step(reply)
    assert result.metadata.success
    with pytest.raises(Exception, match="the index is at most"):
        made.task(ResetSpec(split="test", index=sizes["test"]))


def test_boxoban_itself(shared_data):
    path = shared_data / "sokoban" / "boxoban_unfiltered_test_000.txt"
    found = load_levels(path)
    assert sum(map(len, found.values())) == 1000
    assert all(room.boxes.bit_count() == 4 for room in found["test"])
    made = load("test", "sokoban", {"levels": str(path), "max_steps": 200})
    assert made.start(made.task(ResetSpec(split="train", index=0))).observe().observation.text.count("\n") == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("; 0\n####\n#@?#\n####\n", r"levels\.txt, the level of line 2: unknown glyph '\?'"),
        ("; 0\n#####\n#@$.#\n#####\n\n; 1\n#####\n#@$ #\n#####\n", "the level of line 7: 1 boxes but 0 targets"),
        ("; 0\n#####\n#@$.#\n#####\n", "none of its 1 levels falls into"),
        ("", "none of its 0 levels"),
    ],
)
def test_levels_that_are_none_are_named(tmp_path, text, message):
    (tmp_path / "levels.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load("test", "sokoban", {"levels": str(tmp_path / "levels.txt")})


def test_other_mistakes_with_levels_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read as levels"):
        load("test", "sokoban", {"levels": str(tmp_path / "nothing.txt")})
    with pytest.raises(ConfigError, match="holds no level file"):
        load("test", "sokoban", {"levels": str(tmp_path)})
    path = level_file(tmp_path / "levels.txt", [generate(7, 7, 1, seed) for seed in range(60)])
    with pytest.raises(ConfigError, match="leave out boxes"):
        load("test", "sokoban", {"levels": str(path), "boxes": 2})


def room_at(made, split, index):
    return made.game(made.task(ResetSpec(split=split, index=index))).room


def test_bounds_on_pushes():
    made = load("test", "sokoban", {"size": 7, "min_pushes": 3, "max_pushes": 4})
    for split in ("train", "test"):
        assert {least_pushes(room_at(made, split, index)).pushes for index in range(12)} <= {3, 4}
    with pytest.raises(ConfigError, match="min_pushes = 4, max_pushes = 3"):
        load("test", "sokoban", {"min_pushes": 4, "max_pushes": 3})


def test_a_curriculum_rises_in_training_alone():
    options = {"size": 7, "max_pushes": 5, "curriculum": {"first": 100, "tasks": 80}}
    made = load("test", "sokoban", options)

    def most(split, indices):
        return max(least_pushes(room_at(made, split, index)).pushes for index in indices)

    assert most("train", range(0, 10)) == 1
    assert most("train", range(100, 110)) == 1
    assert most("train", range(130, 150)) == 3
    assert most("train", range(180, 230)) == 5
    assert most("test", range(40)) == 5
    with pytest.raises(ConfigError, match="needs max_pushes"):
        load("test", "sokoban", {"curriculum": {}})
