"""Limits of one request, checked on the decoded body before it is rendered, tokenised or queued.

Every error message names the field and the limit. If a setting can raise the limit, the message names this setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arlarena.inference.api.bodies import read_json
from arlarena.inference.api.errors import CONTEXT_LENGTH, RequestError
from arlarena.inference.settings import InferenceSettings
from arlarena.proto.policy import SamplingParams

# Assumed maximum of the average number of characters per token of a text. Usual texts have about 4.
CHARS_PER_TOKEN = 16
MIN_TEXT_CHARS = 1 << 18  # the lowest default of the setting max_text_chars
_VALUES_PER_MESSAGE = 16  # maximum of the average number of fields, content parts, tool calls and arguments per message


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits of one request. `sequences`: how many sequences the server can run and queue at the same time.
    `text_chars`: maximum number of characters of a text. `messages`: maximum number of messages in a conversation.
    `prompt_tokens`: maximum total number of tokens of all prompts. `logprobs`: maximum number of log-probs in the
    response.
    """

    sequences: int
    text_chars: int
    messages: int
    prompt_tokens: int
    logprobs: int

    @classmethod
    def from_settings(cls, settings: InferenceSettings, slots: int, max_length: int) -> RequestLimits:
        """Returns the limits for a model with a context of `max_length` tokens. `slots`: the maximum number of running
        sequences.
        """
        return cls(
            settings.max_waiting + slots,
            settings.max_text_chars or max(MIN_TEXT_CHARS, CHARS_PER_TOKEN * max_length),
            settings.max_messages,
            settings.max_prompt_tokens,
            settings.max_logprobs,
        )

    def check_sequences(self, prompts: int, n: int) -> None:
        """Refuse a request with more sequences than the server can run and queue.

        Raises:
            RequestError: status 400 if the request has too many sequences.
        """
        if prompts * n > self.sequences:
            raise RequestError(
                f"{prompts} prompts with n = {n} are {prompts * n} sequences, but this server accepts at most "
                f"{self.sequences} (server setting max_waiting plus the number of slots): send fewer in a request",
                param="prompt" if prompts > 1 else "n",
            )

    def check_text(self, chars: int, param: str) -> None:
        """Refuse a text that is too long to be tokenised.

        Raises:
            RequestError: status 400 with the code `context_length_exceeded` if the text is too long.
        """
        if chars > self.text_chars:
            raise RequestError(
                f"{param} has {chars} characters, more than the maximum context length allows: {self.text_chars} "
                "characters (server setting max_text_chars); shorten it",
                param=param,
                code=CONTEXT_LENGTH,
            )

    def check_tokens(self, tokens: int, param: str) -> None:
        """Refuse prompts that together have too many tokens.

        Raises:
            RequestError: status 400 if the prompts have too many tokens.
        """
        if tokens > self.prompt_tokens:
            raise RequestError(
                f"{param} has more than {self.prompt_tokens} tokens in all (server setting max_prompt_tokens): send "
                "several requests",
                param=param,
            )

    def check_logprobs(self, params: SamplingParams, prompt_tokens: int, sampled_tokens: int) -> None:
        """Refuse a request for too many log-probs. `sampled_tokens`: the maximum total number of sampled tokens of all
        choices.

        Raises:
            RequestError: status 400 if the response may have too many log-probs.
        """
        sampled = 0 if params.logprobs is None else sampled_tokens * (1 + params.logprobs)
        prompt = 0 if params.prompt_logprobs is None else prompt_tokens * (1 + params.prompt_logprobs)
        if sampled + prompt > self.logprobs:
            raise RequestError(
                f"the response may have {sampled + prompt} log-probs, but this server returns at most {self.logprobs} "
                "(server setting max_logprobs): lower max_tokens, n, logprobs or prompt_logprobs, or send several "
                "requests",
                param="logprobs" if sampled >= prompt else "prompt_logprobs",
            )

    def check_body(self, body: bytes) -> None:
        """Check the limits of a request to a model route, for an engine that does not check them (vLLM). A field of an
        unexpected type is not checked, because the engine refuses such a field.

        Raises:
            RequestError: status 400 if a limit is exceeded or the body is not valid JSON; status 413 if the body has
                too many lists, objects and fields.
        """
        request = read_json(body)
        if not isinstance(request, dict):
            return
        nested = request.get("sampling_params")
        counts = nested if isinstance(nested, dict) else request
        n = max([1, *(value for key in ("n", "best_of") if type(value := counts.get(key)) is int)])
        prompt = request.get("token_ids", request.get("prompt"))
        prompts = self.count_prompts(prompt) if isinstance(prompt, str | list) else 1
        self.check_sequences(prompts, n)
        for text in prompt if isinstance(prompt, list) else (prompt, request.get("text")):
            if isinstance(text, str):
                self.check_text(len(text), "prompt")
        messages, options = request.get("messages"), request.get("chat_template_kwargs")
        if isinstance(messages, list):
            self.check_conversation(messages, options if isinstance(options, dict) else None)

    def count_prompts(self, prompt: str | list[Any]) -> int:
        """Returns the number of prompts in `prompt`, which is a text, token ids, a list of texts or a list of id lists.

        Raises:
            RequestError: status 400 if the prompts have too many tokens.
        """
        if isinstance(prompt, str) or not prompt or type(prompt[0]) is int:
            tokens = 0 if isinstance(prompt, str) else len(prompt)
            self.check_tokens(tokens, "prompt")
            return 1
        self.check_tokens(sum(len(item) for item in prompt if isinstance(item, list)), "prompt")
        return len(prompt)

    def check_conversation(self, messages: list[dict[str, Any]], options: dict[str, Any] | None) -> int:
        """Refuse a conversation with too many messages, too many fields and parts, or too many characters. The limits
        of fields, parts and characters also apply to `options`, the variables of the chat template. Returns the number
        of fields, parts and characters together.

        Raises:
            RequestError: status 400 if a limit is exceeded.
        """
        if len(messages) > self.messages:
            raise RequestError(
                f"messages has {len(messages)} messages, but this server accepts at most {self.messages} "
                "(server setting max_messages)",
                param="messages",
            )
        size = 0
        for param, value in (("messages", messages), ("chat_template_kwargs", options)):
            values, chars = json_size(value)
            if values > self.messages * _VALUES_PER_MESSAGE:
                raise RequestError(
                    f"{param} has {values} fields and parts, but this server accepts at most "
                    f"{self.messages * _VALUES_PER_MESSAGE} ({_VALUES_PER_MESSAGE} times the server setting "
                    "max_messages)",
                    param=param,
                )
            self.check_text(chars, param)
            size += values + chars
        return size


def json_size(value: Any) -> tuple[int, int]:
    """Returns the size of a JSON value: (number of items in lists and dicts, characters in strings and names)."""
    items = chars = 0
    stack = [value]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            chars += len(node)
        elif isinstance(node, dict):
            items += len(node)
            chars += sum(map(len, node))
            stack += node.values()
        elif isinstance(node, list):
            items += len(node)
            stack += node
    return items, chars
