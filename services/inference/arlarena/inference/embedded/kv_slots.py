"""Memory for keys and values, with one slot for every running sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arlarena.inference.embedded.architecture import Architecture

FLOAT_BYTES = 4
# Unused positions at the end of each row of keys. Without them, the length of a row could be a power of two. Then all
# rows would compete for the same CPU cache lines.
PADDING = 16


@dataclass(frozen=True, slots=True)
class KeysValues:
    """Keys and values of P positions in each layer and head. K is the number of key heads, D the size of a head. `...`
    stands for optional dimensions, such as slots.

    keys: float32 [layers, ..., K, D, P]. The positions are the last dimension, so that the matrix product for attention
        scores needs no packing.
    values: float32 [layers, ..., K, P, D]
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def zeros(cls, arch: Architecture, positions: int, *dimensions: int) -> KeysValues:
        """Returns keys and values that are all zero. `dimensions`: sizes of the optional dimensions. `np.zeros` only
        reserves memory; a page of memory is used when it is first written.
        """
        shape = (arch.layers, *dimensions, arch.kv_heads)
        keys = np.zeros((*shape, arch.head_dim, positions + PADDING), np.float32)
        values = np.zeros((*shape, positions, arch.head_dim), np.float32)
        return cls(torch.from_numpy(keys)[..., :positions], torch.from_numpy(values))

    def span(self, begin: int, end: int) -> KeysValues:
        """Returns a view of the positions [begin, end)."""
        return KeysValues(self.keys[..., begin:end], self.values[..., begin:end, :])

    def copy(self, source: KeysValues) -> None:
        """Overwrite all positions with the positions of `source`. Their numbers of positions must be equal."""
        self.keys.copy_(source.keys)
        self.values.copy_(source.values)


class Slots:
    """Memory for the keys and values of `count` sequences, with `length` positions each. Running sequences occupy the
    first slots, without gaps.

    Attention gives positions beyond a sequence's end the weight 0. 0 times infinity is NaN, so every position must hold
    a finite number.
    """

    def __init__(self, arch: Architecture, count: int, length: int) -> None:
        self.count = count
        self.length = length
        self.kv = KeysValues.zeros(arch, length, count)

    def __getitem__(self, slot: int) -> KeysValues:
        """Returns a view of the keys [layers, K, D, L] and values [layers, K, L, D] of a slot of L positions."""
        return KeysValues(self.kv.keys[:, slot], self.kv.values[:, slot])

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        self[target].span(0, length).copy(self[source].span(0, length))

    def clear(self, slot: int) -> None:
        """Set all numbers of a slot to zero. Needed if the slot contains numbers that are not finite."""
        self.kv.keys[:, slot] = 0.0
        self.kv.values[:, slot] = 0.0


def position_bytes(arch: Architecture) -> int:
    """Returns the number of bytes of the keys and values of one position."""
    return arch.layers * 2 * arch.kv_heads * arch.head_dim * FLOAT_BYTES
