"""The simulator's rules and rewards, worked by hand."""

import pytest

from arlarena.env_server.sokoban.game import ACTIONS, Game, State, advance, start_of, state_key
from arlarena.env_server.sokoban.room import Room, cells, render

CORRIDOR = Room.parse("######\n#PX_O#\n######")
TWO = Room.parse("########\n#PXO_XO#\n########")


def play(room, actions, max_steps=15):
    game = Game(room, max_steps)
    return game, [game.step(action) for action in actions]


def test_solving_pays_step_target_and_finish():
    game, outcomes = play(CORRIDOR, ["right", "right"])
    assert [o.reward for o in outcomes] == pytest.approx([-0.1, -0.1 + 1 + 10])
    assert [o.terminated for o in outcomes] == [False, True]
    assert not any(o.truncated for o in outcomes)
    assert (game.solved, game.done, game.score) == (True, True, 1.0)


def test_pushing_off_a_target_costs_one():
    game, outcomes = play(TWO, ["right", "right"])
    assert [o.reward for o in outcomes] == pytest.approx([-0.1 + 1, -0.1 - 1])
    assert game.score == 0.0
    assert "\n".join(render(TWO, game.state.player, game.state.boxes)) == "########\n#__SXXO#\n########"


def test_a_push_from_target_to_target_pays_only_the_step():
    room = Room.parse("########\n#P√O_X_#\n########")
    _, outcomes = play(room, ["right"])
    assert outcomes[0].pushed
    assert outcomes[0].reward == pytest.approx(-0.1)


def test_score_is_the_share_of_boxes_on_targets():
    game, _ = play(TWO, ["right"])
    assert game.score == 0.5
    assert not game.solved


@pytest.mark.parametrize(
    ("room", "action"),
    [
        ("######\n#P_XO#\n######", "up"),
        ("######\n#P_XO#\n######", "left"),
        ("#####\n#_O_#\n#_PX#\n#####", "right"),
        ("#######\n#PXX_O#\n#___O_#\n#######", "right"),
        ("######\n#P_XO#\n######", "still"),
    ],
    ids=["wall", "border", "box against wall", "two boxes", "still"],
)
def test_what_is_blocked_moves_nothing_and_costs_a_step(room, action):
    game, (outcome,) = play(Room.parse(room), [action])
    assert game.state == start_of(game.room)
    assert (outcome.reward, outcome.moved, outcome.pushed, game.steps) == (-0.1, False, False, 1)


def test_an_unreadable_action_is_a_no_op():
    game, (outcome,) = play(CORRIDOR, [None])
    assert (outcome.reward, outcome.moved, game.steps) == (-0.1, False, 1)


def test_walking_over_a_target_shows_the_player_on_it():
    room = Room.parse("#####\n#PO_#\n#_X_#\n#####")
    state = advance(room, start_of(room), "right")
    assert render(room, state.player, state.boxes)[1] == "#_S_#"


def test_truncated_at_the_horizon_and_never_when_solved_there():
    _, outcomes = play(CORRIDOR, ["still"] * 15)
    assert [o.truncated for o in outcomes] == [False] * 14 + [True]
    assert sum(o.reward for o in outcomes) == pytest.approx(-1.5)
    _, outcomes = play(CORRIDOR, ["still", "right", "right"], max_steps=3)
    assert (outcomes[-1].terminated, outcomes[-1].truncated) == (True, False)


@pytest.mark.parametrize("actions", [["right", "right"], ["still"] * 15])
def test_nothing_can_be_played_after_the_end(actions):
    game, _ = play(CORRIDOR, actions)
    with pytest.raises(RuntimeError, match="over"):
        game.step("up")


def test_unknown_actions_are_a_programming_error():
    with pytest.raises(ValueError, match="unknown action 'jump'"):
        advance(CORRIDOR, start_of(CORRIDOR), "jump")


def test_a_copy_goes_its_own_way():
    game = Game(TWO)
    twin = game.copy()
    game.step("right")
    assert (twin.state, twin.steps) == (start_of(TWO), 0)
    twin.step("still")
    assert (game.steps, twin.steps, game.state != twin.state) == (1, 1, True)


def test_state_key_ignores_the_step_counter_and_knows_the_task():
    room = Room.parse("######\n#P__##\n#_XO##\n######")
    game = Game(room)
    before = state_key("sokoban/train/1", room, game.state)
    for action in ("right", "left"):
        game.step(action)
    assert game.steps == 2
    assert state_key("sokoban/train/1", room, game.state) == before
    assert state_key("sokoban/train/2", room, game.state) != before
    assert len(before) == 32


def test_state_key_tells_all_states_apart():
    room = Room.parse("######\n#P__##\n#_XO##\n######")
    floor = list(cells(room.floor))
    states = [State(player, 1 << box) for box in floor for player in floor if player != box]
    assert len({state_key("t", room, state) for state in states}) == len(states)


def test_there_are_five_actions():
    assert ACTIONS == ("up", "down", "left", "right", "still")
