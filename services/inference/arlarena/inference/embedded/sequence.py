"""A sequence: a prompt and its sampled response."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any, Literal

from arlarena.inference.embedded.sampler import RowSampling

FinishReason = Literal["stop", "length", "abort", "deadline", "nonfinite", "error"]

# A function that gets all tokens of a response. If the newest token completes a stop string, the function returns this
# stop string. Otherwise it returns None.
StopCheck = Callable[[list[int]], str | None]


@dataclass(frozen=True, slots=True)
class Score:
    """The log-probs and ranks of a prompt's tokens 1 … P-1. P is the number of tokens of the prompt. A log-prob is
    computed at temperature 1, and is conditional on all tokens before the token. The most likely token has rank 1.
    `top`: the ids and the log-probs of the most likely tokens at each of these positions; None if not requested.
    """

    logprobs: list[float]
    ranks: list[int]
    top: tuple[list[list[int]], list[list[float]]] | None


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, its sampling parameters, and the tokens of its response that are already sampled.

    `deadline`: in seconds of `time.monotonic`. `starts`: pairs (weight version, index of the first response token that
    was sampled with this version).

    After `submit`, only the engine's thread changes the fields, except `cancelled` and `delivered`. At any
    time, other threads may read `tokens`, `logprobs`, `ranks` and `top`, because the engine only appends to these
    lists. They may read the other fields after `finish_reason` is set.
    """

    prompt: list[int]
    sampling: RowSampling
    max_tokens: int
    stop_ids: frozenset[int]
    eos_ids: frozenset[int]
    deadline: float
    stop_check: StopCheck | None = None
    score: int | None = None  # n: compute the prompt's log-probs and the n most likely tokens; None: neither
    stream: bool = False
    owner: Any = None  # the request that waits for this sequence
    key: bytes = b""  # the prompt's token ids as packed int32; all choices of a prompt share one object

    tokens: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    ranks: list[int] = field(default_factory=list)
    top: list[tuple[list[int], list[float]]] = field(default_factory=list)
    starts: list[tuple[str, int]] = field(default_factory=list)
    scored: Score | None = None
    finish_reason: FinishReason | None = None
    stop_reason: int | str | None = None
    cancelled: bool = False
    delivered: bool = False  # the owner has counted this sequence as finished

    def __post_init__(self) -> None:
        self.key = self.key or pack_key(self.prompt)

    @property
    def length(self) -> int:
        """The number of tokens with computed keys and values. These are all tokens except the newest response token."""
        return len(self.prompt) + len(self.tokens) - 1

    def append(self, token: int, logprob: float, rank: int, version: str) -> bool:
        """Append a sampled token. Returns True if the response is now complete."""
        if not self.starts or self.starts[-1][0] != version:
            self.starts.append((version, len(self.tokens)))
        self.tokens.append(token)
        self.logprobs.append(logprob)
        self.ranks.append(rank)
        if token in self.eos_ids:
            self.finish_reason = "stop"
        elif token in self.stop_ids:
            self.finish_reason, self.stop_reason = "stop", token
        elif self.stop_check is not None and (stop := self.stop_check(self.tokens)) is not None:
            self.finish_reason, self.stop_reason = "stop", stop
        elif len(self.tokens) >= self.max_tokens:
            self.finish_reason = "length"
        return self.finish_reason is not None

    def spans(self) -> list[tuple[str, int, int]]:
        """Returns (version, start, end) for each range of consecutive response tokens with the same weight version."""
        ends = [start for _, start in self.starts[1:]] + [len(self.tokens)]
        return [(version, start, end) for (version, start), end in zip(self.starts, ends, strict=True)]


def pack_key(ids: Items[int]) -> bytes:
    """Returns token ids as packed int32. Equal prompts have equal keys."""
    return array("i", ids).tobytes()
