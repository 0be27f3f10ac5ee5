"""The ALFWorld environment: rewards, prompts, validity marks, forks and options."""

import json

import pytest

from arlarena.environment.protocols import ExpertUnavailable, TaskError
from arlarena.environment.registry import load
from arlarena.environments.alfworld.files.export import export
from arlarena.environments.alfworld.options import read_options
from arlarena.environments.alfworld.task_kinds import TASK_TYPES
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import ResetSpec

SMALL = {"things": [4, 8], "receptacles": 6}


@pytest.fixture(autouse=True)
def _no_data(monkeypatch):
    monkeypatch.delenv("ALFWORLD_DATA", raising=False)


def environment(**options):
    return load("test", "alfworld", {**SMALL, **options})


def start(made, split="train", index=0):
    return made.start(made.task(ResetSpec(split=split, index=index)))


def test_success_has_reward_ten_and_all_else_zero():
    episode = start(environment())
    replies = episode.expert()
    results = [episode.step(reply) for reply in replies]
    assert [result.reward for result in results] == [0.0] * (len(replies) - 1) + [10.0]
    last = results[-1]
    assert (last.done, last.observation.terminated, last.observation.truncated) == (True, True, False)
    assert (last.metadata.success, last.metadata.score) == (True, 1.0)
    assert [result.metadata.score for result in results[:-1]] == [0.0] * (len(replies) - 1)
    with pytest.raises(RuntimeError, match="the episode has ended"):
        episode.step("look")


def test_an_episode_is_truncated_at_the_horizon_without_reward():
    episode = start(environment(max_steps=12))
    results = [episode.step("look") for _ in range(12)]
    assert {result.reward for result in results} == {0.0}
    last = results[-1].observation
    assert (results[-1].done, last.terminated, last.truncated, last.remaining_steps) == (True, False, True, 0)
    assert not results[-1].metadata.success


def test_info_describes_the_games():
    info = environment().info
    assert (info.name, info.version, info.horizon) == ("alfworld", "made-1", 50)
    assert [(split.name, split.type, split.size) for split in info.splits] == [
        ("train", "train", None),
        ("valid_seen", "validation", 512),
        ("valid_unseen", "test", 512),
    ]
    assert info.rewards == {"success": 10.0}
    assert info.actions is None
    assert info.capabilities == ["fork", "expert"]
    assert info.options["receptacles"] == 6
    with pytest.raises(TaskError, match="at most 511, but it is 512"):
        environment().task(ResetSpec(split="valid_seen", index=512))


def test_help_is_admissible_but_not_offered():
    episode = start(environment())
    first = episode.observe().observation
    assert "help" in first.admissible_actions
    offered = first.prompt.split("Commands that work here: ")[1].split("\n")[0].split(", ")
    assert offered == [action for action in first.admissible_actions if action != "help"]
    result = episode.step("help")
    assert result.observation.text.startswith("Available commands:")
    assert result.observation.action_valid


def test_a_prompt_has_the_task_the_last_two_turns_and_the_observation():
    episode = start(environment())
    first = episode.observe().observation
    task = first.text.split("\n\n")[-1]
    assert task.startswith("Your task is to: ")
    assert "Your last" not in first.prompt
    ways = [action for action in first.admissible_actions if action.startswith("go to")]
    results = [episode.step(action) for action in ("inventory", "look", ways[0])]
    prompts = [result.observation.prompt for result in results]
    assert all(prompt.count(task) == (2 if at < 2 else 1) for at, prompt in enumerate(prompts)), (
        "it is in the first text"
    )
    assert "Your last step:\n[Step 1]\n-= Welcome" in prompts[0]
    assert "Your last 2 steps:\n[Step 1]" in prompts[1]
    assert "Your last 2 steps:\n[Step 2]\nYou are not carrying anything.\nYour action: look\n[Step 3]" in prompts[2]
    assert f"Your action: {ways[0]}" in prompts[2]
    assert results[2].observation.text in prompts[2]
    assert "with 47 of 50 steps left" in prompts[2]


def test_the_length_of_the_history_is_an_option():
    episode = start(environment(history=0))
    assert "Your last" not in episode.step("look").observation.prompt


def test_the_compact_template_has_task_observation_and_actions():
    episode = start(environment(template="compact", history=0))
    seen = episode.step("inventory").observation
    task = episode.observe().observation.prompt.split("\n")[0]
    assert seen.prompt == f"{task}\nYou are not carrying anything.\n" + ", ".join(
        action for action in seen.admissible_actions if action != "help"
    )


@pytest.mark.parametrize(
    "reply",
    ["<action>fly to the moon</action>", "dance", "", "<action>look</action><action>look</action>", "<think>look"],
)
def test_an_unreadable_reply_costs_a_step_and_is_marked(reply):
    episode = start(environment())
    before = episode.observe().metadata
    result = episode.step(reply)
    assert result.observation.text == "Nothing happens."
    assert (result.observation.action_valid, result.reward, result.observation.step) == (False, 0.0, 1)
    assert result.metadata.state_key == before.state_key
    assert result.metadata.observation_key != before.observation_key
    assert result.metadata.action == ""


def test_commands_are_case_insensitive():
    episode = start(environment())
    result = episode.step("<think>where am I?</think><action> LOOK </action>")
    assert (result.observation.action_valid, result.observation.format_valid) == (True, True)
    assert result.metadata.action == "look"


def test_a_fork_is_independent():
    episode = start(environment())
    replies = episode.expert()
    for reply in replies[:2]:
        episode.step(reply)
    twin = episode.fork()
    assert twin.observe() == episode.observe()
    ends = [[one.step(reply) for reply in replies[2:]] for one in (twin, episode)]
    assert ends[0] == ends[1]
    assert ends[0][-1].reward == 10.0


def test_equal_states_have_equal_keys_by_any_path():
    made = environment()
    one, other = start(made), start(made)
    ways = [action for action in one.observe().observation.admissible_actions if action.startswith("go to")]
    one.step(ways[0])
    for action in ("look", "inventory", ways[0], "help", "dance"):
        last = other.step(action)
    assert one.observe().metadata.state_key == last.metadata.state_key
    other_game = start(made, index=1).observe().metadata
    assert other_game.state_key != start(made).observe().metadata.state_key


def test_metadata_has_the_kind_and_the_content_key():
    made = environment()
    seen = [start(made, "valid_seen", index).observe().metadata for index in range(24)]
    assert {one.kind for one in seen} == set(TASK_TYPES)
    assert len({one.content_key for one in seen}) == 24
    assert seen[3].content_key == start(made, "valid_seen", 3).observe().metadata.content_key
    only = environment(task_types=["look_at_obj_in_light"])
    assert {start(only, index=index).observe().metadata.kind for index in range(5)} == {"look_at_obj_in_light"}


def test_expert_think_sets_the_thought_of_the_expert():
    thinking = start(environment()).expert()
    assert thinking[0].startswith("<think>find ")
    silent = start(environment(expert_think="none")).expert()
    assert [reply.split("<action>")[1] for reply in silent] == [reply.split("<action>")[1] for reply in thinking]
    assert silent[0].startswith("<think></think><action>")


def exported(folder, **fields):
    """An environment of one generated game, read from a file with some texts changed."""
    path = export(folder, "train", 0, read_options("test", SMALL)) / "game.tw-pddl"
    game = json.loads(path.read_text())
    path.write_text(json.dumps({**game, **{name: change(game[name]) for name, change in fields.items()}}))
    return load("test", "alfworld", {"games": str(path)})


def test_a_generated_game_equals_the_game_of_its_file(tmp_path):
    made, read = start(environment()), start(exported(tmp_path))
    assert made.observe().metadata.content_key == read.observe().metadata.content_key
    assert made.observe().observation == read.observe().observation
    for reply in made.expert():
        assert made.step(reply).observation == read.step(reply).observation


def test_there_is_no_expert_for_another_kind_of_goal(tmp_path):
    def another(problem):
        return problem[: problem.index("(:goal")] + "(:goal (exists (?r - receptacle) (opened ?r))))"

    episode = start(exported(tmp_path, pddl_problem=another))
    with pytest.raises(ExpertUnavailable, match="none of ALFWorld's six kinds"):
        episode.expert()
    assert episode.step("look").reward == 0.0


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"things": [9, 3]}, r"things = \[9, 3\]"),
        ({"receptacles": 2}, "a task may need 4"),
        ({"task_types": []}, "task_types: at least one kind"),
        ({"task_types": ["juggle"]}, "task_types: unknown kinds of tasks juggle; known: pick_and_place_simple"),
        ({"max_steps": 0}, "max_steps"),
        ({"backend": "unity"}, "backend"),
        ({"template": "long"}, "template"),
        ({"games": "/nowhere/at/all"}, "/nowhere/at/all: no such file or folder"),
    ],
)
def test_invalid_options_are_refused_by_name(options, message):
    with pytest.raises(ConfigError, match=message):
        environment(**options)
