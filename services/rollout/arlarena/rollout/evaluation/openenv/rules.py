"""How an evaluation shows the observations of a foreign OpenEnv environment, and how it reads the replies of a model.

OpenEnv defines neither a prompt nor a parser: observations and actions are JSON objects with arbitrary fields. These
rules choose a prompt and a parser. The documentation is docs/how-to/evaluate-on-openenv.md.
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

# Template and parser of records: the rules of this module. Another version means that results are not comparable.
TEMPLATE, RULES_VERSION = "openenv", "1"
PARSER_VERSION = f"{TEMPLATE}/{RULES_VERSION}"
# The split of all servers: the seed of the reset is the index plus the seed of the evaluation.
SEEDS = "seeds"

# The first of these fields that is a non-empty string is shown. `prompt` comes first, because it is meant for a model.
TEXT_FIELDS = ("prompt", "message", "text", "observation", "content", "response")
MESSAGES_FIELD = "messages"  # TextArena's environments: a list of objects with the field `content`
PROMPT_FIELD = "prompt"
# Fields of an observation that are never shown and never compared. Servers may write times or addresses in `metadata`.
HIDDEN_FIELDS = frozenset({"reward", "done", "metadata"})
MAX_TEXT_CHARS = 100_000  # about 25,000 tokens; a longer text is an image in numbers, or an error
MAX_SCHEMA_CHARS = 4000  # of a schema in an error message
# Fields of OpenEnv's action that calls a tool of the Model Context Protocol (MCP).
TOOL_FIELDS = ("tool_name", "arguments")
TOOL_CALL = "call_tool"  # value of the field `type` of such an action
TOOL_INSTRUCTIONS = (
    'Call one tool in each turn. Reply with one JSON object {"tool_name": …, "arguments": {…}}. The arguments must '
    "match the input_schema of the tool. The tools:"
)
_FENCED = re.compile(r"```[A-Za-z]*\n(.*?)```", re.DOTALL)


class OpenEnvSettings(msgspec.Struct, frozen=True):
    """How an OpenEnv environment is played. Part of the evaluation's identity.

    Attributes:
        text_field: the field of the observation that is shown, such as "board" or "metadata.prompt". It must be in the
            first observation of an episode. None, or in a later observation without it: the rule of
            `observation_text`.
        conversation: whether the model gets all earlier turns. None: False if the field `prompt` is shown, because a
            prompt is complete, else True.
        action_field: the field of the action that gets the text of a reply; None: by the rule of `ActionRule.of`.
        success_reward: an episode is a success if its last reward is at least this number. None: if it is above 0.
        max_steps: the evaluation ends an episode after so many turns. Such an episode is no success.
        instructions: text before the first observation, or before each one if there is no conversation. None: see
            `ActionRule.instructions`.
        reset: further fields of the reset, such as {"level": "hard"}.
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
        """Return the data of the reset for a task. Splits other than `SEEDS` are those of OpenEnv's Task API."""
        if split in ("", SEEDS):
            return {**self.reset, "seed": seed + index}
        return {**self.reset, "split": split, "index": index, "seed": seed}


@dataclass(frozen=True, slots=True)
class ActionReading:
    """An action that was read from a reply.

    Attributes:
        data: the JSON object for the server, or None if the reply has no action.
        shown: the action as text, for records.
        problem: the fault of the reply, as text for the model; "" if `data` is not None.
    """

    data: dict[str, Any] | None
    shown: str = ""
    problem: str = ""


@dataclass(frozen=True, slots=True)
class ActionRule:
    """Reads actions from replies.

    Attributes:
        field: the field that gets the text after the thought; "": the text is a JSON object.
        schema: JSON Schema of the action.
        choices: the values of `field` if the schema lists them.
        action_type: value of the field `type` that each action gets; "": none.
        calls_tools: whether an action is the call of an MCP tool.
    """

    field: str
    schema: dict[str, Any]
    choices: tuple[str, ...] = ()
    action_type: str = ""
    calls_tools: bool = False

    @classmethod
    def of(cls, schema: object, address: str, chosen: str | None = None) -> ActionRule:
        """Return the rule for a schema, as `GET /schema` reports it.

        If the action has the fields `TOOL_FIELDS` or no fields, it is the call of a tool, and the reply is a JSON
        object. Otherwise, with exactly one required field that is a string (or no required field and exactly one
        field), this field gets the text. Otherwise the reply is a JSON object. `chosen`: the field that gets the text;
        it overrides this rule.

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
                    f"--openenv action_field={chosen}: the action of {address} has no such field for a text; "
                    f"{known_names(chosen, texts)}. Schema of the action: {_short(schema)}"
                )
            return cls(chosen, schema, _choices(fields[chosen]))
        is_object = body.get("type", "object") == "object"
        if is_object and (all(name in fields for name in TOOL_FIELDS) or (not fields and _items(properties))):
            action_type = TOOL_CALL if "type" in fields or not fields else ""
            return cls("", schema, action_type=action_type, calls_tools=True)
        if not is_object or not (fields or body.get("anyOf") or body.get("oneOf")):
            raise EvaluationError(
                f"{address}: a reply cannot be made an action, because the action is not an object with fields. Schema "
                f"of the action: {_short(schema)}"
            )
        names = body.get("required")
        required = [name for name in names if name in fields] if isinstance(names, list) else []
        candidates = required or list(fields)
        if len(candidates) == 1 and candidates[0] in texts:
            return cls(candidates[0], schema, _choices(fields[candidates[0]]))
        return cls("", schema)

    def read(self, reply: str) -> ActionReading:
        """Return the action in a reply: the text after the thought, or the JSON object in it.

        The object is the complete text, the last block between ``` marks, or the text from the first { to the last }.
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
        """Return the default instructions for the model.

        They are the description and the tools if an action is the call of a tool, the description and the schema of
        the action if it is another JSON object, the choices if it is a choice, else "".
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
    """Return the name of the shown field ("" for the JSON of all fields) and the text.

    The text is the field `chosen`, or the contents of the field `messages`, or the first field of `TEXT_FIELDS` that
    is a non-empty string, or the JSON of the observation without the fields of `HIDDEN_FIELDS`.

    Args:
        observation: as the server reports it.
        chosen: name of a field; "a.b" is the field b of the field a.
        address: address of the request, for messages.
        first: whether it is the first observation of an episode, which must have the field `chosen`.

    Raises:
        ProtocolError: the field is missing, or its text is too long or no valid Unicode.
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
        raise ProtocolError(f"{where} contains a lone surrogate, which is no valid Unicode") from None
    return name, text


def check_text_field(chosen: str | None, schemas: Mapping[str, Any], address: str) -> None:
    """Check the setting `text_field` with the schemas of the observations, if they list all fields.

    `schemas`: as `GET /schema` reports them.

    Raises:
        ConfigError: no observation has this field.
    """
    if chosen is None:
        return
    known: set[str] = set()
    for schema in (schemas.get("observation"), schemas.get("reset_observation")):
        body = _resolved(schema, schema) if isinstance(schema, dict) else {}
        if schema is not None and (body.get("additionalProperties") is not False or not body.get("properties")):
            return  # there may be other fields
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
                f"{address}: observation.{chosen} is missing, which --openenv text_field={chosen} shows; the "
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
    """Return the field `name`, where "a.b" is the field b of the field a, or None if it is missing or null."""
    if name in observation:
        return observation[name]
    found: Any = observation
    for part in name.split("."):
        found = found.get(part) if isinstance(found, dict) else None
    return found


def _contents(messages: object) -> str:
    """Return the contents of a list of messages, one a line, or "" if it is no such list."""
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
        msgspec.json.encode(found)  # a check that it can be sent: integers may be too large
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError):
        return None
    return found


def _items(properties: object) -> list[tuple[str, Any]]:
    return list(properties.items()) if isinstance(properties, dict) else []


def _resolved(part: object, root: Mapping[str, Any]) -> dict[str, Any]:
    """Return a part of a schema, with its local reference (`#/$defs/…`) followed once."""
    if not isinstance(part, dict):
        return {}
    reference = part.get("$ref")
    if isinstance(reference, str) and reference.startswith("#/$defs/"):
        definitions = root.get("$defs")
        found = definitions.get(reference.removeprefix("#/$defs/")) if isinstance(definitions, dict) else None
        return found if isinstance(found, dict) else {}
    return part


def _is_string(part: Mapping[str, Any], root: Mapping[str, Any]) -> bool:
    """Return whether a text can be the value: a string, or a string or null."""
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
