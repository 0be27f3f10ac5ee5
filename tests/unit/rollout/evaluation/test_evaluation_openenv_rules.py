"""The rules that choose the shown text and the sent action of OpenEnv environments."""

import json
import time
from typing import Any

import pytest

from arlarena.client.errors import ProtocolError
from arlarena.proto.config import ConfigError
from arlarena.rollout.evaluation.errors import EvaluationError
from arlarena.rollout.evaluation.openenv.rules import (
    MAX_TEXT_CHARS,
    SEEDS,
    ActionRule,
    OpenEnvSettings,
    check_text_field,
    observation_text,
    visible,
)
from arlarena.rollout.evaluation.openenv.session import OpenEnvEpisode, OpenEnvRules, OpenEnvState

TEXT = {"type": "string"}
NUMBER = {"type": "integer"}
METADATA = {"type": "object"}


def schema(required: list[str], **fields: Any) -> dict[str, Any]:
    return {"type": "object", "properties": {"metadata": METADATA, **fields}, "required": required}


OPTIONAL_TEXT = {"anyOf": [TEXT, {"type": "null"}], "default": None}
REFERENCED = {"$ref": "#/$defs/Way", "x": 1}


@pytest.mark.parametrize(
    ("action", "field"),
    [
        (schema(["text"], text=TEXT), "text"),
        (schema(["code"], code=TEXT, timeout=NUMBER), "code"),
        (schema([], message=TEXT), "message"),
        (schema([], message=OPTIONAL_TEXT), "message"),
        (schema(["way"], way=REFERENCED) | {"$defs": {"Way": {"type": "string", "enum": ["up"]}}}, "way"),
        (schema(["name", "value"], name=TEXT, value=TEXT), ""),
        (schema([], name=TEXT, value=TEXT), ""),
        (schema(["index"], index=NUMBER, note=TEXT), ""),
        (schema(["kind"], kind={"type": "string", "const": "call"}), ""),
        ({"anyOf": [schema(["a"], a=NUMBER), schema(["b"], b=NUMBER)]}, ""),
    ],
)
def test_the_only_required_string_field_gets_the_text(action: dict[str, Any], field: str) -> None:
    assert ActionRule.of(action, "http://x/schema").field == field


@pytest.mark.parametrize("action", [{"type": "array", "items": TEXT}, {}, {"properties": 5}, [], None, "x"])
def test_an_action_without_fields_is_an_error_with_the_schema(action: Any) -> None:
    with pytest.raises(EvaluationError, match=r"http://x/schema") as raised:
        ActionRule.of(action, "http://x/schema")
    assert json.dumps(action) in str(raised.value)


def test_a_chosen_field_overrides_the_rule_and_must_be_a_string() -> None:
    action = schema(["name", "value", "index"], name=TEXT, value=TEXT, index=NUMBER)
    assert ActionRule.of(action, "x", "value").read("7").data == {"value": "7"}
    for name in ("index", "missing", "metadata"):
        with pytest.raises(ConfigError, match=rf"--openenv action_field={name}: .* known: name, value"):
            ActionRule.of(action, "x", name)


def test_the_text_after_the_thought_is_the_action() -> None:
    rule = ActionRule.of(schema(["text"], text=TEXT), "x")
    assert rule.read("<think>left?</think>\n right ").data == {"text": "right"}
    assert rule.read('{"a": 1}').data == {"text": '{"a": 1}'}
    for reply in ("<think>left", "", "<think>x</think>  "):
        reading = rule.read(reply)
        assert (reading.data, bool(reading.problem)) == (None, True), reply


@pytest.mark.parametrize(
    ("reply", "data"),
    [
        ('{"row": 1}', {"row": 1}),
        ('<think>{"row": 0}</think> I choose {"row": {"a": 1}}.', {"row": {"a": 1}}),
        ('First\n```json\n{"row": 0}\n```\nbetter\n```\n{"row": 2}\n``` {x}', {"row": 2}),
        ('{"row": NaN}', None),
        ("[1]", None),
        ("row 1", None),
        ('{"row": 1} or {"row": 2}', None),
        ('{"row": "\\ud800"}', None),
        ("{" * 100_000, None),
        ('{"a":' * 100_000 + "}", None),
    ],
)
def test_a_json_object_is_read_from_a_reply(reply: str, data: dict[str, Any] | None) -> None:
    began = time.monotonic()
    assert ActionRule.of(schema(["row"], row=NUMBER), "x").read(reply).data == data
    assert time.monotonic() - began < 2


def test_default_instructions_have_the_schema_or_the_choices() -> None:
    action = schema(["row"], row=NUMBER)
    text = ActionRule.of(action, "x").instructions("Mark a cell.")
    assert text.startswith("Mark a cell.\n")
    assert json.dumps(action) in text
    assert ActionRule.of(schema(["text"], text=TEXT), "x").instructions("A game.") == ""
    ways = ActionRule.of(schema(["way"], way=TEXT | {"enum": ["up", "down"]}), "x")
    assert "up, down" in ways.instructions("A game.")


@pytest.mark.parametrize(
    ("observation", "field", "text"),
    [
        ({"text": "t", "prompt": "p", "message": "m"}, "prompt", "p"),
        ({"text": "t", "prompt": "", "message": None}, "text", "t"),
        ({"prompt": "p", "messages": [{"content": "a"}, {"content": "b", "sender_id": 0}]}, "messages", "a\nb"),
        ({"prompt": "p", "messages": []}, "prompt", "p"),
        ({"prompt": "p", "messages": [{"content": "a"}, 5]}, "prompt", "p"),
        ({"stdout": "é", "reward": 1, "done": True, "metadata": {"t": 1}}, "", '{"stdout": "é"}'),
        ({}, "", "{}"),
    ],
)
def test_the_shown_text(observation: dict[str, Any], field: str, text: str) -> None:
    assert observation_text(observation, None, "http://x", first=True) == (field, text)


def test_a_chosen_text_field_is_shown_or_named_as_missing() -> None:
    observation = {"board": [1, 2], "text": "t", "metadata": {"prompt": [{"content": "a"}, {"content": "b"}]}}
    assert observation_text(observation, "board", "http://x", first=True) == ("board", "[1, 2]")
    assert observation_text(observation, "metadata.prompt", "http://x", first=True) == ("metadata.prompt", "a\nb")
    for name in ("state", "metadata.question", "text.length"):
        with pytest.raises(ProtocolError, match=rf"http://x: observation\.{name} is missing.*board"):
            observation_text(observation, name, "http://x", first=True)
        assert observation_text(observation, name, "http://x", first=False) == ("text", "t")


def test_a_chosen_text_field_is_compared_with_the_schema() -> None:
    closed = {"properties": {"board": {}, "metadata": {}, "reward": {}}, "additionalProperties": False}
    for name in (None, "board", "metadata.prompt"):
        check_text_field(name, {"observation": closed}, "http://x")
    with pytest.raises(ConfigError, match=r"text_field=bord: .*http://x.*known: board, metadata; did you mean 'board'"):
        check_text_field("bord", {"observation": closed}, "http://x")
    first = closed | {"properties": {"rules": {}}}
    check_text_field("rules", {"observation": closed, "reset_observation": first}, "http://x")
    for schemas in ({}, {"observation": {}}, {"observation": closed | {"additionalProperties": True}}):
        check_text_field("bord", schemas, "http://x")


def test_an_action_of_tool_name_and_arguments_is_a_tool_call() -> None:
    tools = [{"name": "add", "description": "Add.", "input_schema": {"type": "object"}}]
    fields = {"tool_name": TEXT, "arguments": {"type": "object"}}
    reply = '{"tool_name": "add", "arguments": {"a": 1}}'
    typed = ActionRule.of(schema(["tool_name"], type={"const": "call_tool"}, **fields), "x")
    assert typed.read(reply).data == {"type": "call_tool", "tool_name": "add", "arguments": {"a": 1}}
    assert ActionRule.of(schema(["tool_name"], **fields), "x").read(reply).data == json.loads(reply)
    assert ActionRule.of(schema([]), "x").read(reply).data == typed.read(reply).data  # OpenEnv's class Action
    instructions = typed.instructions("A calculator.", tools)
    assert instructions.startswith("A calculator.\n")
    assert json.dumps(tools[0]) in instructions


def test_a_reset_has_the_task_and_the_further_fields() -> None:
    settings = OpenEnvSettings(reset={"level": {"name": "hard"}})
    assert settings.reset_data(SEEDS, 3, 10) == {"level": {"name": "hard"}, "seed": 13}
    assert settings.reset_data("test", 3, 10) == {
        "level": {"name": "hard"}, "split": "test", "index": 3, "seed": 10,
    }  # fmt: skip


@pytest.mark.parametrize("text", ["x" * (MAX_TEXT_CHARS + 1), "\ud800"])
def test_a_text_that_cannot_be_shown_is_an_error_with_the_field(text: str) -> None:
    with pytest.raises(ProtocolError, match=r"http://x: observation\.text"):
        observation_text({"text": text}, None, "http://x", first=False)
    with pytest.raises(ProtocolError, match=r"http://x: observation"):
        observation_text({"other": text}, None, "http://x", first=True)


def test_the_content_key_is_of_the_task_and_not_of_the_shown_field() -> None:
    def first(task: str, shown: str | None, **observation: Any) -> tuple[str, str]:
        rules = OpenEnvRules("n", OpenEnvSettings(text_field=shown), ActionRule.of(schema(["a"], a=TEXT), "x"), "")
        state = OpenEnvEpisode(rules, task, "x").first(OpenEnvState(observation, None, False))
        return state.observation.text, state.metadata.content_key

    observation = {"text": "t", "board": "b"}
    (text, key), (board, same) = first("1", None, **observation), first("1", "board", **observation)
    assert (text, board) == ("t", "b")
    others = [first("2", None, **observation), first("1", None, text="t", board="c")]
    assert key == same
    assert key not in [other for _, other in others]


def test_hidden_fields_are_not_compared() -> None:
    assert visible({"b": 1, "a": float("nan"), "metadata": {"time": 1}}) == visible({"a": float("nan"), "b": 1})
    assert visible({"a": 1}) != visible({"a": 2})


def test_success_is_a_reward_above_0_or_of_at_least_the_threshold() -> None:
    assert [OpenEnvSettings().success(reward) for reward in (-1.0, 0.0, 0.1)] == [False, False, True]
    assert [OpenEnvSettings(success_reward=0.5).success(reward) for reward in (0.49, 0.5)] == [False, True]
    assert OpenEnvSettings(success_reward=0.0).success(0.0)
