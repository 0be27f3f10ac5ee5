"""Keys and values of positions that have been computed, and one slot of them for every running sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arlarena.inference.embedded.architecture import Architecture

FLOAT_BYTES = 4
PADDING = 16  # positions: rows of keys a power of two apart would all fall into the same few lines of a cache


@dataclass(frozen=True, slots=True)
class KeysValues:
    """Of P positions, in each layer and head; there may be more dimensions after the first.

    keys: float32 [layers, ..., K, D, P], positions last: scores read them without packing, a third faster here.
    values: float32 [layers, ..., K, P, D]
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def zeros(cls, arch: Architecture, positions: int, *more: int) -> KeysValues:
        """All zero. Such memory comes from the operating system: none of it is taken before it is written."""
        shape = (arch.layers, *more, arch.kv_heads)
        keys = np.zeros((*shape, arch.head_dim, positions + PADDING), np.float32)
        values = np.zeros((*shape, positions, arch.head_dim), np.float32)
        return cls(torch.from_numpy(keys)[..., :positions], torch.from_numpy(values))

    def span(self, begin: int, end: int) -> KeysValues:
        """Positions [begin, end), the same memory."""
        return KeysValues(self.keys[..., begin:end], self.values[..., begin:end, :])

    def copy(self, source: KeysValues) -> None:
        """Take over all positions of `source`, which has as many."""
        self.keys.copy_(source.keys)
        self.values.copy_(source.values)


class Slots:
    """Room for `count` sequences of `length` positions. Running sequences always occupy the first slots without a gap.

    Attention gives what lies beyond a sequence's end a weight of 0, so every position must hold a finite number.
    """

    def __init__(self, arch: Architecture, count: int, length: int) -> None:
        self.count = count
        self.length = length
        self.kv = KeysValues.zeros(arch, length, count)

    def __getitem__(self, slot: int) -> KeysValues:
        """One slot's: keys [layers, K, D, L], values [layers, K, L, D]."""
        return KeysValues(self.kv.keys[:, slot], self.kv.values[:, slot])

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        self[target].span(0, length).copy(self[source].span(0, length))

    def clear(self, slot: int) -> None:
        """Forget a slot whose numbers are not finite."""
        self.kv.keys[:, slot] = 0.0
        self.kv.values[:, slot] = 0.0


def position_bytes(arch: Architecture) -> int:
    """Bytes of the keys and values of one position."""
    return arch.layers * 2 * arch.kv_heads * arch.head_dim * FLOAT_BYTES
