"""The memory for keys and values. Each running sequence has one slot."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arlarena.inference.embedded.architecture import Architecture

FLOAT_BYTES = 4
# Unused positions at the end of each row of keys. Without padding, the length of a row could be a power of two. All
# rows would then compete for the same CPU cache lines.
PADDING = 16


@dataclass(frozen=True, slots=True)
class KeysValues:
    """Keys and values of P positions in each layer and head. K is the number of key heads, D the size of a head. `...`
    are optional dimensions, such as slots.

    keys: float32 [layers, ..., K, D, P]. With the positions as the last dimension, the matrix product for attention
        scores needs no copy of the keys in another layout.
    values: float32 [layers, ..., K, P, D]
    """

    keys: Tensor
    values: Tensor

    @classmethod
    def zeros(cls, arch: Architecture, positions: int, *dimensions: int) -> KeysValues:
        """Returns keys and values that are all zero. `dimensions`: the sizes of the optional dimensions. `np.zeros`
        only reserves address space: a page takes memory only after the first write to this page.
        """
        shape = (arch.layers, *dimensions, arch.kv_heads)
        keys = np.zeros((*shape, arch.head_dim, positions + PADDING), np.float32)
        values = np.zeros((*shape, positions, arch.head_dim), np.float32)
        return cls(torch.from_numpy(keys)[..., :positions], torch.from_numpy(values))

    def span(self, begin: int, end: int) -> KeysValues:
        """Returns a view of the positions [begin, end)."""
        return KeysValues(self.keys[..., begin:end], self.values[..., begin:end, :])

    def copy(self, source: KeysValues) -> None:
        """Copy all keys and values of `source` into this object. Both must have the same number of positions."""
        self.keys.copy_(source.keys)
        self.values.copy_(source.values)


class Slots:
    """`count` slots with `length` positions each. A slot is the memory for the keys and values of one sequence. Running
    sequences occupy the first slots, without gaps.

    In attention, positions after the end of a sequence have the weight 0. They must nevertheless contain finite
    numbers, because 0 times infinity is NaN.
    """

    def __init__(self, arch: Architecture, count: int, length: int) -> None:
        self.count = count
        self.length = length
        self.kv = KeysValues.zeros(arch, length, count)

    def __getitem__(self, slot: int) -> KeysValues:
        """Returns a view of the keys [layers, K, D, L] and values [layers, K, L, D] of one slot with L positions."""
        return KeysValues(self.kv.keys[:, slot], self.kv.values[:, slot])

    def copy(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of the slot `source` to the slot `target`."""
        self[target].span(0, length).copy(self[source].span(0, length))

    def clear(self, slot: int) -> None:
        """Set all numbers of a slot to zero. Called if the slot contains numbers that are not finite."""
        self.kv.keys[:, slot] = 0.0
        self.kv.values[:, slot] = 0.0


def position_bytes(arch: Architecture) -> int:
    """Returns how many bytes the keys and values of one position take in all layers."""
    return arch.layers * 2 * arch.kv_heads * arch.head_dim * FLOAT_BYTES
