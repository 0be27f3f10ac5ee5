"""Behaviour metrics equal values computed by hand, and TensorBoard files contain the metrics."""

import io
import json

import msgspec
import pytest
from tensorboardX.proto.event_pb2 import Event

from arlarena.proto.telemetry import Logger
from arlarena.proto.trajectory import PolicyVersion
from arlarena.trainer.metrics.behaviour import action_flows, behaviour_metrics
from arlarena.trainer.metrics.tensorboard import TensorBoardWriter

NOW = PolicyVersion("run", 0, "now")


@pytest.fixture
def played(make_group):
    """Return a group of two episodes.

    The first succeeds: up, up (without effect), left. The second fails: right, left, right, an invalid action, up.
    """

    def episode(trajectory, turns, **counts):
        shape = trajectory.turns[0]
        return msgspec.structs.replace(
            trajectory,
            turns=tuple(
                msgspec.structs.replace(shape, action=action, state_key=state, action_valid=bool(action))
                for action, state in turns
            ),
            metrics=counts,
        )

    group = make_group("g", [True, False], NOW)
    one, other = group.trajectories
    group.trajectories = (
        episode(one, [("up", "a"), ("up", "a"), ("left 2", "b")], repeated_actions=1.0, idle_turns=1.0),
        episode(other, [("right", "a"), ("left", "b"), ("right", "a"), ("", "b"), ("up", "c")], back_and_forth=2.0),
    )
    return [group]


def test_shares_of_turns(played):
    figures = behaviour_metrics(played)
    assert figures["repeated_actions"] == pytest.approx(1 / 8)
    assert figures["idle_turns"] == pytest.approx(1 / 8)
    assert figures["back_and_forth"] == pytest.approx(2 / 8)
    assert (figures["steps_to_success"], figures["steps_to_failure"]) == (3, 5)


def test_action_transitions(played):
    flows = action_flows(played)
    assert flows["success"] == {"up>up": 0.5, "up>left": 0.5}
    assert flows["failure"] == {"right>left": 0.25, "left>right": 0.25, "right>-": 0.25, "->up": 0.25}


def test_without_turns_all_figures_are_zero():
    assert set(behaviour_metrics([]).values()) == {0.0}
    assert action_flows([]) == {"success": {}, "failure": {}}


def events(path):
    """Yield the events of a TensorBoard file. An event is stored as length, checksum, data and checksum."""
    raw, place = path.read_bytes(), 0
    while place < len(raw):
        size = int.from_bytes(raw[place : place + 8], "little")
        yield Event.FromString(raw[place + 12 : place + 12 + size])
        place += 16 + size


def test_figures_reach_tensorboard(tmp_path):
    board = TensorBoardWriter(tmp_path, 0, Logger("test", "error"))
    for step in (1, 2):
        board.add({"loss": 0.5 / step, "kl_share/a": 0.25, "recipe": "sampo", "nested": {}, "done": True}, step)
    board.close()
    (file,) = tmp_path.glob("events.*")
    result = [(event.step, value.tag, value.simple_value) for event in events(file) for value in event.summary.value]
    assert sorted(result) == [(1, "kl_share/a", 0.25), (1, "loss", 0.5), (2, "kl_share/a", 0.25), (2, "loss", 0.25)]


def test_a_tensorboard_write_error_does_not_stop_the_run(tmp_path):
    output = io.StringIO()
    (tmp_path / "board").write_text("a file in its place")
    board = TensorBoardWriter(tmp_path / "board", 0, Logger("test", "info", output))
    board.add({"loss": 1.0}, 1)
    board.close()
    assert json.loads(output.getvalue())["event"] == "tensorboard_disabled"
