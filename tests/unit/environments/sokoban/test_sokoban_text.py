"""Observations, prompts, and the parsing of replies."""

import pytest

from arlarena.environment.prompts import Scene, past_turn
from arlarena.environment.protocols import ExpertUnavailable, TaskError
from arlarena.environment.registry import load
from arlarena.environments.sokoban.game import start_of
from arlarena.environments.sokoban.room import Room
from arlarena.environments.sokoban.text import TEMPLATES, observe
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import ResetSpec

ROOM = Room.parse("######\n#_P__#\n#__X_#\n#____#\n#___O#\n######")


def test_coordinates_are_rows_and_columns_from_zero():
    assert observe(ROOM, start_of(ROOM), "grid+coordinates").split("\n")[-1] == "you 1 2 box 2 3 goal 4 4"


def test_several_boxes_and_goals_come_in_reading_order():
    room = Room.parse("######\n#OXP_#\n#_X_O#\n######")
    assert observe(room, start_of(room), "grid+coordinates").split("\n")[-1] == (
        "you 1 3 box 1 2 box 2 2 goal 1 1 goal 2 4"
    )


def test_surroundings_are_the_cells_above_below_left_and_right():
    lines = observe(ROOM, start_of(ROOM), "grid+surroundings").split("\n")
    assert lines[:-1] == observe(ROOM, start_of(ROOM), "grid+coordinates").split("\n")
    assert lines[-1] == "around you #___ around box ____"
    room = Room.parse("######\n#OXP_#\n#_X_O#\n######")
    assert observe(room, start_of(room), "grid+surroundings").split("\n")[-1] == (
        "around you #_X_ around box #XOP around box X#__"
    )


def test_the_compact_prompt_is_the_observation():
    text = observe(ROOM, start_of(ROOM), "grid+coordinates")
    expected = "######\n#_P__#\n#__X_#\n#____#\n#___O#\n######\nyou 1 2 box 2 3 goal 4 4"
    assert TEMPLATES["compact"].render(Scene(text, (), 15, 15)) == expected


def test_the_full_prompt_shows_history_and_keeps_braces():
    past = [past_turn(3, "OLD", "up"), past_turn(4, "NEWER", "left")]
    text = TEMPLATES["full"].render(Scene("GRID {x}", past, 11, 15))
    assert "GRID {x}" in text
    assert "11 of 15 steps left" in text
    assert text.index("[Step 3]\nOLD\nYour action: up") < text.index("[Step 4]\nNEWER") < text.index("GRID")
    assert "<think>your reasoning</think><action>right</action>" in text
    assert "last" not in TEMPLATES["full"].render(Scene("GRID", (), 15, 15))


def factory(**options):
    return load("test", "sokoban", options)


def test_history_holds_the_last_two_turns():
    made = factory()
    episode = made.start(made.task(ResetSpec(index=1)))
    prompts = [episode.step("still").observation.prompt for _ in range(4)]
    assert ["[Step 3]" in text and "[Step 4]" in text and "[Step 2]" not in text for text in prompts][-1]
    assert prompts[0].count("[Step") == 1


def test_an_episode_follows_the_expert_to_the_end():
    made = factory(template="compact", observation="grid+coordinates", max_moves=10)
    for index in range(20):
        episode = made.start(made.task(ResetSpec(split="validation", index=index)))
        first = episode.observe()
        plan = episode.expert()
        assert len(plan) == first.metadata.optimal_moves
        for position, reply in enumerate(plan):
            assert episode.expert() == plan[position:]
            result = episode.step(reply)
            assert (result.observation.action_valid, result.observation.format_valid) == (True, True)
        assert (result.done, result.metadata.success, result.metadata.score) == (True, True, 1.0)
        assert result.reward == pytest.approx(10.9)


def test_the_expert_makes_a_new_plan_after_a_detour():
    made = factory(min_moves=4)
    episode = made.start(made.task(ResetSpec(index=2)))
    plan = episode.expert()
    episode.step("still")
    assert episode.expert() == plan
    for action in ("up", "down", "left", "right"):
        twin = episode.fork()
        twin.step(action)
        try:
            renewed = twin.expert()
        except ExpertUnavailable:
            continue  # that push cannot be undone
        assert len(renewed) in (len(plan) - 1, len(plan), len(plan) + 1)
    assert episode.expert() == plan


def test_keys_depend_on_the_state_and_not_on_the_step():
    made = factory(template="full")
    episode = made.start(made.task(ResetSpec(index=4)))
    first, second = episode.step("still"), episode.step("nonsense")
    assert first.metadata.state_key == second.metadata.state_key
    assert first.metadata.observation_key == second.metadata.observation_key
    assert first.observation.prompt != second.observation.prompt
    assert second.observation.action_valid is False
    assert second.metadata.action == ""
    assert second.reward == pytest.approx(-0.1)


def test_the_same_actions_give_the_same_transcript():
    def transcript():
        made = factory(observation="grid+coordinates")
        episode = made.start(made.task(ResetSpec(split="test", index=5)))
        return [episode.observe(), *(episode.step(a) for a in ("up", "<action>left</action>", "?", "down"))]

    assert transcript() == transcript()


@pytest.mark.parametrize(
    ("spec", "task"),
    [
        (ResetSpec(), "sokoban/train/0"),
        (ResetSpec(seed=7), "sokoban/train/7"),
        (ResetSpec(seed=7, index=2), "sokoban/train/2"),
        (ResetSpec(seed=1, split="test"), "sokoban/test/1"),
        (ResetSpec(task_id="sokoban/validation/3"), "sokoban/validation/3"),
    ],
)
def test_a_reset_selects_the_expected_task(spec, task):
    assert factory().task(spec).id == task


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ResetSpec(split="dev"), "unknown split 'dev'"),
        (ResetSpec(split="test", index=1024), "at most 1023"),
        (ResetSpec(task_id="sokoban/train"), "must have the form"),
        (ResetSpec(task_id="alfworld/train/1"), "must have the form"),
        (ResetSpec(task_id="sokoban/train/x"), "must have the form"),
        (ResetSpec(task_id="sokoban/train/1", index=2), "contradicts index 2"),
    ],
)
def test_invalid_resets_are_refused(spec, message):
    with pytest.raises(TaskError, match=message):
        factory().task(spec)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sise": 6}, "did you mean 'size'"),
        ({"size": 4}, "at least 5 rows"),
        ({"boxes": 0}, "boxes do not fit"),
        ({"template": "compact", "history": 2}, "shows no history"),
        ({"observation": "picture"}, "observation = 'picture'"),
        ({"min_moves": 9, "max_moves": 3}, "min_moves = 9"),
    ],
)
def test_invalid_options_are_explained(options, message):
    with pytest.raises(ConfigError, match=message):
        factory(**options)


def test_unknown_environments_are_explained():
    with pytest.raises(ConfigError, match="installed: alfworld, guess, sokoban"):
        load("test", "chess", {})


def test_an_error_in_the_options_names_their_table_as_the_file_does():
    with pytest.raises(ConfigError, match=r"^run\.toml: \[environment\.options\] observation = 'grids'"):
        load("run.toml: [environment]", "sokoban", {"observation": "grids"})


def test_the_vocabulary_has_the_borders_of_the_rooms_width():
    vocabulary = load("test", "sokoban", {"size": [5, 9]}).info.vocabulary
    assert vocabulary[:3] == ["#########\n#", "#\n#", "########\nyou "]
