"""The address and key of a model's API, and the limits of a request."""

from __future__ import annotations

from dataclasses import dataclass, field

from arlarena.proto.text.redaction import redact, register_secret

# Maximum number of characters of an error message. A server may answer with 100 kB of HTML, and the journal contains
# the message of each failed request.
MAX_MESSAGE = 400


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """Limits of one request.

    Attributes:
        request_s: maximum seconds from the start of the request to the end of the reply. The OpenAI and Anthropic SDKs
            have the same default.
        connect_s: maximum seconds for opening a connection.
        reply_bytes: maximum bytes of a reply. 8 MiB are about 2 million tokens. Replies of models are shorter.
    """

    request_s: float = 600.0
    connect_s: float = 10.0
    reply_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class ApiConnection:
    """A model behind an API.

    Attributes:
        name: name in records and messages, for example "openai/gpt-5".
        model: name that is sent to the API, for example "gpt-5".
        base_url: address of the API, in the form that the vendor's SDK expects.
        key: the API key. Messages mask the key.
        key_variable: name of the environment variable with the key. Error messages name this variable.
        sees_images: whether images may be sent to the model.
        limits: limits of each request.
    """

    name: str
    model: str
    base_url: str
    key: str = field(repr=False)
    key_variable: str
    sees_images: bool = True
    limits: ApiLimits = ApiLimits()

    def __post_init__(self) -> None:
        """Register the key as a secret. Messages and logs mask registered secrets."""
        register_secret(self.key)

    def message(self, reason: str) -> str:
        """Returns an error message of at most `MAX_MESSAGE` characters, on one line and without secrets."""
        # Mask secrets before the message is shortened, because a part of a secret is not recognized.
        line = " ".join(redact(f"{self.name} at {self.base_url}: {reason}").split())
        return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"
