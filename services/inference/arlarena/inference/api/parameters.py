"""Decodes a JSON body into a typed request.

OpenAI's routes (chat completions and completions, Python SDK 3.57) and vLLM 0.32 have parameters that the embedded
engine does not implement. The server accepts such a parameter only if its value has no effect on the response, for
example `presence_penalty` = 0. The server refuses any other value. If the server ignored the value, it would sample
tokens from a wrong distribution. Training would then use wrong data without an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from arlarena.inference.api.bodies import param_of, read_json
from arlarena.inference.api.errors import RequestError

T = TypeVar("T")
Fields = dict[str, Any]
NoEffectCheck = Callable[[Any, Fields], bool]  # (value, all fields of the request) -> whether the value has no effect

_SHOWN = 100  # maximum number of characters of a refused value in an error message
_PATH = re.compile(r" - at `\$\.?(.*)`$")
_FIELD = re.compile(r"(?:unknown|required) field `(.*?)`")


def _is(*values: Any) -> NoEffectCheck:
    """Returns a function that checks whether a parameter's value is one of `values`. The check distinguishes 0 from
    False, and 1 from True.
    """
    return lambda value, _: any(value == v and isinstance(value, bool) == isinstance(v, bool) for v in values)


def _anything(value: Any, fields: Fields) -> bool:
    """Accept any value. This check is for parameters that never change the response, such as labels and hints."""
    return True


def _no_bias(value: Any, fields: Fields) -> bool:
    return isinstance(value, dict) and all(type(bias) in (int, float) and bias == 0 for bias in value.values())


def _as_many_as_n(value: Any, fields: Fields) -> bool:
    return type(value) is int and value == (fields.get("n") or 1)


_SAMPLING = "sample with temperature, top_p and top_k"
_TOOLS = "describe the tools in a message and read the calls from the text"
_GUIDED = "ask for the format in a message and check the text"
_TEXT = "the model reads and writes text only"
_REPEAT = "send several requests with different seeds, or use n"
_TEMPLATE = "chat_template_kwargs passes options to the chat template"

# Parameters that the embedded engine does not implement. Each entry is a pair. The first item is a function that
# returns True if a value has no effect. The second item is the advice in the error message for any other value. The
# value None is always accepted.
UNSUPPORTED: dict[str, tuple[NoEffectCheck, str]] = {
    # labels and hints
    "cache_salt": (_anything, ""),
    "include_obfuscation": (_anything, ""),
    "metadata": (_anything, ""),
    "prompt_cache_key": (_anything, ""),
    "prompt_cache_options": (_anything, ""),
    "prompt_cache_retention": (_anything, ""),
    "safety_identifier": (_anything, ""),
    "user": (_anything, ""),
    # sampling
    "allowed_token_ids": (_is([]), _SAMPLING),
    "bad_words": (_is([]), "use stop"),
    "best_of": (_as_many_as_n, _REPEAT),
    "early_stopping": (_is(False), _SAMPLING),
    "frequency_penalty": (_is(0), _SAMPLING),
    "length_penalty": (_is(1), _SAMPLING),
    "logit_bias": (_no_bias, _SAMPLING),
    "logits_processors": (_is([]), _SAMPLING),
    "min_p": (_is(0), _SAMPLING),
    "min_tokens": (_is(0), "with ignore_eos, a response has max_tokens tokens"),
    "presence_penalty": (_is(0), _SAMPLING),
    "repetition_penalty": (_is(1), _SAMPLING),
    "thinking_token_budget": (_is(), "use max_tokens"),
    "use_beam_search": (_is(False), _REPEAT),
    # the prompt and the text
    "chat_template": (_is(), _TEMPLATE),
    "continuous_usage_stats": (_is(False), "include_usage returns the counts once, at the end"),
    "detokenize": (_is(True, False), ""),
    "documents": (_is([]), "put them into a message"),
    "echo": (_is(False), "use prompt_logprobs and return_token_ids"),
    "include_reasoning": (_is(True), "the reasoning is part of the text"),
    "prompt_embeds": (_is([]), _TEXT),
    "return_tokens_as_token_ids": (_is(False), "use return_token_ids"),
    "spaces_between_special_tokens": (_is(True, False), ""),
    "suffix": (_is(""), "put it into the prompt"),
    "truncate_prompt_tokens": (_is(), "shorten the prompt"),
    # tools and formats
    "function_call": (_is("none", "auto"), _TOOLS),
    "functions": (_is([]), _TOOLS),
    "guided_choice": (_is([]), _GUIDED),
    "guided_grammar": (_is(), _GUIDED),
    "guided_json": (_is(), _GUIDED),
    "guided_regex": (_is(), _GUIDED),
    "parallel_tool_calls": (_is(True, False), ""),
    "response_format": (_is({"type": "text"}), _GUIDED),
    "structured_outputs": (_is(), _GUIDED),
    "tool_choice": (_is("none", "auto"), _TOOLS),
    "tools": (_is([]), _TOOLS),
    # further features of OpenAI's models
    "audio": (_is(), _TEXT),
    "mm_processor_kwargs": (_is({}), _TEXT),
    "modalities": (_is(["text"]), _TEXT),
    "moderation": (_is(), "check the text"),
    "prediction": (_is(), "leave it out"),
    "reasoning_effort": (_is("none"), _TEMPLATE),
    "verbosity": (_is("medium"), "ask for it in a message"),
    "web_search_options": (_is(), "put the results into a message"),
    # the service
    "kv_transfer_params": (_is({}), "leave it out"),
    "output_mode": (_is("tokens"), "the response always has tokens"),
    "priority": (_is(0), "requests are served first come, first served"),
    "service_tier": (_is("auto", "default"), "there is one tier"),
    "store": (_is(False), "this server does not store responses"),
    "vllm_xargs": (_is({}), "leave it out"),
}


def parse(body: bytes, kind: type[T]) -> T:
    """Decode a JSON body into a request of type `kind`.

    Raises:
        RequestError: status 400 if the body is not valid JSON. Status 400 if a field is unknown, missing, of the wrong
            type or not implemented. Status 413 if the body has too many of the characters `[`, `{` and `:`.
    """
    value = read_json(body)
    try:
        return msgspec.convert(_implemented_fields(value) if isinstance(value, dict) else value, kind)
    except msgspec.ValidationError as error:
        raise _validation_error(str(error)) from error
    except RecursionError as error:
        raise RequestError("the body is nested too deeply", code="invalid_json") from error


def _implemented_fields(fields: Fields) -> Fields:
    """Returns the fields of a request without the parameters in `UNSUPPORTED` and without fields that are None. The
    objects `sampling_params` and `stream_options` are filtered in the same way. `max_completion_tokens` is returned as
    `max_tokens`.

    Raises:
        RequestError: status 400 if the value of a parameter in `UNSUPPORTED` would have an effect, or if
            `max_completion_tokens` is not a positive integer.
    """
    implemented: Fields = {}
    for name, value in fields.items():
        if value is None:
            continue
        if name in UNSUPPORTED:
            has_no_effect, advice = UNSUPPORTED[name]
            if not has_no_effect(value, fields):
                raise _unsupported_error(name, value, advice)
        elif name in ("sampling_params", "stream_options") and isinstance(value, dict):
            implemented[name] = _implemented_fields(value)
        else:
            implemented[name] = value
    max_tokens = implemented.pop("max_completion_tokens", None)  # OpenAI's newer name; it overrides max_tokens
    if max_tokens is not None:
        if type(max_tokens) is not int or max_tokens < 1:
            message = f"max_completion_tokens must be an integer and at least 1, got {short_json(max_tokens)}"
            raise RequestError(message, param="max_completion_tokens")
        implemented["max_tokens"] = max_tokens
    return implemented


def _unsupported_error(name: str, value: Any, advice: str) -> RequestError:
    message = f"{name} = {short_json(value)} is not supported by the embedded engine: leave it out"
    return RequestError(
        message if advice == "leave it out" else f"{message} ({advice})", param=name, code="unsupported_parameter"
    )


def short_json(value: Any) -> str:
    """Returns a value as JSON, for an error message. A long value is cut after `_SHOWN` characters."""
    if isinstance(value, str):
        value = value[: _SHOWN + 1]
    text = ""
    for piece in json.JSONEncoder().iterencode(value) if isinstance(value, (list, dict)) else (json.dumps(value),):
        text += piece[: _SHOWN + 1]
        if len(text) > _SHOWN:
            return text[:_SHOWN] + "…"
    return text


def _validation_error(why: str) -> RequestError:
    """Returns an error for the client. `why`: the message of msgspec's validation error. The `param` of the returned
    error is the path of the invalid field.
    """
    path, field = _PATH.search(why), _FIELD.search(why)
    names = [match[1] for match in (path, field) if match and match[1]]
    param = param_of(".".join(names))
    code = "unknown_parameter" if "unknown field" in why else None
    return RequestError(f"malformed request: {why}", param=param, code=code)
