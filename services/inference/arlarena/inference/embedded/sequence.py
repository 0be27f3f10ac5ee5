"""A prompt and its response while it is sampled."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any, Literal

from arlarena.inference.embedded.sampler import Draw

FinishReason = Literal["stop", "length", "abort", "deadline", "nonfinite", "error"]

# Called with all response tokens; returns the stop string that the newest token completes, if any.
StopCheck = Callable[[list[int]], str | None]


@dataclass(frozen=True, slots=True)
class Score:
    """Log-probs of a prompt's tokens 1 … P-1 given those before, at temperature 1; ranks; the likeliest tokens."""

    logprobs: list[float]
    ranks: list[int]
    top: tuple[list[list[int]], list[list[float]]] | None


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, how to continue it, and what has been sampled.

    Only the engine's thread writes. Other threads read `tokens` and `logprobs`, which only grow, and all fields once
    `finish_reason` is set. `starts`: (weight version, index of its first token). `deadline`: `time.monotonic` seconds.
    """

    prompt: list[int]
    draw: Draw
    max_tokens: int
    stop_ids: frozenset[int]
    eos_ids: frozenset[int]
    deadline: float
    stop_check: StopCheck | None = None
    score: int | None = None  # report prompt log-probs and this many likeliest tokens
    stream: bool = False
    owner: Any = None  # the request that waits for it
    key: bytes = b""  # of the prompt; choices share it

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    top: list[tuple[list[int], list[float]]] = field(default_factory=list)
    starts: list[tuple[str, int]] = field(default_factory=list)
    scored: Score | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    cancelled: bool = False
    delivered: bool = False  # the owner has counted it as finished

    def __post_init__(self) -> None:
        self.key = self.key or pack_key(self.prompt)

    @property
    def length(self) -> int:
        """Positions with keys and values after the next step: the prompt and all response tokens but the newest."""
        return len(self.prompt) + len(self.tokens) - 1

    def append(self, token: int, logprob: float, rank: int, version: str) -> bool:
        """Append a sampled token. Returns whether the response is complete."""
        if not self.starts or self.starts[-1][0] != version:
            self.starts.append((version, len(self.tokens)))
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.ranks.append(rank)
        if token in self.eos_ids:
            self.finish_reason = "stop"
        elif token in self.stop_ids:
            self.finish_reason, self.stop_reason = "stop", token
        elif self.stop_check is not None and (found := self.stop_check(self.tokens)) is not None:
            self.finish_reason, self.stop_reason = "stop", found
        elif len(self.tokens) >= self.max_tokens:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def spans(self) -> list[tuple[str, int, int]]:
        """(version, start, end) over the response tokens, without gaps."""
        ends = [start for _, start in self.starts[1:]] + [len(self.tokens)]
        return [(version, start, end) for (version, start), end in zip(self.starts, ends, strict=True)]


def pack_key(ids: Items[int]) -> bytes:
    """Token ids as packed int32; prompts are compared by this key."""
    return array("i", ids).tobytes()
