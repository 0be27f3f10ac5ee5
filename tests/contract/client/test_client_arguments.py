"""Arguments of the clients: numpy scalars are accepted, and errors name the invalid argument."""

import asyncio

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from support.environments.environment_support import environment_server

from arlarena.client.environments import EnvironmentClient
from arlarena.client.errors import Refused
from arlarena.client.gymnasium import TextEnv, TextVectorEnv
from arlarena.client.policy import PolicyClient
from arlarena.client.sync import SyncEnvironments
from arlarena.client.transport import Timeouts
from arlarena.client.trl import environment_factory


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    with environment_server(tmp_path_factory.mktemp("environment"), capacity=64, ttl=60) as (address, _):
        yield address


@pytest.fixture
def env(url):
    made = TextEnv(url)
    yield made
    made.close()


@pytest.fixture
def envs(url):
    made = TextVectorEnv(url, np.int64(2), split=np.str_("train"))
    yield made
    made.close()


@pytest.mark.parametrize("three", [np.int64(3), np.uint8(3), np.int32(3), np.array(3), np.arange(5)[3]])
def test_numpy_integers_select_a_task(env, three):
    for options in (
        {"index": three},
        {"index": three, "split": np.str_("train")},
        {"task_id": np.str_("sokoban/train/3")},
    ):
        assert env.reset(options=options)[1]["task_id"] == "sokoban/train/3"
    assert env.reset(seed=three)[1]["task_id"] == env.reset(seed=3)[1]["task_id"]


@pytest.mark.parametrize("up", ["up", np.str_("up"), np.array("up"), np.array(["up", "down"])[0]])
def test_numpy_strings_are_actions(env, envs, up):
    env.reset(options={"index": 1})
    assert up in env.action_space
    assert env.step(up)[4]["action"] == "up"
    envs.reset(options={"indices": np.arange(2)})
    assert list(envs.step([up, up])[4]["action"]) == ["up", "up"]


@pytest.mark.parametrize("actions", [np.array(["up", "down"]), np.array(["up", "down"], dtype=object), ("up", "down")])
def test_arrays_of_actions(envs, actions):
    envs.reset(seed=np.int64(4))
    assert list(envs.step(actions)[4]["action"]) == ["up", "down"]


def test_a_sample_of_the_action_space_is_an_action(envs):
    envs.reset(seed=1)
    envs.action_space.seed(3)
    assert all(action in envs.single_action_space.examples for action in envs.action_space.sample())
    envs.step(envs.action_space.sample())


def test_gymnasium_checker_can_close_the_environment(url):
    check_env(TextEnv(url), skip_render_check=True)


@pytest.mark.parametrize(
    ("options", "kind", "message"),
    [
        ({"index": np.float64(3.0)}, TypeError, r"index must be an integer, not 3\.0"),
        ({"index": 3.5}, TypeError, "index must be an integer"),
        ({"index": np.bool_(True)}, TypeError, "index must be an integer, not True"),
        ({"index": np.array([1, 2])}, TypeError, "index must be an integer"),
        ({"index": "3"}, TypeError, "index must be an integer, not '3'"),
        ({"index": -1}, ValueError, "index must be from 0 to"),
        ({"index": 10**30}, ValueError, "index must be from 0 to"),
        ({"split": 3}, TypeError, "split must be a string"),
        ({"split": "tset"}, Refused, "unknown split 'tset'; known: train, validation, test"),
        ({"idx": 3}, ValueError, "unknown key 'idx'; known: index, split, task_id, episode_id"),
        ({"episode_id": "x" * 256}, ValueError, "episode_id has 256 characters; the maximum is 255"),
    ],
)
def test_invalid_options_are_refused_by_name(env, options, kind, message):
    with pytest.raises(kind, match=message):
        env.reset(options=options)
    assert env.reset(options={"index": 1})[1]["task_id"] == "sokoban/train/1"


@pytest.mark.parametrize(
    ("action", "kind", "message"),
    [
        (np.int64(2), TypeError, r"the action must be a string, not 2 \(int\)"),
        (None, TypeError, "the action must be a string"),
        (b"up", TypeError, "the action must be a string"),
        (["up"], TypeError, "the action must be a string"),
        ("up \ud800", ValueError, r"the action contains U\+D800, a lone surrogate, at position 3"),
    ],
)
def test_actions_that_are_not_strings_are_refused(env, action, kind, message):
    env.reset(options={"index": 1})
    with pytest.raises(kind, match=message):
        env.step(action)
    assert action not in env.action_space
    assert env.step("up")[4]["step"] == 1


@pytest.mark.parametrize(
    ("actions", "kind", "message"),
    [
        ("up", TypeError, "actions must be a sequence of 2 values, not str"),
        (np.array("up"), TypeError, "actions must be a sequence of 2"),
        (["up"] * 3, ValueError, "3 actions for 2 environments: give one per environment"),
        (["up", 1], TypeError, "action 1 must be a string"),
    ],
)
def test_a_vector_needs_one_action_for_each_environment(envs, actions, kind, message):
    envs.reset(seed=1)
    with pytest.raises(kind, match=message):
        envs.step(actions)
    assert list(envs.step(["up", "up"])[4]["step"]) == [1, 1], "an invalid call took a step"


@pytest.mark.parametrize("options", [3, "index", ["index"]])
def test_options_that_are_not_a_dictionary_are_refused(env, envs, options):
    for one in (env, envs):
        with pytest.raises(TypeError, match="options must be a dictionary of ind"):
            one.reset(options=options)


def test_a_vector_names_its_unknown_options(envs):
    with pytest.raises(ValueError, match="unknown key 'index'; known: indices"):
        envs.reset(options={"index": 3})
    with pytest.raises(TypeError, match="index must be an integer"):
        envs.reset(options={"indices": [0, 1.5]})


@pytest.mark.parametrize("seeds", [[4, 9], (4, 9), np.array([4, 9]), [np.int64(4), np.uint8(9)]])
def test_a_vector_draws_the_tasks_of_single_environments(env, envs, seeds):
    def drawn_alone(seed):
        return [env.reset(seed=seed)[1]["task_id"], env.reset()[1]["task_id"]]

    first, second = envs.reset(seed=seeds)[1]["task_id"], envs.reset()[1]["task_id"]
    assert [list(pair) for pair in zip(first, second, strict=True)] == [drawn_alone(4), drawn_alone(9)]


def test_seed_none_keeps_the_generator_and_a_number_counts_up(envs):
    def drawn(seed):
        return list(envs.reset(seed=seed)[1]["task_id"])

    assert drawn(7) == drawn([7, 8]) == drawn(np.int64(7))
    after = drawn(None)
    drawn([7, 8])
    other, kept = drawn([3, None])
    assert (other, kept) == (drawn([3, 3])[0], after[1])
    assert drawn([3, 3])[0] == drawn([3, 3])[1]


def test_autoreset_draws_from_the_environments_own_generator(env, envs):
    first = envs.reset(seed=[5, 6], options={"indices": [0, 1]})[1]["task_id"]
    assert list(first) == ["sokoban/train/0", "sokoban/train/1"]
    for _ in range(15):
        ended = envs.step(["still", "still"])
    assert list(ended[3]) == [True, True]
    assert list(envs.step(["up", "up"])[4]["task_id"]) == [env.reset(seed=seed)[1]["task_id"] for seed in (5, 6)]


@pytest.mark.parametrize(
    ("seed", "kind", "message"),
    [
        ([1], ValueError, "1 seeds for 2 environments: give one per environment"),
        (np.arange(3), ValueError, "3 seeds for 2 environments: give one per environment"),
        ([], ValueError, "0 seeds for 2 environments"),
        ([1, 2.5], TypeError, r"seed 1 must be an integer, not 2\.5"),
        ([1, -1], ValueError, "seed 1 must be from 0 to"),
        ("12", TypeError, "seeds must be a sequence of 2 values, not str"),
        (1.5, TypeError, r"seed must be an integer, not 1\.5"),
        (True, TypeError, "seed must be an integer, not True"),
    ],
)
def test_invalid_seeds_are_refused_and_change_nothing(envs, seed, kind, message):
    drawn = list(envs.reset(seed=2)[1]["task_id"]) + list(envs.reset()[1]["task_id"])
    envs.reset(seed=2)
    with pytest.raises(kind, match=message):
        envs.reset(seed=seed)
    assert list(envs.reset()[1]["task_id"]) == drawn[2:]


CONSTRUCTORS = {
    "EnvironmentClient": EnvironmentClient,
    "SyncEnvironments": SyncEnvironments,
    "PolicyClient": PolicyClient,
    "TextEnv": TextEnv,
    "TextVectorEnv": lambda url, **more: TextVectorEnv(url, 2, **more),
    "environment_factory": environment_factory,
}


@pytest.mark.parametrize("name", CONSTRUCTORS)
@pytest.mark.parametrize(
    ("url", "kind", "message"),
    [
        (None, TypeError, "a service address must be a string like http://127.0.0.1:8000, not None"),
        (8000, TypeError, "a service address must be a string"),
        (b"http://127.0.0.1:8000", TypeError, "a service address must be a string"),
        ("", ValueError, "'' is not a service address; write it like"),
        ("localhost:8000", ValueError, "'localhost:8000' is not a service address"),
        ("http://", ValueError, "is not a service address"),
        ("ws://localhost:8000", ValueError, "is not a service address"),
        ("http://localhost:80a", ValueError, "is not a service address"),
        ("http://localhost:99999", ValueError, "is not a service address"),
        ("http://[::1", ValueError, "is not a service address"),
    ],
)
def test_an_invalid_address_is_refused_by_every_constructor(name, url, kind, message):
    with pytest.raises(kind, match=message):
        CONSTRUCTORS[name](url)


@pytest.mark.parametrize("name", CONSTRUCTORS)
def test_a_token_that_is_not_a_string_is_refused_by_every_constructor(name, url):
    with pytest.raises(TypeError, match="token must be a string"):
        CONSTRUCTORS[name](url, token=5)


@pytest.mark.parametrize(
    ("make", "kind", "message"),
    [
        (lambda url: SyncEnvironments(url, 30), TypeError, "timeouts must be Timeouts"),
        (lambda url: PolicyClient(url, timeouts=0), TypeError, "timeouts must be Timeouts"),
        (lambda url: SyncEnvironments(url, retries=None), TypeError, "retries must be an integer"),
        (lambda url: PolicyClient(url, retries=-1), ValueError, "retries must be from 0"),
        (
            lambda url: EnvironmentClient(url, batch_window_s="1"),
            TypeError,
            "batch_window_s must be a number of seconds",
        ),
        (lambda url: EnvironmentClient(url, batch_size=0), ValueError, "batch_size must be from 1"),
        (lambda url: TextVectorEnv(url, None), TypeError, "num_envs must be an integer"),
        (lambda url: TextVectorEnv(url, "2"), TypeError, "num_envs must be an integer"),
        (lambda url: TextEnv(url, split=3), TypeError, "split must be a string"),
        (lambda url: environment_factory(url, split=3), TypeError, "split must be a string"),
        (lambda url: Timeouts(request_s=None), TypeError, "request_s must be a number of seconds, not None"),
        (lambda url: Timeouts(connect_s=0), ValueError, "connect_s must be a finite number of seconds, above 0"),
        (lambda url: Timeouts(request_s=float("nan")), ValueError, "request_s must be a finite number"),
    ],
)
def test_other_invalid_arguments_are_refused_by_name(url, make, kind, message):
    with pytest.raises(kind, match=message):
        make(url)


@pytest.mark.parametrize(("ttl_s", "kind"), [("60", TypeError), (0, ValueError), (float("inf"), ValueError)])
def test_an_invalid_ttl_is_refused(url, ttl_s, kind):
    with SyncEnvironments(url) as client, pytest.raises(kind, match="ttl_s must be a"):
        client.open(1, ttl_s=ttl_s)


def test_an_unknown_split_leaves_nothing_open(url):
    for make in (lambda: TextEnv(url, split="tset"), lambda: TextVectorEnv(url, 2, split="tset")):
        with pytest.raises(ValueError, match=r"'tset': sokoban at .* has no such split; it has train, validation"):
            make()
    with pytest.raises(ValueError, match="num_envs must be from 1"):
        TextVectorEnv(url, 0)


async def test_an_invalid_call_does_not_affect_concurrent_calls(url):
    async with EnvironmentClient(url) as client:
        one, two, three, four = await client.open(np.int64(4))
        results = await asyncio.gather(
            one.reset(index=np.int64(1)), two.reset(index=-1), three.reset(seed=object()), four.reset(index=2),
            return_exceptions=True,
        )  # fmt: skip
        assert [type(result).__name__ for result in results] == [
            "StepOutcome",
            "ValueError",
            "TypeError",
            "StepOutcome",
        ]
        results = await asyncio.gather(one.step("up"), four.step("\udfff"), return_exceptions=True)
        assert [type(result).__name__ for result in results] == ["StepOutcome", "ValueError"]
        with pytest.raises(TypeError, match="count must be an integer"):
            await client.open(1.5)


def test_sync_calls_need_one_value_for_each_session(url):
    with SyncEnvironments(url) as client:
        sessions = client.open(2)
        client.reset_all(sessions, [{"index": np.int64(1)}, {"index": 2}])
        with pytest.raises(ValueError, match="1 texts for 2 sessions"):
            client.step_all(sessions, ["up"])
        with pytest.raises(TypeError, match="not a single string"):
            client.step_all(sessions, "up")
        with pytest.raises(ValueError, match="3 tasks for 2 sessions"):
            client.reset_all(sessions, [{}] * 3)
        for given, kind, message in (
            (None, TypeError, "tasks must be a list with one entry for each session, not None"),
            ({"index": 1, "split": "train"}, TypeError, "tasks must be a list with one entry for each session, not {"),
            ([1, 2], TypeError, "a task must be a dictionary such as .*, not 1"),
            ([{}, {"idx": 1}], ValueError, "a task has the unknown key 'idx'; known: split, index, seed, task_id"),
        ):
            with pytest.raises(kind, match=message):
                client.reset_all(sessions, given)
        for wrong, message in ((None, "sessions must be a list"), (["0-abc", "0-def"], "results of open")):
            with pytest.raises(TypeError, match=message):
                client.step_all(wrong, ["up", "up"])
        states = client.step_all(tuple(sessions), np.array(["up", "down"]))
        assert [state.observation.step for state in states] == [1, 1], "an invalid call took a step"
    with pytest.raises(RuntimeError, match="this client is closed"):
        sessions[0].step("up")


def test_rows_and_actions_of_trl(url):
    member = environment_factory(url)()
    member.reset(index=np.int64(3), split=np.str_("train"), task_id=None)
    with pytest.raises(TypeError, match="action must be a string"):
        member.act({"action": "up"})
    assert member.get_reward() == 0.0
    with pytest.raises(TypeError, match=r"index must be an integer, not 3\.0"):
        member.reset(index=3.0)
    with pytest.raises(ValueError, match="is not a service address"):
        environment_factory("localhost:8000")
