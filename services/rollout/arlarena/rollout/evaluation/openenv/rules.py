"""Rules that convert observations of an OpenEnv environment to text, and a model's replies to actions.

OpenEnv defines no prompt and no parser. Observations and actions are JSON objects with arbitrary fields. These rules
choose a prompt and a parser. See docs/how-to/evaluate-on-openenv.md.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec

from arlarena.client.errors import ProtocolError
from arlarena.client.transport import QUOTE_CHARS
from arlarena.proto.config import ConfigError
from arlarena.proto.text.names import known_names
from arlarena.proto.thoughts import answer_start
from arlarena.rollout.evaluation.errors import EvaluationError

# Names and versions of the template and the parser in records. They identify the rules of this module. Results with
# different versions are not comparable.
TEMPLATE, RULES_VERSION = "openenv", "1"
PARSER_VERSION = f"{TEMPLATE}/{RULES_VERSION}"
# A split that every server has. The seed of a reset is the task's index plus the evaluation's seed.
SEEDS = "seeds"

# The model sees the first of these fields that is a non-empty string. `prompt` is the first, because it is written for
# a model.
TEXT_FIELDS = ("prompt", "message", "text", "observation", "content", "response")
MESSAGES_FIELD = "messages"  # in TextArena's environments, a list of objects with the field `content`
PROMPT_FIELD = "prompt"
# Fields of an observation that are never shown and never compared. Servers may write times or addresses in `metadata`.
HIDDEN_FIELDS = frozenset({"reward", "done", "metadata"})
MAX_TEXT_CHARS = 100_000  # about 25,000 tokens; a longer text is probably an image as numbers, or an error
MAX_SCHEMA_CHARS = 4000  # maximum number of characters of a schema in an error message
# Fields of OpenEnv's action for calling a tool of the Model Context Protocol (MCP).
TOOL_FIELDS = ("tool_name", "arguments")
TOOL_CALL = "call_tool"  # value of the field `type` of a tool call
TOOL_INSTRUCTIONS = (
    'Call one tool in each turn. Reply with one JSON object {"tool_name": …, "arguments": {…}}. The arguments must '
    "match the input_schema of the tool. The tools:"
)
_FENCED = re.compile(r"```[A-Za-z]*\n(.*?)```", re.DOTALL)


class OpenEnvSettings(msgspec.Struct, frozen=True):
    """How an OpenEnv environment is played. An evaluation with other settings is another evaluation.

    Attributes:
        text_field: the observation's field that the model sees, such as "board" or "metadata.prompt". The first
            observation of an episode must have this field. If `text_field` is None, or if a later observation lacks the
            field, `observation_text` chooses the text.
        conversation: whether the model gets all earlier turns. None: True, unless the model sees the field `prompt`. A
            prompt is complete without earlier turns.
        action_field: the action's field that gets the text of a reply. None: `ActionRule.of` chooses the field.
        success_reward: an episode is a success if its last reward is at least this number. None: an episode is a
            success if its last reward is above 0.
        max_steps: maximum number of turns. An episode that the evaluation ends at this limit is not a success.
        instructions: text before the first observation. Without a conversation, the text comes before each observation.
            None: see `ActionRule.instructions`.
        reset: additional fields of the reset request, such as {"level": "hard"}.
    """

    text_field: str | None = None
    conversation: bool | None = None
    action_field: str | None = None
    success_reward: float | None = None
    max_steps: Annotated[int, msgspec.Meta(ge=1)] = 50
    instructions: str | None = None
    reset: dict[str, Any] = {}

    def success(self, reward: float) -> bool:
        """Return whether an episode with this last reward is a success."""
        return reward > 0 if self.success_reward is None else reward >= self.success_reward

    def reset_data(self, split: str, index: int, seed: int) -> dict[str, Any]:
        """Return the data of a task's reset request.

        For the split `SEEDS` or "", the data contains `seed`. Any other split belongs to the server's Task API, and the
        data contains `split`, `index` and `seed`. The data also contains the fields of the setting `reset`.
        """
        if split in ("", SEEDS):
            return {**self.reset, "seed": seed + index}
        return {**self.reset, "split": split, "index": index, "seed": seed}


@dataclass(frozen=True, slots=True)
class ActionReading:
    """An action that was read from a reply.

    Attributes:
        data: the JSON object for the server, or None if the reply has no valid action.
        shown: the action as text, for records.
        problem: text that tells the model why the reply has no valid action; "" if `data` is not None.
    """

    data: dict[str, Any] | None
    shown: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ActionRule:
    """Reads actions from replies.

    Attributes:
        field: the action's field that gets the text after the thought; "": the text contains a JSON object.
        schema: JSON Schema of the action.
        choices: the allowed values of `field` if the schema lists them.
        action_type: value for the field `type` of each action; "": the field is not set.
        calls_tools: whether an action calls an MCP tool.
    """

    field: str
    schema: dict[str, Any]
    choices: tuple[str, ...] = ()
    action_type: str = ""
    calls_tools: bool = False

    @classmethod
    def of(cls, schema: object, address: str, chosen: str | None = None) -> ActionRule:
        """Return the rule for the action's schema from `GET /schema`. The first case that applies is used.

        1. `chosen` is given: this field gets the text.
        2. The action has the fields `TOOL_FIELDS`, or all its fields are in `HIDDEN_FIELDS`: the reply is a JSON object
           that calls a tool.
        3. The only required field is a string: this field gets the text.
        4. No field is required, and the only field is a string: this field gets the text.
        5. Otherwise the reply is a JSON object.

        Raises:
            EvaluationError: the action is not an object with fields.
            ConfigError: the action has no string field `chosen`.
        """
        if not isinstance(schema, dict):
            raise EvaluationError(f"{address}: the field action is not a JSON Schema: {_short(schema)}")
        body = _resolved(schema, schema)
        properties = body.get("properties")
        fields = {name: _resolved(part, schema) for name, part in _items(properties) if name not in HIDDEN_FIELDS}
        texts = [name for name, part in fields.items() if _is_string(part, schema)]
        if chosen is not None:
            if chosen not in texts:
                raise ConfigError(
                    f"--openenv action_field={chosen}: the action of {address} has no such string field; "
                    f"{known_names(chosen, texts)}. Schema of the action: {_short(schema)}"
                )
            return cls(chosen, schema, _choices(fields[chosen]))
        is_object = body.get("type", "object") == "object"
        if is_object and (all(name in fields for name in TOOL_FIELDS) or (not fields and _items(properties))):
            action_type = TOOL_CALL if "type" in fields or not fields else ""
            return cls("", schema, action_type=action_type, calls_tools=True)
        if not is_object or not (fields or body.get("anyOf") or body.get("oneOf")):
            raise EvaluationError(
                f"{address}: a reply cannot be converted to an action, because the action is not an object with "
                f"fields. Schema of the action: {_short(schema)}"
            )
        names = body.get("required")
        required = [name for name in names if name in fields] if isinstance(names, list) else []
        candidates = required or list(fields)
        if len(candidates) == 1 and candidates[0] in texts:
            return cls(candidates[0], schema, _choices(fields[candidates[0]]))
        return cls("", schema)

    def read(self, reply: str) -> ActionReading:
        """Return the action in a reply. The action is the text after the thought, or the JSON object in this text.

        The method looks for the object in three places: the complete text, the last block between ``` marks, and the
        text from the first { to the last }. It uses the first valid object.
        """
        start = answer_start(reply)
        if start is None:
            return ActionReading(None, "", "Your reply has no answer, because its thought is not closed.")
        text = reply[start:].strip()
        if self.field:
            if not text:
                return ActionReading(None, "", "Your reply has no answer.")
            return ActionReading({self.field: text}, text)
        for candidate in (text, *_FENCED.findall(text)[-1:], text[text.find("{") : text.rfind("}") + 1]):
            found = _json_object(candidate)
            if found is not None:
                found |= {"type": self.action_type} if self.action_type else {}
                return ActionReading(found, msgspec.json.encode(found).decode())
        return ActionReading(None, "", "Your reply contains no valid JSON object. Reply with one JSON object.")

    def instructions(self, description: str, tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return the default instructions for the model. They depend on the kind of action.

        - A tool call: the environment's description and the tools.
        - Another JSON object: the environment's description and the action's schema.
        - A text with a list of choices: the choices.
        - Another text: "".
        """
        if self.field:
            return f"Reply with one of: {', '.join(self.choices)}." if self.choices else ""
        if self.calls_tools:
            lines = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
            return f"{description}\n\n{TOOL_INSTRUCTIONS}\n{lines}".strip()
        schema = json.dumps(self.schema, ensure_ascii=False)
        return f"{description}\n\nReply with one JSON object that matches this JSON Schema:\n{schema}".strip()


def observation_text(
    observation: Mapping[str, Any], chosen: str | None, address: str, *, first: bool
) -> tuple[str, str]:
    """Return the name of the field that the model sees, and its text. The first case that applies is used.

    1. The observation has the field `chosen`: the text is the value of this field.
    2. The field `messages` is a list of messages: the text is the contents of these messages.
    3. A field of `TEXT_FIELDS` is a non-empty string: the text is the value of the first such field.
    4. Otherwise the name is "", and the text is the JSON of the observation without the fields of `HIDDEN_FIELDS`.

    Args:
        observation: the observation that the server reports.
        chosen: name of a field, or None. "a.b" is the field b of the field a.
        address: address of the request, for messages.
        first: whether this is the first observation of an episode. The first observation must have the field `chosen`.

    Raises:
        ProtocolError: the first observation lacks the field `chosen`, the text is too long, or it is not valid Unicode.
    """
    name, text = _chosen(observation, chosen, address, first=first)
    where = f"{address}: observation.{name}" if name else f"{address}: observation"
    if len(text) > MAX_TEXT_CHARS:
        raise ProtocolError(
            f"{where} has {len(text)} characters, and the maximum is {MAX_TEXT_CHARS}: choose another field with "
            "--openenv text_field=NAME"
        )
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ProtocolError(f"{where} contains a lone surrogate, which is not valid Unicode") from None
    return name, text


def check_text_field(chosen: str | None, schemas: Mapping[str, Any], address: str) -> None:
    """Check that the observation schemas contain the field `chosen` (the setting `text_field`).

    If a schema allows fields that it does not list, there is no check. `schemas`: the schemas from `GET /schema`.

    Raises:
        ConfigError: the schemas do not contain the field.
    """
    if chosen is None:
        return
    known: set[str] = set()
    for schema in (schemas.get("observation"), schemas.get("reset_observation")):
        body = _resolved(schema, schema) if isinstance(schema, dict) else {}
        if schema is not None and (body.get("additionalProperties") is not False or not body.get("properties")):
            return  # the observation may have fields that the schema does not list
        known.update(name for name, _ in _items(body.get("properties")))
    if known and chosen not in known and chosen.partition(".")[0] not in known:
        raise ConfigError(
            f"--openenv text_field={chosen}: the observation of {address} has no such field; "
            f"{known_names(chosen, sorted(known - {'reward', 'done'}))}"
        )


def visible(observation: Mapping[str, Any]) -> str:
    """Return the canonical JSON of an observation without the fields of `HIDDEN_FIELDS`, for comparisons."""
    return json.dumps({name: value for name, value in observation.items() if name not in HIDDEN_FIELDS}, sort_keys=True)


def _chosen(observation: Mapping[str, Any], chosen: str | None, address: str, *, first: bool) -> tuple[str, str]:
    if chosen is not None:
        found = _field(observation, chosen)
        if found is not None:
            return chosen, (
                _contents(found) or (found if isinstance(found, str) else json.dumps(found, ensure_ascii=False))
            )
        if first:
            raise ProtocolError(
                f"{address}: observation.{chosen} is missing, but --openenv text_field={chosen} requires it; the "
                f"observation has {_short(sorted(observation))}"
            )
    contents = _contents(observation.get(MESSAGES_FIELD))
    if contents:
        return MESSAGES_FIELD, contents
    for name in TEXT_FIELDS:
        value = observation.get(name)
        if isinstance(value, str) and value:
            return name, value
    shown = {name: value for name, value in observation.items() if name not in HIDDEN_FIELDS}
    return "", json.dumps(shown, ensure_ascii=False)


def _field(observation: Mapping[str, Any], name: str) -> Any:
    """Return the field `name`, or None if it is missing or null. The name "a.b" is the field b of the field a."""
    if name in observation:
        return observation[name]
    found: Any = observation
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _contents(messages: object) -> str:
    """Return the contents of a list of messages, one per line, or "" if `messages` is not a list of messages."""
    if not isinstance(messages, list):
        return ""
    parts = [message.get("content") for message in messages if isinstance(message, dict)]
    texts = [part for part in parts if isinstance(part, str)]
    return "\n".join(texts) if texts and len(texts) == len(messages) else ""


def _json_object(text: str) -> dict[str, Any] | None:
    try:
        found = msgspec.json.decode(text)
        if not isinstance(found, dict):
            return None
        msgspec.json.encode(found)  # checks that the object can be sent; an integer may be too large
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return None
    return found


def _items(properties: object) -> list[tuple[str, Any]]:
    return list(properties.items()) if isinstance(properties, dict) else []


def _resolved(part: object, root: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a schema. If the part is a local reference (`#/$defs/…`), return its target instead."""
    if not isinstance(part, dict):
        return {}
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        definitions = root.get("$defs")
        found = definitions.get(reference.removeprefix("#/$defs/")) if isinstance(definitions, dict) else None
        return found if isinstance(found, dict) else {}
    return part


def _is_string(part: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Return whether a field's value is a string. The schema may also allow null. Return False for a constant."""
    if part.get("type") == "string":
        return "const" not in part
    options = part.get("anyOf")
    kinds = [_resolved(option, root).get("type") for option in options] if isinstance(options, list) else []
    return "string" in kinds and set(kinds) <= {"string", "null"}


def _choices(part: Mapping[str, Any]) -> tuple[str, ...]:
    values = part.get("enum")
    texts = [value for value in values if isinstance(value, str)] if isinstance(values, list) else []
    return tuple(texts)


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=True, default=repr)
    limit = MAX_SCHEMA_CHARS if isinstance(value, dict) else QUOTE_CHARS
    return text if len(text) <= limit else text[:limit] + "…"
