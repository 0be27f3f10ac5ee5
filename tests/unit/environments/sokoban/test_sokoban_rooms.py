"""Generated rooms: pure functions of their seed, with the original's distribution, and well formed."""

import json
import os
import subprocess
import sys
from collections import Counter
from random import Random

import pytest

from arlarena.environments.sokoban.room import Room, RoomError, cells, interior
from arlarena.environments.sokoban.rooms import carve, draw_layout, generate, play_backwards, random_for
from arlarena.environments.sokoban.solver import least_moves, least_pushes

GOLDEN = {
    (6, 6, 1, 0): "######\n##P__#\n#_X__#\n#____#\n#__O##\n######",
    (6, 6, 1, 12345): "######\n#____#\n#PX__#\n###__#\n###O_#\n######",
    (7, 9, 2, 3): "#########\n#___O_###\n#_X___###\n##___O###\n###X_####\n###P____#\n#########",
}

ELSEWHERE = """
import json, sys
from arlarena.environments.sokoban.rooms import generate
from arlarena.environments.sokoban.splits import RoomOptions, room_for
rooms = [generate(6, 6, 1, seed).rows() for seed in range(40)]
rooms += [room_for(split, 9, RoomOptions(max_moves=12)).rows() for split in ("test", "train", "validation")]
json.dump(rooms, sys.stdout)
"""


@pytest.mark.parametrize("hash_seed", ["0", "1", "4711"])
def test_rooms_do_not_depend_on_the_process(hash_seed):
    from arlarena.environments.sokoban.splits import RoomOptions, room_for

    here = [generate(6, 6, 1, seed).rows() for seed in reversed(range(40))][::-1]
    here += [room_for(split, 9, RoomOptions(max_moves=12)).rows() for split in ("test", "train", "validation")]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(done.stdout) == here


@pytest.mark.parametrize("key", GOLDEN)
def test_generated_rooms_do_not_change(key):
    assert "\n".join(generate(*key).rows()) == GOLDEN[key]


def test_rooms_differ_by_every_argument():
    rooms = {generate(*key).rows().__str__() for key in [(6, 6, 1, 0), (6, 6, 1, 1), (7, 6, 1, 0), (6, 7, 1, 0)]}
    assert len(rooms) == 4


@pytest.mark.parametrize(("height", "width", "boxes"), [(6, 6, 1), (5, 9, 2), (8, 6, 3), (5, 5, 1)])
def test_rooms_are_well_formed_and_solvable(height, width, boxes):
    for seed in range(40):
        room = generate(height, width, boxes, seed)
        assert (room.height, room.width, room.boxes.bit_count()) == (height, width, boxes)
        assert not room.boxes & room.targets
        assert not room.targets >> room.player & 1
        assert least_pushes(room) is not None


@pytest.mark.parametrize(("size", "boxes"), [((4, 6), 1), ((6, 4), 1), ((6, 6), 0), ((6, 6), 8), ((5, 5), 5)])
def test_impossible_sizes_are_refused(size, boxes):
    with pytest.raises(ValueError, match=r"at least 5 rows|boxes do not fit"):
        generate(*size, boxes, 0)


def test_floor_is_connected_and_inside():
    for seed in range(200):
        floor = carve(Random(seed), 8, 7)
        assert floor
        assert not floor & ~interior(8, 7)
        start = next(cells(floor))
        reached, frontier = {start}, [start]
        while frontier:
            cell = frontier.pop()
            for step in (1, -1, 7, -7):
                if floor >> cell + step & 1 and cell + step not in reached:
                    reached.add(cell + step)
                    frontier.append(cell + step)
        assert reached == set(cells(floor))


def naive_reverse_play(layout):
    """The search of the generator's docstring as a simple recursion on grids: slow, but easy to check."""
    width = layout.width
    floor, targets = set(cells(layout.floor)), layout.targets
    best = {"score": 0, "room": None}
    seen = set()

    def visit(player, owners, fresh, pulls, left):
        # owners: target -> current cell of its box
        state = (player, frozenset(owners.values()), fresh)
        if left == 0 or len(seen) >= 300_000 or state in seen:
            return
        seen.add(state)
        distance = sum(abs(b // width - t // width) + abs(b % width - t % width) for t, b in owners.items())
        covered = {player, *owners.values()} & set(targets)
        if not covered and pulls * distance > best["score"]:
            best["score"], best["room"] = pulls * distance, (player, frozenset(owners.values()))
        for pulling in (True, False):
            for step in (-width, width, -1, 1):
                ahead, behind = player + step, player - step
                if ahead not in floor or ahead in owners.values():
                    continue
                if pulling and behind in owners.values():
                    moved = {t: player if b == behind else b for t, b in owners.items()}
                    visit(ahead, moved, fresh - {behind}, pulls + 1, left - 1)
                else:
                    visit(ahead, owners, fresh, pulls, left - 1)

    visit(layout.player, {t: t for t in targets}, frozenset(targets), 0, 299)
    return best["room"]


@pytest.mark.parametrize(("height", "width", "boxes", "drafts"), [(6, 6, 1, 120), (6, 6, 2, 8), (5, 7, 2, 12)])
def test_reverse_play_equals_a_naive_search(height, width, boxes, drafts):
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(10_000)
    found = 0
    try:
        for seed in range(drafts):
            layout = draw_layout(random_for("naive", height, width, boxes, seed), height, width, boxes)
            if layout is None:
                continue
            room, expected = play_backwards(layout), naive_reverse_play(layout)
            assert (room is None) == (expected is None)
            if room and expected:
                assert (room.player, frozenset(cells(room.boxes))) == expected
                found += 1
    finally:
        sys.setrecursionlimit(limit)
    assert found


# Shares of 4,000 rooms of gym-sokoban 0.0.6, 6x6 with 1 box, by their least number of pushes.
ORIGINAL_SHARES = {1: 0.28475, 2: 0.41075, 3: 0.23675, 4: 0.06775, 5: 0.0}


def test_least_pushes_follow_the_original():
    count = 3000
    pushes = Counter(least_pushes(generate(6, 6, 1, seed)).pushes for seed in range(count))
    for number, share in ORIGINAL_SHARES.items():
        # Four standard errors of the difference between samples of 4,000 and 3,000.
        spread = 4 * (share * (1 - share) * (1 / 4000 + 1 / count)) ** 0.5
        assert abs(pushes[number] / count - share) < spread + 1e-3, number


def test_parsing_and_rendering_are_inverse():
    for seed in range(30):
        room = generate(7, 6, 2, seed)
        assert Room.parse("\n".join(room.rows())) == room


def test_boxoban_levels_are_read(boxoban_file):
    text = boxoban_file.read_text()
    level = Room.parse(text.split("; 1")[0].split("\n", 1)[1])
    assert (level.height, level.width, level.boxes.bit_count()) == (10, 10, 4)
    assert least_moves(level) is not None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("#####\n#?PX#\n#####", "unknown glyph"),
        ("#####\n#_XO#\n#####", "one player"),
        ("#####\n#PXX#\n##O##\n#####", "2 boxes and 1 targets"),
        ("#####\n#P__#\n#####", "0 boxes"),
        ("##P##\n#_XO#\n#####", "border"),
        ("", "one player"),
    ],
)
def test_broken_rooms_are_refused(text, message):
    with pytest.raises(RoomError, match=message):
        Room.parse(text)
