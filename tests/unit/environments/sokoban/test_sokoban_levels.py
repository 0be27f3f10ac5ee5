"""Level files, bounds on pushes, and the curriculum."""

import pytest

from arlarena.environment.registry import load
from arlarena.environments.sokoban.levels import blocks, load_levels
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.rooms import generate
from arlarena.environments.sokoban.solver import least_pushes
from arlarena.environments.sokoban.splits import split_of
from arlarena.environments.sokoban.symmetry import floor_plan_hash, room_hash
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import ResetSpec

XSB = str.maketrans("_OX√PS", " .$*@+")


def level_file(path, rooms):
    text = "".join(f"; {i}\n" + "\n".join(room.rows()).translate(XSB) + "\n\n" for i, room in enumerate(rooms))
    path.write_text(text)
    return path


def test_blocks_end_at_empty_lines_and_at_semicolons():
    assert blocks("; 0\n##\n#@\n; 1\n#$\n\n\n #.\n") == [(2, "##\n#@"), (5, "#$"), (8, " #.")]


def test_levels_are_split_ordered_and_distinct(tmp_path):
    rooms = [generate(7, 7, 1, seed) for seed in range(60)]
    mirrored = Room.parse("\n".join(row[::-1] for row in rooms[0].rows()))
    level_file(tmp_path / "a.txt", rooms[:40])
    level_file(tmp_path / "b.txt", [mirrored, *rooms[40:]])
    found = load_levels(tmp_path).splits
    together = [room for split in found.values() for room in split]
    assert len({room_hash(room) for room in together}) == len(together)
    assert {room_hash(room) for room in together} == {room_hash(room) for room in rooms}
    assert mirrored not in together or rooms[0] not in together
    for split, its_rooms in found.items():
        assert all(split_of(room) == split for room in its_rooms)
    plans = [{floor_plan_hash(room) for room in its_rooms} for its_rooms in found.values()]
    assert not (plans[0] & plans[1] | plans[0] & plans[2] | plans[1] & plans[2])


def test_an_environment_plays_level_files(tmp_path):
    path = level_file(tmp_path / "levels.txt", [generate(7, 7, 1, seed) for seed in range(60)])
    made = load("test", "sokoban", {"levels": str(path), "max_steps": 40})
    assert "#######\n#" in made.info.vocabulary  # borders of the levels' width
    sizes = {split.name: split.size for split in made.info.splits}
    assert all(sizes.values())
    assert sum(sizes.values()) <= 60
    episode = made.start(made.task(ResetSpec(split="test", index=sizes["test"] - 1)))
    for reply in episode.expert():
        result = episode.step(reply)
    assert result.metadata.success
    with pytest.raises(Exception, match="the index must be at most"):
        made.task(ResetSpec(split="test", index=sizes["test"]))


def test_boxoban_files_are_split_without_overlap(boxoban_file):
    levels = load_levels(boxoban_file)
    found = levels.splits
    assert (sum(map(len, found.values())), levels.left_out) == (64, ())
    assert all(room.boxes.bit_count() == 4 for room in found["test"])
    made = load("test", "sokoban", {"levels": str(boxoban_file), "max_steps": 200})
    assert made.start(made.task(ResetSpec(split="train", index=0))).observe().observation.text.count("\n") == 9


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("; 0\n####\n#@?#\n####\n", r"levels\.txt, the level of line 2: unknown glyph '\?'"),
        ("; 0\n#####\n#@$.#\n#####\n\n; 1\n#####\n#@$ #\n#####\n", "the level of line 7: .* 1 boxes and 0 targets"),
        ("; 0\n#####\n#@$.#\n#####\n", "none of its 1 levels belongs to the split"),
        ("", "none of its levels can be played"),
        ("; 0\n#####\n#@ *#\n#####\n", "none of its levels can be played.*line 2: it is solved at the start"),
        ("; 0\n#####\n#$@.#\n#####\n", "none of its levels can be played.*line 2: it cannot be solved"),
    ],
)
def test_invalid_levels_are_named(tmp_path, text, message):
    (tmp_path / "levels.txt").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load("test", "sokoban", {"levels": str(tmp_path / "levels.txt")})


def test_other_mistakes_with_levels_are_explained(tmp_path):
    with pytest.raises(ConfigError, match="cannot be read"):
        load("test", "sokoban", {"levels": str(tmp_path / "nothing.txt")})
    with pytest.raises(ConfigError, match="contains no level file"):
        load("test", "sokoban", {"levels": str(tmp_path)})
    path = level_file(tmp_path / "levels.txt", [generate(7, 7, 1, seed) for seed in range(60)])
    with pytest.raises(ConfigError, match="remove boxes"):
        load("test", "sokoban", {"levels": str(path), "boxes": 2})


def room_at(made, split, index):
    return made.game(made.task(ResetSpec(split=split, index=index))).room


def test_bounds_on_pushes_are_respected():
    made = load("test", "sokoban", {"size": 7, "min_pushes": 3, "max_pushes": 4})
    for split in ("train", "test"):
        assert {least_pushes(room_at(made, split, index)).pushes for index in range(12)} <= {3, 4}
    with pytest.raises(ConfigError, match="min_pushes = 4, max_pushes = 3"):
        load("test", "sokoban", {"min_pushes": 4, "max_pushes": 3})


def test_a_curriculum_rises_only_in_training():
    options = {"size": 7, "max_pushes": 5, "curriculum": {"first": 100, "tasks": 80}}
    made = load("test", "sokoban", options)

    def most(split, indices):
        return max(least_pushes(room_at(made, split, index)).pushes for index in indices)

    assert most("train", range(0, 10)) == 1
    assert most("train", range(100, 110)) == 1
    assert most("train", range(130, 150)) == 3
    assert most("train", range(180, 230)) == 5
    assert most("test", range(40)) == 5
    with pytest.raises(ConfigError, match="curriculum: set max_pushes"):
        load("test", "sokoban", {"curriculum": {}})


GOOD = [generate(7, 7, 1, seed) for seed in range(60)]
UNPLAYABLE = {
    "it is solved at the start": "#####\n#@ *#\n#####",
    "it is solved at the start ": "######\n#@*  #\n######",
    "it cannot be solved": "#####\n#$@.#\n#####",
    "it cannot be solved ": "#######\n#@ #$ #\n#  #. #\n#######",  # the player cannot reach the box
    "it cannot be solved  ": "#######\n#.. @ #\n#  $$ #\n#######",  # side by side along a wall
    "a room must have one player, but this room has 0": "#####\n# $.#\n#####",
    "a room must have one player, but this room has 2": "######\n#@$.@#\n######",
    "2 boxes and 1 targets": "######\n#@$$.#\n######",
    "0 boxes and 0 targets": "#####\n#@  #\n#####",
    "an opening leads from the border to the inside": "#####\n#@$. \n#####",
    "unknown glyph 'T' in row 0": "Title: corridor",
}


@pytest.mark.parametrize("line_end", ["\n", "\r\n", "\r"])
def test_unplayable_levels_are_named_and_others_are_played(tmp_path, line_end):
    path = level_file(tmp_path / "levels.txt", GOOD)
    spoiled = "".join(f"; {reason}\n{grid}\n\n" for reason, grid in UNPLAYABLE.items())
    (tmp_path / "more.txt").write_bytes((spoiled + path.read_text()).replace("\n", line_end).encode())
    clean, mixed = load_levels(path), load_levels(tmp_path / "more.txt")
    assert mixed.splits == clean.splits
    assert len(mixed.left_out) == len(UNPLAYABLE)
    for reason, grid in UNPLAYABLE.items():
        line = spoiled[: spoiled.index(grid)].count("\n") + 1
        place = f"more.txt, the level of line {line}: "
        assert any(place in named and reason.strip() in named for named in mixed.left_out), (reason, line)
    made = load("test", "sokoban", {"levels": str(tmp_path / "more.txt"), "max_steps": 60})
    (warning,) = made.warnings
    assert warning.startswith(f"levels: {len(UNPLAYABLE)} are left out: ")
    assert warning.endswith("; and 1 more")


def test_blank_cells_around_a_room_are_not_floor():
    room = Room.parse("  #####\n###   #\n#.@$  #\n#  ####\n####")
    assert room == Room.parse("#######\n###   #\n#.@$  #\n#  ####\n#######")


def test_a_level_too_hard_to_judge_is_played(tmp_path):
    floor = "#" + " " * 14 + "#\n"
    hard = "#" * 16 + "\n" + floor + "#@ $ $ $ $ $ $ #\n" + 3 * floor + "# . . . . . .   #\n" + floor + "#" * 16 + "\n"
    path = level_file(tmp_path / "levels.txt", GOOD)
    path.write_text("; hard\n" + hard + "\n" + path.read_text())
    levels = load_levels(path)
    assert levels.left_out == ()
    assert Room.parse(hard) in [room for members in levels.splits.values() for room in members]


def test_a_horizon_that_most_levels_exceed_is_a_warning(tmp_path):
    corridors = [
        Room.parse(
            "#################\n#" + "".join("# "[i >> bit & 1] for bit in range(6)) + " #########\n"
            "#################\n#@ $          . #\n#################"
        )
        for i in range(40)
    ]
    path = str(level_file(tmp_path / "levels.txt", corridors))
    (warning,) = load("test", "sokoban", {"levels": path, "max_steps": 10}).warnings
    assert "can be solved in max_steps = 10 moves; the median solution has 12 moves" in warning
    assert warning.startswith("levels: 0 of ")
    assert load("test", "sokoban", {"levels": path, "max_steps": 12}).warnings == []


def test_boxoban_with_the_default_horizon_is_a_warning(boxoban_file):
    (warning,) = load("test", "sokoban", {"levels": str(boxoban_file)}).warnings
    assert "levels: 1 of 32 sampled levels (of 64) can be solved in max_steps = 15 moves" in warning
