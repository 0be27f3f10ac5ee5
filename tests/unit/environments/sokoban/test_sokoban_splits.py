"""Splits are disjoint modulo symmetry, evaluation rooms are distinct, and an index always gives the same room."""

import pytest

from arlarena.environments.sokoban import splits
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.rooms import RoomsExhausted, generate
from arlarena.environments.sokoban.solver import least_moves
from arlarena.environments.sokoban.splits import EVALUATION_SPLITS, SPLITS, EvalRooms, RoomOptions, room_for, split_of
from arlarena.environments.sokoban.symmetry import crop, floor_plan_hash, images, room_hash

SMALL = RoomOptions(max_moves=12)


def rotated(rows):
    return ["".join(row[x] for row in reversed(rows)) for x in range(len(rows[0]))]


def eight_images(room):
    """All images by rotations and a reflection, independent of the code under test."""
    out, rows = [], room.rows()
    for _ in range(4):
        rows = rotated(rows)
        out += [rows, [row[::-1] for row in rows]]
    return [Room.parse("\n".join(image)) for image in out]


def test_every_image_of_a_room_has_its_hash_and_split():
    for seed in range(600):
        room = generate(6, 6, 1, seed) if seed % 3 else generate(6, 8, 2, seed)
        own = eight_images(room)
        assert {room_hash(image) for image in own} == {room_hash(room)}
        assert {floor_plan_hash(image) for image in own} == {floor_plan_hash(room)}
        assert {split_of(image) for image in own} == {split_of(room)}


def test_the_images_are_the_eight_symmetries():
    grid = ("ab_", "c__")
    mine = {tuple(image) for image in images(grid)}
    theirs = set()
    rows = list(grid)
    for _ in range(4):
        rows = rotated(rows)
        theirs |= {tuple(rows), tuple(row[::-1] for row in rows)}
    assert mine == theirs
    assert len(mine) == 8


def test_a_room_moved_inside_its_frame_keeps_its_plan():
    assert crop(["####", "#P##", "#XO#", "####"]) == ("P#", "XO")
    corner = Room.parse("######\n#PXO##\n#___##\n######\n######")
    moved = Room.parse("#######\n#######\n###PXO#\n###___#\n#######")
    widened = Room.parse("######\n#PXO##\n#____#\n######\n######")
    assert floor_plan_hash(moved) == floor_plan_hash(corner)
    assert floor_plan_hash(widened) != floor_plan_hash(corner)


def test_rooms_that_differ_have_different_hashes():
    rooms = {tuple(generate(6, 6, 1, seed).rows()) for seed in range(300)}
    smallest = {min(tuple(image.rows()) for image in eight_images(Room.parse("\n".join(rows)))) for rows in rooms}
    assert len({room_hash(Room.parse("\n".join(rows))) for rows in rooms}) == len(smallest)


def test_the_split_depends_on_walls_and_targets_alone():
    room = Room.parse("######\n#P_X_#\n#__O_#\n#____#\n######")
    moved = Room.parse("######\n#____#\n#_XO_#\n#___P#\n######")
    assert floor_plan_hash(room) == floor_plan_hash(moved)
    assert room_hash(room) != room_hash(moved)


# Ten thousand rooms take five seconds, so that case is slow.
@pytest.mark.parametrize("count", [2_000, pytest.param(10_000, marks=pytest.mark.slow)])
def test_no_evaluation_room_occurs_in_training(count):
    rooms = [room_for(split, index, SMALL) for split in EVALUATION_SPLITS for index in range(256)]
    held_out, held_out_plans = set(map(room_hash, rooms)), set(map(floor_plan_hash, rooms))
    assert len(held_out) == 512
    training = [room_for("train", index, SMALL) for index in range(count)]
    assert not held_out & {room_hash(room) for room in training}
    assert not held_out_plans & {floor_plan_hash(room) for room in training}
    # Without splits they would overlap: plain seeds do produce held-out rooms.
    assert held_out & {room_hash(generate(6, 6, 1, seed)) for seed in range(2_000)}


def test_validation_and_test_are_disjoint():
    eval_sets = {
        split: {room_hash(room_for(split, index, SMALL)) for index in range(200)} for split in EVALUATION_SPLITS
    }
    assert all(len(eval_set) == 200 for eval_set in eval_sets.values())
    assert not eval_sets["validation"] & eval_sets["test"]


def test_every_room_belongs_to_its_split():
    for split in SPLITS:
        assert {split_of(room_for(split, index, SMALL)) for index in range(60)} == {split}


def test_an_index_gives_the_same_room_in_any_order():
    forwards, backwards = EvalRooms("test", SMALL), EvalRooms("test", SMALL)
    ahead = [forwards.room(index) for index in range(25)]
    assert [backwards.room(index) for index in reversed(range(25))][::-1] == ahead
    assert [room_for("test", index, SMALL) for index in range(25)] == ahead


def test_training_rooms_vary():
    assert len({room_for("train", index, SMALL) for index in range(300)}) > 150


def test_filters_bound_the_optimal_solution():
    options = RoomOptions(min_moves=4, max_moves=6)
    for split in SPLITS:
        lengths = {len(least_moves(room_for(split, index, options)).moves) for index in range(40)}
        assert lengths <= {4, 5, 6}
        assert len(lengths) > 1


def test_options_select_other_rooms():
    other = RoomOptions(height=7, width=6, max_moves=12)
    assert room_for("train", 0, other).height == 7


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"min_moves": 5, "max_moves": 3}, "min_moves = 5"),
        ({"height": 3}, "at least 5 rows"),
        ({"boxes": 9}, "boxes do not fit"),
    ],
)
def test_impossible_options_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        RoomOptions(**values)


@pytest.mark.parametrize(
    ("split", "index", "message"), [("dev", 0, "unknown split 'dev'"), ("train", -1, "at least 0")]
)
def test_impossible_tasks_are_refused(split, index, message):
    with pytest.raises(ValueError, match=message):
        room_for(split, index, SMALL)


def test_an_exhausted_split_is_an_error(monkeypatch):
    monkeypatch.setattr(splits, "MAX_DRAFTS", 300)
    with pytest.raises(RoomsExhausted, match="min_moves = 40"):
        room_for("test", 0, RoomOptions(min_moves=40))
