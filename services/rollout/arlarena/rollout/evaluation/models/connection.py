"""Where a model's API is, and the limits of one request to it."""

from __future__ import annotations

from dataclasses import dataclass, field

from arlarena.proto.text.redaction import redact, register_secret

# Longer error messages are cut. A server may answer with 100 kB of HTML, and errors are recorded for each attempt.
MAX_MESSAGE = 400


@dataclass(frozen=True, slots=True)
class ApiLimits:
    """Limits of one request.

    Attributes:
        request_s: seconds from the start of the request to the end of the reply. The SDKs' default is 600 s, too.
        connect_s: seconds for opening a connection.
        reply_bytes: size of a reply. 8 MiB are 2 million tokens, more than any model generates in one reply.
    """

    request_s: float = 600.0
    connect_s: float = 10.0
    reply_bytes: int = 8 << 20


@dataclass(frozen=True, slots=True)
class ApiConnection:
    """A model behind an API.

    Attributes:
        name: for records and messages, for example "openai/gpt-5".
        model: the name that is sent to the API, for example "gpt-5".
        base_url: address in the form that the vendor's SDK expects.
        key: the API key. Messages mask it.
        key_variable: name of the environment variable of the key, for messages.
        sees_images: whether images may be sent.
    """

    name: str
    model: str
    base_url: str
    key: str = field(repr=False)
    key_variable: str
    sees_images: bool = True
    limits: ApiLimits = ApiLimits()

    def __post_init__(self) -> None:
        """Mask the key in messages and logs from now on."""
        register_secret(self.key)

    def message(self, reason: str) -> str:
        """Returns an error message of at most `MAX_MESSAGE` characters, on one line and without secrets."""
        # Secrets are masked before the message is cut: a part of a secret would not be recognized.
        line = " ".join(redact(f"{self.name} at {self.base_url}: {reason}").split())
        return line if len(line) <= MAX_MESSAGE else line[: MAX_MESSAGE - 1] + "…"
