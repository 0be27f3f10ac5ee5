"""The faults that an imitation server injects into its replies.

The seed, the body of a request, and the number of earlier requests with the same body determine the fault of the
request. So the fault does not depend on the order of concurrent requests, and a repeated request can have a different
fault or no fault.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, get_args

Fault = Literal[
    "rate_limit",  # 429 with Retry-After
    "server_error",  # 500
    "overloaded",  # 529 (Anthropic) or 503
    "timeout",  # no response until the client gives up
    "drop",  # the connection is closed in the middle of the reply
    "html",  # 502 with 100 kB of HTML, as from a proxy
    "refusal",
    "empty",  # a reply without text
    "huge",  # a reply of 100 kB
    "tool_call",  # a call of a tool that the request does not offer
]
FAULTS: tuple[Fault, ...] = get_args(Fault)
# After these faults, the client has a reply. After the other faults, the client must repeat the request.
ANSWERED: frozenset[Fault] = frozenset(("refusal", "empty", "huge", "tool_call"))


@dataclass(frozen=True, slots=True)
class FaultRates:
    """The rates of the faults: fault → rate in [0, 1]. The sum of the rates is at most 1."""

    rates: Mapping[Fault, float] = field(default_factory=dict)
    seed: int = 0

    @classmethod
    def uniform(cls, total: float, seed: int = 0) -> "FaultRates":
        """Return equal rates of all faults. Their sum is `total`."""
        return cls(dict.fromkeys(FAULTS, total / len(FAULTS)), seed)

    def fault(self, digest: str, times: int) -> Fault | None:
        """Return the fault of a request, or None.

        `digest`: hash of the body. `times`: number of earlier requests with this body.
        """
        text = f"{self.seed}/{digest}/{times}".encode()
        draw = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big") / 2**64
        for fault, rate in self.rates.items():
            if draw < rate:
                return fault
            draw -= rate
        return None
