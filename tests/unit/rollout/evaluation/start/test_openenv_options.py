"""The option `--openenv`."""

import pytest

from arlarena.proto.config import ConfigError
from arlarena.rollout.evaluation.openenv.rules import OpenEnvSettings
from arlarena.rollout.evaluation.start.environments import parse_environments
from arlarena.rollout.evaluation.start.openenv_options import openenv_settings

CHOICES = parse_environments(["http://127.0.0.1:8000", "guess"], [])


def test_the_option_gives_the_settings():
    texts = [
        "text_field=metadata.prompt",
        "action_field=5",
        "conversation=false",
        "success_reward=1",
        "max_steps=20",
        "instructions=Answer: a = 1\nThen stop.",
        "reset.level=hard",
        "reset.size.rows=3",
    ]
    assert openenv_settings(texts, CHOICES) == OpenEnvSettings(
        text_field="metadata.prompt",
        action_field="5",
        conversation=False,
        success_reward=1.0,
        max_steps=20,
        instructions="Answer: a = 1\nThen stop.",
        reset={"level": "hard", "size": {"rows": 3}},
    )
    assert openenv_settings(['instructions="two\\nlines"'], CHOICES) == OpenEnvSettings(instructions="two\nlines")
    assert openenv_settings([], []) is None


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["max_steps"], "--openenv max_steps: write KEY=VALUE"),
        (["max_step=5"], "--openenv max_step: unknown; did you mean 'max_steps'?"),
        (["max_steps=0"], "--openenv max_steps=0: write max_steps=VALUE with an integer above 0"),
        (["max_steps=1.5"], "with an integer above 0"),
        (["max_steps=true"], "with an integer above 0"),
        (["conversation=True"], "--openenv conversation=True: write conversation=VALUE with true or false"),
        (["success_reward=nan"], "with a finite number"),
        (["success_reward=high"], "with a finite number"),
        (["max_steps=1", "max_steps=2"], "--openenv max_steps: is given twice"),
        (["reset=1"], "--openenv reset: unknown"),
        (["reset.seed=1"], "--openenv reset.seed: the evaluation sets seed itself; use --seed"),
        (["reset.a=1", "reset.a.b=1"], "--openenv reset.a.b: a is not a table"),
    ],
)
def test_a_wrong_setting_is_named(texts, message):
    with pytest.raises(ConfigError) as caught:
        openenv_settings(texts, CHOICES)
    assert message in str(caught.value)


def test_the_option_needs_the_url_of_a_server():
    with pytest.raises(ConfigError, match=r"--openenv is for the URL of an OpenEnv server: give --env URL"):
        openenv_settings(["max_steps=5"], parse_environments(["guess"], []))
