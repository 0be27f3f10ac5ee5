"""Limits on one request. The server checks most of them before it renders or tokenises a text.

Every error message names the field and the limit. If a setting can raise the limit, the message also names the setting.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arlarena.inference.api.bodies import read_json
from arlarena.inference.api.errors import CONTEXT_LENGTH, RequestError
from arlarena.inference.settings import InferenceSettings
from arlarena.proto.policy import SamplingParams

# The default of the setting max_text_chars is this number of characters per token of the context. Usual texts have
# about 4 characters per token.
CHARS_PER_TOKEN = 16
MIN_TEXT_CHARS = 1 << 18  # the lowest default of the setting max_text_chars
# Multiplied by the setting max_messages: the maximum number of fields and list items of all messages of a conversation.
# Examples of list items are content parts and tool calls.
_VALUES_PER_MESSAGE = 16


@dataclass(frozen=True, slots=True)
class RequestLimits:
    """The limits on one request. Each field is a maximum number. `sequences`: the maximum number of sequences of a
    request, which is the number of sequences that the server can run and queue. `text_chars`: characters of a text.
    `messages`: messages of a conversation. `prompt_tokens`: tokens of all prompts together. `logprobs`: log-probs in
    the response.

    The argument `param` of the methods is the name of the field in the error.
    """

    sequences: int
    text_chars: int
    messages: int
    prompt_tokens: int
    logprobs: int

    @classmethod
    def from_settings(cls, settings: InferenceSettings, slots: int, max_length: int) -> RequestLimits:
        """Returns the limits. `slots`: the maximum number of running sequences. `max_length`: the context length of the
        model in tokens.
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
                f"{self.sequences} (server setting max_waiting plus the number of slots): send fewer sequences in one "
                "request",
                param="prompt" if prompts > 1 else "n",
            )

    def check_text(self, chars: int, param: str) -> None:
        """Refuse a text that is too long. `chars`: the number of characters of the text.

        Raises:
            RequestError: status 400 with the code `context_length_exceeded` if the text is too long.
        """
        if chars > self.text_chars:
            raise RequestError(
                f"{param} has {chars} characters, but the maximum context length allows at most {self.text_chars} "
                f"characters (server setting max_text_chars): shorten {param}",
                param=param,
                code=CONTEXT_LENGTH,
            )

    def check_tokens(self, tokens: int, param: str) -> None:
        """Refuse prompts with too many tokens. `tokens`: the number of tokens of all prompts together.

        Raises:
            RequestError: status 400 if there are too many tokens.
        """
        if tokens > self.prompt_tokens:
            raise RequestError(
                f"{param} has more than {self.prompt_tokens} tokens in total (server setting max_prompt_tokens): send "
                "several requests",
                param=param,
            )

    def check_logprobs(self, params: SamplingParams, prompt_tokens: int, sampled_tokens: int) -> None:
        """Refuse a request for too many log-probs. `prompt_tokens`: the number of tokens of all prompts together.
        `sampled_tokens`: the maximum number of tokens of all choices together.

        Raises:
            RequestError: status 400 if the response could have too many log-probs.
        """
        sampled = 0 if params.logprobs is None else sampled_tokens * (1 + params.logprobs)
        prompt = 0 if params.prompt_logprobs is None else prompt_tokens * (1 + params.prompt_logprobs)
        if sampled + prompt > self.logprobs:
            raise RequestError(
                f"the response may have {sampled + prompt} log-probs, but this server returns at most {self.logprobs} "
                "(server setting max_logprobs): either lower max_tokens, n, logprobs or prompt_logprobs, or send "
                "several requests",
                param="logprobs" if sampled >= prompt else "prompt_logprobs",
            )

    def check_body(self, body: bytes) -> None:
        """Check the body of a request that the gateway forwards to vLLM. vLLM itself does not check these limits. This
        method skips a field of an unexpected type, because vLLM refuses the request.

        Raises:
            RequestError: status 400 if a limit is exceeded or the body is not valid JSON. Status 413 if the body has
                too many of the characters `[`, `{` and `:`.
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
        """Returns the number of prompts in the field `prompt`. The field contains one text, one list of token ids, a
        list of texts, or a list of lists of token ids.

        Raises:
            RequestError: status 400 if the lists of token ids together have too many tokens.
        """
        if isinstance(prompt, str) or not prompt or type(prompt[0]) is int:
            tokens = 0 if isinstance(prompt, str) else len(prompt)
            self.check_tokens(tokens, "prompt")
            return 1
        self.check_tokens(sum(len(item) for item in prompt if isinstance(item, list)), "prompt")
        return len(prompt)

    def check_conversation(self, messages: list[dict[str, Any]], options: dict[str, Any] | None) -> int:
        """Refuse a conversation with too many messages, too many fields and list items, or too many characters.
        `options`: the variables of the chat template. The options have the same limits as the messages. Returns the
        total number of fields, list items and characters in the messages and the options.

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
                    f"{param} has {values} fields and list items, but this server accepts at most "
                    f"{self.messages * _VALUES_PER_MESSAGE} ({_VALUES_PER_MESSAGE} times the server setting "
                    "max_messages)",
                    param=param,
                )
            self.check_text(chars, param)
            size += values + chars
        return size


def json_size(value: Any) -> tuple[int, int]:
    """Returns (items, characters) of a JSON value. `items`: the number of items in all lists and objects. `characters`:
    the number of characters in all strings and field names.
    """
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
