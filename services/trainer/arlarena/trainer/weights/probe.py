"""The probe of a version (the weights of one step): fixed tokens with the trainer's log-probs.

A policy server computes the log-probs of the same tokens, and compares the results with the trainer's log-probs. A
large difference shows that the server did not load the weights of the version correctly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arlarena.proto.versions.directory import ManifestProbe

LENGTH = 24  # number of token ids of a probe


@dataclass(frozen=True, slots=True)
class Probe:
    """Fixed token ids, with which a policy server checks the weights that it has loaded.

    `tolerance`: the largest permitted difference between the server's and the trainer's log-probs, in nats.
    """

    ids: tuple[int, ...]
    tolerance: float

    @classmethod
    def spread(cls, vocabulary: int, tolerance: float) -> Probe:
        """Return a probe with ids spread evenly over the vocabulary, so that many rows of the embedding are tested."""
        return cls(tuple((7 + i * max(1, vocabulary // LENGTH)) % vocabulary for i in range(LENGTH)), tolerance)

    def compute(self, log_probs: Callable[[Sequence[int], Sequence[int]], list[float]]) -> ManifestProbe:
        """Return the probe for the manifest. `log_probs(prompt, response)` must return log-probs at temperature 1."""
        return ManifestProbe(list(self.ids), log_probs(self.ids[:1], self.ids[1:]), self.tolerance)
