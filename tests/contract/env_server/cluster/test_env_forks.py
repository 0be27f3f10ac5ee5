"""Forks and snapshots over HTTP."""

import json


def is_error(answer, status, code):
    assert (answer[0], answer[1]["code"]) == (status, code), answer
    return True


async def play(api, session, *actions):
    """The transcript of some steps, as bytes."""
    said = []
    for action in actions:
        status, reply = await api("POST", "/step", {"session_id": session, "action": {"text": action}})
        assert status == 200, reply
        said.append(json.dumps(reply))
    return said


async def test_forks_go_their_own_ways_from_one_state(api):
    session = await api.open(split="train", index=5, episode_id="e")
    await play(api, session, "up", "still")
    status, body = await api("POST", f"/v1/sessions/{session}/fork", {"count": 2})
    assert status == 200
    one, two = body["sessions"]
    assert (one["step_count"], one["task_id"]) == (2, "sokoban/train/5")
    assert one["result"]["observation"]["step"] == 2
    assert one["result"]["reward"] is None
    moves = ("left", "down", "right", "up")
    first = await play(api, one["session_id"], *moves)
    assert await play(api, session, *moves) == first
    assert (await api("GET", f"/state?session_id={two['session_id']}"))[1]["step_count"] == 2
    assert await play(api, two["session_id"], *moves) == first


async def test_a_fork_knows_the_last_step_too(api):
    session = await api.open(split="train", index=5)
    await play(api, session, "up")
    (twin,) = (await api("POST", f"/v1/sessions/{session}/fork", {}))[1]["sessions"]
    again = {"action": {"text": "up"}, "step_index": 0}
    mine = await api("POST", "/step", {"session_id": session, **again})
    assert await api("POST", "/step", {"session_id": twin["session_id"], **again}) == mine
    assert mine[1]["observation"]["step"] == 1


async def test_forks_are_all_or_nothing(api):
    session = await api.open(index=5)
    assert is_error(await api("POST", f"/v1/sessions/{session}/fork", {"count": 16}), 503, "capacity")
    assert (await api("GET", "/v1/capacity"))[1]["active_sessions"] == 1


async def test_a_snapshot_can_be_gone_back_to_again_and_again(api):
    session = await api.open(split="train", index=8)
    await play(api, session, "up")
    status, kept = await api("POST", f"/v1/sessions/{session}/snapshot")
    assert (status, kept["task_id"], kept["step_count"]) == (200, "sokoban/train/8", 1)
    first = await play(api, session, "left", "down")
    back = f"/v1/snapshots/{kept['snapshot_id']}/restore"
    status, restored = await api("POST", back, {"session_id": session})
    assert (status, restored["session_id"], restored["step_count"]) == (200, session, 1)
    assert await play(api, session, "left", "down") == first
    await api("DELETE", f"/v1/sessions/{session}")
    status, fresh = await api("POST", back)
    assert (status, fresh["step_count"]) == (200, 1)
    assert await play(api, fresh["session_id"], "left", "down") == first
    assert (await api("DELETE", f"/v1/snapshots/{kept['snapshot_id']}"))[0] == 204
    assert is_error(await api("POST", back), 404, "unknown_snapshot")


async def test_what_has_no_state_has_no_copies(api):
    session = await api.open()
    assert is_error(await api("POST", f"/v1/sessions/{session}/fork", {}), 409, "not_reset")
    assert is_error(await api("POST", f"/v1/sessions/{session}/snapshot"), 409, "not_reset")
    assert is_error(await api("POST", "/v1/sessions/nobody/fork", {}), 404, "unknown_session")
    assert is_error(await api("POST", "/v1/snapshots/nothing/restore", {}), 404, "unknown_snapshot")
    played = await api.open(index=1)
    kept = (await api("POST", f"/v1/sessions/{played}/snapshot"))[1]["snapshot_id"]
    body = {"session_id": "nobody"}
    assert is_error(await api("POST", f"/v1/snapshots/{kept}/restore", body), 404, "unknown_session")
