"""The probe of a version: log-probs of fixed tokens. A policy server compares the probe with its own log-probs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arlarena.proto.versions.directory import ManifestProbe

LENGTH = 24  # number of token ids of a probe


@dataclass(frozen=True, slots=True)
class Probe:
    """Fixed token ids. `tolerance`: the largest permitted difference of a server's log-probs, in nats."""

    ids: tuple[int, ...]
    tolerance: float

    @classmethod
    def spread(cls, vocabulary: int, tolerance: float) -> Probe:
        """Return a probe with ids spread evenly over the vocabulary, so that it tests many parts of the embedding."""
        return cls(tuple((7 + i * max(1, vocabulary // LENGTH)) % vocabulary for i in range(LENGTH)), tolerance)

    def of(self, log_probs: Callable[[Sequence[int], Sequence[int]], list[float]]) -> ManifestProbe:
        """Return the manifest entry of a policy, whose `log_probs(prompt, response)` are at temperature 1."""
        return ManifestProbe(list(self.ids), log_probs(self.ids[:1], self.ids[1:]), self.tolerance)
