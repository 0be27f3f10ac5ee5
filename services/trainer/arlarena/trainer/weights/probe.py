"""The probe of a version: log-probs of fixed tokens, by which a server checks the weights that it serves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arlarena.proto.versions.directory import ManifestProbe

LENGTH = 24  # token ids


@dataclass(frozen=True, slots=True)
class Probe:
    """Fixed token ids. `tolerance`: the largest permitted |Δ log-prob| of a server, in nats."""

    ids: tuple[int, ...]
    tolerance: float

    @classmethod
    def spread(cls, vocabulary: int, tolerance: float) -> Probe:
        """Ids spread evenly over the vocabulary, so that the probe reads distant rows of the embedding."""
        return cls(tuple((7 + i * max(1, vocabulary // LENGTH)) % vocabulary for i in range(LENGTH)), tolerance)

    def of(self, log_probs: Callable[[Sequence[int], Sequence[int]], list[float]]) -> ManifestProbe:
        """The manifest entry of a policy. `log_probs(prompt, response)` returns its log-probs at temperature 1."""
        return ManifestProbe(list(self.ids), log_probs(self.ids[:1], self.ids[1:]), self.tolerance)
