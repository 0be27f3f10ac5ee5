"""Plans are optimal, compared with independent searches, and solve the room when played."""

import itertools
from collections import deque

import pytest

from arlarena.environments.sokoban import expert
from arlarena.environments.sokoban.game import advance, start_of
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.rooms import generate
from arlarena.environments.sokoban.solver import SearchLimit, least_moves, least_pushes

ROOMS = [generate(6, 6, 1, seed) for seed in range(120)]
ROOMS += [generate(6, 6, 2, seed) for seed in range(15)] + [generate(5, 7, 1, seed) for seed in range(30)]
STUCK = Room.parse("#####\n#XP_#\n#__O#\n#####")


def brute_force(room, cost):
    """Least total cost over (player, boxes) by 0-1 breadth-first search on text coordinates; cost(pushed) is 0 or 1."""
    rows = room.rows()
    at = {(y, x): letter for y, row in enumerate(rows) for x, letter in enumerate(row)}
    walls = {place for place, letter in at.items() if letter == "#"}
    goals = frozenset(place for place, letter in at.items() if letter in "O√S")
    boxes = frozenset(place for place, letter in at.items() if letter in "X√")
    player = next(place for place, letter in at.items() if letter in "PS")
    distance = {(player, boxes): 0}
    queue = deque([(player, boxes)])
    best = None
    while queue:
        state = queue.popleft()
        (y, x), present = state
        if present == goals:
            best = distance[state] if best is None else min(best, distance[state])
            continue
        for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
            ahead, beyond = (y + dy, x + dx), (y + 2 * dy, x + 2 * dx)
            if ahead in walls:
                continue
            pushed = ahead in present
            if pushed and (beyond in walls or beyond in present):
                continue
            following = (ahead, present - {ahead} | {beyond} if pushed else present)
            total = distance[state] + cost(pushed)
            if total < distance.get(following, 1 << 30):
                distance[following] = total
                (queue.append if cost(pushed) else queue.appendleft)(following)
    return best


def test_fewest_moves_are_optimal():
    assert [len(least_moves(room).moves) for room in ROOMS] == [brute_force(room, lambda pushed: 1) for room in ROOMS]


def test_fewest_pushes_are_optimal():
    assert [least_pushes(room).pushes for room in ROOMS] == [brute_force(room, int) for room in ROOMS]


@pytest.mark.parametrize("solve", [least_moves, least_pushes])
def test_plans_solve_the_room_when_played(solve):
    for room in ROOMS:
        plan = solve(room)
        states = [start_of(room)]
        for move in plan.moves:
            states.append(advance(room, states[-1], move))
        assert states[-1].boxes == room.targets
        assert all(before.player != after.player for before, after in itertools.pairwise(states))
        assert sum(before.boxes != after.boxes for before, after in itertools.pairwise(states)) == plan.pushes


@pytest.mark.parametrize("solve", [least_moves, least_pushes])
def test_an_unsolvable_room_has_no_plan(solve):
    assert solve(STUCK) is None


def test_a_limit_excludes_longer_plans_only():
    for room in ROOMS[:40]:
        length = len(least_moves(room).moves)
        assert len(least_moves(room, limit=length).moves) == length
        assert least_moves(room, limit=length - 1) is None


def test_a_search_beyond_its_limit_raises():
    with pytest.raises(SearchLimit, match="50 visited states"):
        least_moves(generate(10, 10, 4, 1), max_states=50)


def test_a_solved_room_has_an_empty_plan():
    room = Room.parse("#####\n#P√_#\n#####")
    assert least_moves(room).moves == ()


def test_the_experts_thought_is_its_next_push():
    room = Room.parse("######\n#_P__#\n#__X_#\n#__O_#\n######")
    plan = expert.plan_for(room, start_of(room))
    said = expert.replies(room, start_of(room), plan.moves, "push")
    assert plan.moves == ("right", "down")
    assert said == [
        "<think>push down</think><action>right</action>",
        "<think>push down</think><action>down</action>",
    ]
    assert expert.replies(room, start_of(room), plan.moves, "none")[0] == "<think></think><action>right</action>"


def test_the_expert_falls_back_to_fewest_pushes(monkeypatch):
    def too_large(*_):
        raise SearchLimit("too large")

    monkeypatch.setattr(expert, "least_moves", too_large)
    room = ROOMS[0]
    assert expert.plan_for(room, start_of(room)) == least_pushes(room)


def test_the_expert_is_unavailable_without_a_solution():
    with pytest.raises(expert.NoSolution, match="no plan exists"):
        expert.plan_for(STUCK, start_of(STUCK))
