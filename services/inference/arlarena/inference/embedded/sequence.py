"""A prompt and the response that is sampled for it."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from collections.abc import Sequence as Items
from dataclasses import dataclass, field
from typing import Any, Literal

from arlarena.inference.embedded.sampler import RowSampling

FinishReason = Literal["stop", "length", "abort", "deadline", "nonfinite", "error"]

# A function of all response tokens. The result is the stop string that the newest token completes, or None.
StopCheck = Callable[[list[int]], str | None]


@dataclass(frozen=True, slots=True)
class Score:
    """The log-probs and ranks of a prompt's tokens 1 … P-1. P is the number of tokens. A log-prob is at temperature 1,
    given all tokens before. Rank 1 is the most likely token. `top`: for each of these positions, the ids and log-probs
    of the most likely tokens; None if they are not requested.
    """

    logprobs: list[float]
    ranks: list[int]
    top: tuple[list[list[int]], list[list[float]]] | None


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt, the sampling parameters, and the response sampled so far.

    Only the engine's thread changes a sequence. Other threads may read `tokens`, `logprobs`, `ranks` and `top`, because
    the engine only appends to these lists. After `finish_reason` is set, other threads may read all fields. `starts`:
    pairs of a weight version and the index of the first response token that was sampled with this version. `deadline`:
    a time of `time.monotonic`, in seconds.
    """

    prompt: list[int]
    sampling: RowSampling
    max_tokens: int
    stop_ids: frozenset[int]
    eos_ids: frozenset[int]
    deadline: float
    stop_check: StopCheck | None = None
    score: int | None = None  # n: compute the prompt's log-probs and report the n most likely tokens; None: do not
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
        """The number of tokens that have keys and values: all prompt tokens, and all response tokens except the newest
        token.
        """
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
        """Returns (version, start, end) for each range of response tokens that one version has sampled."""
        ends = [start for _, start in self.starts[1:]] + [len(self.tokens)]
        return [(version, start, end) for (version, start), end in zip(self.starts, ends, strict=True)]


def pack_key(ids: Items[int]) -> bytes:
    """Returns token ids as packed int32. Equal prompts have equal keys."""
    return array("i", ids).tobytes()
