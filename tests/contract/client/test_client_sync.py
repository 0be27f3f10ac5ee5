"""The synchronous client, the Gymnasium environments and the TRL environment, against a real server."""

import inspect
import threading

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from support.environments.conversation_support import PROBLEM, TallyEnvironment, serving
from support.environments.environment_support import environment_server

from arlarena.client.errors import Refused, SessionLost
from arlarena.client.gymnasium import TextEnv, TextVectorEnv
from arlarena.client.sync import SyncEnvironments
from arlarena.client.trl import TrlEnvironment, environment_factory


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with environment_server(tmp_path_factory.mktemp("environment"), capacity=64, ttl=60) as (address, _):
        yield address


@pytest.fixture
def environments(url):
    with SyncEnvironments(url) as client:
        yield client


def test_an_episode_of_the_expert(environments):
    (session,) = environments.open(1)
    state = session.reset(split="train", index=7)
    while not state.done:
        state = session.step(session.expert().text)
    assert state.metadata.success
    session.close()
    with pytest.raises(SessionLost):
        session.step("up")


def test_forks_and_snapshots_continue_from_the_same_state(environments):
    (session,) = environments.open(1)
    state = session.reset(split="train", index=7)
    state = session.step(session.expert().text)
    kept, twins = session.snapshot(), session.fork(2)
    assert (kept.task_id, kept.step_count) == ("sokoban/train/7", 1)
    replies = session.expert().plan
    ends = []
    for one in (session, *twins):
        for reply in replies:
            end = one.step(reply)
        ends.append((end.metadata.success, end.observation.step, end.metadata.state_key))
    assert ends == [(True, 1 + len(replies), ends[0][2])] * 3
    for one in (session, twins[0], session):
        back = one.restore(kept)
        assert (back.observation, back.metadata.state_key) == (state.observation, state.metadata.state_key)
        assert (back.reward, back.done) == (0.0, False)
        assert one.step(replies[0]).observation.step == 2
    for one in (session, *twins):
        one.close()


def test_invalid_forks_and_restores_are_refused(environments):
    (session,) = environments.open(1)
    for ask in (session.fork, session.snapshot):
        with pytest.raises(Refused, match="reset"):
            ask()
    session.reset(split="train", index=7)
    kept = session.snapshot()
    kept.snapshot_id = "nothing"
    with pytest.raises(Refused, match="snapshot"):
        session.restore(kept)
    with pytest.raises(TypeError, match="needs a result of snapshot"):
        session.restore("nothing")
    for count in (0, "2"):
        with pytest.raises((TypeError, ValueError), match="count"):
            session.fork(count)
    session.close()


@pytest.mark.parametrize("named", [{"index": 5, "split": "train"}, {"task_id": "sokoban/train/5"}])
def test_a_seed_does_not_select_the_task_if_one_is_given(environments, named):
    (session,) = environments.open(1)
    assert session.reset(seed=2, **named).metadata.task_id == "sokoban/train/5"
    assert session.reset(seed=2).metadata.task_id == "sokoban/train/2"
    with pytest.raises(Refused, match="contradicts index 4"):
        session.reset(task_id="sokoban/train/5", index=4)
    session.close()


def test_many_sessions_take_one_step_together(environments):
    sessions = environments.open(16)
    states = environments.reset_all(sessions, [{"split": "train", "index": index} for index in range(16)])
    assert [state.metadata.task_id for state in states] == [f"sokoban/train/{index}" for index in range(16)]
    assert [state.observation.step for state in environments.step_all(sessions, ["still"] * 16)] == [1] * 16
    for session in sessions:
        session.close()


def test_threads_share_a_client(environments):
    done = []

    def play(index):
        (session,) = environments.open(1)
        state = session.reset(split="train", index=index)
        while not state.done:
            state = session.step("still")
        session.close()
        done.append(state.metadata.task_id)

    threads = [threading.Thread(target=play, args=(index,)) for index in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert sorted(done) == sorted(f"sokoban/train/{index}" for index in range(12))


def test_a_second_close_has_no_effect(url):
    client = SyncEnvironments(url)
    client.info()
    client.close()
    client.close()
    assert client._loop._thread not in threading.enumerate()


# ---- Gymnasium -------------------------------------------------------------------------------------------------------


def test_the_checker_of_gymnasium_passes(url):
    env = TextEnv(url, split="train")
    check_env(env, skip_render_check=True, skip_close_check=True)
    env.close()


def test_a_gymnasium_episode(url):
    env = gymnasium.wrappers.OrderEnforcing(TextEnv(url, split="validation"))
    observation, info = env.reset(options={"index": 3})
    assert info["task_id"] == "sokoban/validation/3"
    assert observation in env.observation_space
    assert info["admissible_actions"] == ["up", "down", "left", "right", "still"]
    again, _ = env.reset(options={"task_id": "sokoban/validation/3"})
    assert again == observation
    steps, over = 0, False
    while not over:
        observation, reward, terminated, truncated, info = env.step("still")
        steps, over = steps + 1, terminated or truncated
    assert (steps, reward, truncated) == (15, -0.1, True)
    with pytest.raises(Refused, match="ended after 15 steps"):
        env.step("still")
    env.close()


def test_seeds_draw_the_same_tasks(url):
    env = TextEnv(url)

    def drawn(seed):
        first = env.reset(seed=seed)[1]["task_id"]
        return [first, *(env.reset()[1]["task_id"] for _ in range(3))]

    assert drawn(5) == drawn(5)
    assert len(set(drawn(5))) == 4
    assert drawn(5) != drawn(6)
    env.close()


def test_a_vector_of_episodes(url):
    envs = TextVectorEnv(url, 3, split="train")
    observations, infos = envs.reset(options={"indices": [1, 2, 3]})
    assert (observations.shape, observations.dtype) == ((3,), object)
    assert list(infos["task_id"]) == [f"sokoban/train/{index}" for index in (1, 2, 3)]
    assert infos["_task_id"].all()
    assert envs.observation_space.contains(tuple(observations))
    for step in range(15):
        observations, rewards, terminated, truncated, infos = envs.step(["still"] * 3)
        assert rewards == pytest.approx(np.full(3, -0.1))
        assert not terminated.any()
        assert truncated.all() == (step == 14)
    observations, rewards, terminated, truncated, infos = envs.step(["still"] * 3)
    assert rewards == pytest.approx(np.zeros(3))
    assert list(infos["step"]) == [0, 0, 0]
    assert not (terminated | truncated).any()
    with pytest.raises(ValueError, match="2 indices for 3 environments"):
        envs.reset(options={"indices": [1, 2]})
    envs.close()


# ---- TRL -------------------------------------------------------------------------------------------------------------


def test_trl_finds_the_expected_methods():
    """TRL uses `reset` and `get_reward`, and lists every other public method as a tool."""
    functions = {name for name, _ in inspect.getmembers(TrlEnvironment, predicate=inspect.isfunction)}
    assert {name for name in functions if not name.startswith("_")} == {"reset", "get_reward", "act"}
    from transformers.utils import get_json_schema

    schema = get_json_schema(TrlEnvironment.act)["function"]
    assert (schema["name"], schema["parameters"]["required"]) == ("act", ["action"])
    assert schema["parameters"]["properties"]["action"]["type"] == "string"
    assert "exactly one" in schema["parameters"]["properties"]["action"]["description"]


def test_rollouts_in_the_manner_of_trl(url):
    factory = environment_factory(url, split="train")
    members = [factory() for _ in range(4)]
    row = {"index": 9, "prompt": [{"role": "user", "content": "Play."}], "other": 1}
    prompts = {member.reset(**row) for member in members}
    assert len(prompts) == 1
    output = [member.act(action) for member, action in zip(members, ("up", "down", "still", "nonsense"), strict=True)]
    assert all("#" in text for text in output)
    for member in members:
        assert member.get_reward() == pytest.approx(-0.1)
    for _ in range(14):
        last = members[2].act("still")
    assert last.endswith("The episode is over.")
    assert members[2].get_reward() == pytest.approx(-1.5)
    with pytest.raises(ValueError, match="is over"):
        members[2].act("still")
    members[2].reset(task_id="sokoban/test/3")
    assert members[2].get_reward() == 0.0
    with pytest.raises(ValueError, match="call reset first"):
        factory().act("up")


def test_an_ended_session_is_replaced(url):
    made = environment_factory(url)()
    made.reset(split="train", index=1)
    made._session.close()
    assert made.reset(split="train", index=1)


# ---- conversations ---------------------------------------------------------------------------------------------------


def test_a_conversational_environment_returns_its_next_message():
    problem = PROBLEM.format(index=2)
    with serving(TallyEnvironment()) as address:
        member = environment_factory(address)()
        assert member.reset(index=2) == problem
        assert [member.act("four"), member.act("")] == ["result 4", "result 0"]
        member._close()
        env = TextEnv(address)
        observation, info = env.reset(options={"index": 2})
        assert (observation, info["message"], info["no_action"]) == (problem, problem, False)
        observation, *_, info = env.step("1234")
        assert (observation, info["message"], info["no_action"]) == (f"{problem}\nresult 4", "result 4", True)
        env.close()
