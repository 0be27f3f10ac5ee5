"""What every version carries so that whoever serves it can tell whether it is served right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from arlarena.proto.versions.directory import ManifestProbe

LENGTH = 24  # token ids


@dataclass(frozen=True, slots=True)
class Probe:
    """A fixed text of token ids. `tolerance`: the largest |Δ log-prob| that a server may show."""

    ids: tuple[int, ...]
    tolerance: float

    @classmethod
    def spread(cls, vocabulary: int, tolerance: float) -> Probe:
        """Ids spread over the whole vocabulary, so that every row of the embedding has a chance to be wrong."""
        return cls(tuple((7 + i * max(1, vocabulary // LENGTH)) % vocabulary for i in range(LENGTH)), tolerance)

    def of(self, log_probs: Callable[[Sequence[int], Sequence[int]], list[float]]) -> ManifestProbe:
        """The probe of a policy, whose `log_probs` are those of a response after a prompt, at temperature 1."""
        return ManifestProbe(list(self.ids), log_probs(self.ids[:1], self.ids[1:]), self.tolerance)
