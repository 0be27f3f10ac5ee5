"""The rules and rewards, on hand-written rooms."""

import pytest

from arlarena.environment.registry import load
from arlarena.environment.text_game import TextEpisode
from arlarena.environments.sokoban.environment import SokobanGame
from arlarena.environments.sokoban.game import ACTIONS, RoomState, advance, start_of
from arlarena.environments.sokoban.options import SokobanOptions
from arlarena.environments.sokoban.room import Room, cells, render
from arlarena.proto.trajectory import Task

CORRIDOR = Room.parse("######\n#PX_O#\n######")
TWO = Room.parse("########\n#PXO_XO#\n########")


def play(room, actions):
    game = SokobanGame(room, SokobanOptions())
    return game, [game.play(action) for action in actions]


def episode(room, max_steps=15):
    made = load("test", "sokoban", {"max_steps": max_steps})
    return TextEpisode(made, Task("sokoban", "train", 1, 0), SokobanGame(room, SokobanOptions()))


def test_solving_gives_step_target_and_finish_rewards():
    game, rewards = play(CORRIDOR, ["right", "right"])
    assert rewards == pytest.approx([-0.1, -0.1 + 1 + 10])
    assert (game.over, game.solved, game.score) == (True, True, 1.0)


def test_pushing_off_a_target_costs_one():
    game, rewards = play(TWO, ["right", "right"])
    assert rewards == pytest.approx([-0.1 + 1, -0.1 - 1])
    assert game.score == 0.0
    assert game.state() == "########\n#__SXXO#\n########"


def test_a_push_from_target_to_target_pays_only_the_step():
    game, rewards = play(Room.parse("########\n#P√O_X_#\n########"), ["right"])
    assert game.state().split("\n")[1] == "#_S√_X_#"
    assert rewards == pytest.approx([-0.1])


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
        ("######\n#P_XO#\n######", None),
    ],
    ids=["wall", "border", "box against wall", "two boxes", "still", "unreadable"],
)
def test_a_blocked_move_changes_nothing_and_costs_a_step(room, action):
    game, rewards = play(Room.parse(room), [action])
    assert game.now == start_of(game.room)
    assert rewards == [-0.1]


def test_walking_over_a_target_shows_the_player_on_it():
    room = Room.parse("#####\n#PO_#\n#_X_#\n#####")
    state = advance(room, start_of(room), "right")
    assert render(room, state.player, state.boxes)[1] == "#_S_#"


def test_an_episode_is_truncated_at_the_horizon_unless_solved():
    played = episode(CORRIDOR)
    results = [played.step("still") for _ in range(15)]
    assert [result.observation.truncated for result in results] == [False] * 14 + [True]
    assert sum(result.reward for result in results) == pytest.approx(-1.5)
    played = episode(CORRIDOR, max_steps=3)
    last = [played.step(action) for action in ("still", "right", "right")][-1].observation
    assert (last.terminated, last.truncated, played.done) == (True, False, True)


@pytest.mark.parametrize("actions", [["right", "right"], ["still"] * 15])
def test_a_step_after_the_end_raises(actions):
    played = episode(CORRIDOR)
    for action in actions:
        played.step(action)
    with pytest.raises(RuntimeError, match="has ended"):
        played.step("up")


def test_unknown_actions_raise_a_value_error():
    with pytest.raises(ValueError, match="unknown action 'jump'"):
        advance(CORRIDOR, start_of(CORRIDOR), "jump")


def test_a_copy_is_independent():
    played = episode(TWO)
    twin = played.fork()
    played.step("right")
    assert (twin.observe().observation.text, twin.steps) == (episode(TWO).observe().observation.text, 0)
    twin.step("still")
    assert (played.steps, twin.steps) == (1, 1)
    assert played.observe().metadata.state_key != twin.observe().metadata.state_key


def test_the_state_key_depends_on_the_task_but_not_on_the_step():
    room = Room.parse("######\n#P__##\n#_XO##\n######")
    played = episode(room)
    before = played.observe().metadata.state_key
    for action in ("right", "left"):
        played.step(action)
    assert played.steps == 2
    assert played.observe().metadata.state_key == before
    assert len(before) == 32
    other = TextEpisode(
        load("test", "sokoban", {}), Task("sokoban", "train", 2, 0), SokobanGame(room, SokobanOptions())
    )
    assert other.observe().metadata.state_key != before


def test_different_states_have_different_texts():
    room = Room.parse("######\n#P__##\n#_XO##\n######")
    floor = list(cells(room.floor))
    states = [RoomState(player, 1 << box) for box in floor for player in floor if player != box]
    texts = {"\n".join(render(room, state.player, state.boxes)) for state in states}
    assert len(texts) == len(states)


def test_there_are_five_actions():
    assert ACTIONS == ("up", "down", "left", "right", "still")
