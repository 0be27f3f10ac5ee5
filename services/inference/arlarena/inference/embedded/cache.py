"""Keys and values: one slot per running sequence, and finished prompts kept for those who ask the same again."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from arlarena.inference.embedded.architecture import Architecture

FLOAT_BYTES = 4
BLOCK = 32  # tokens: prompts that differ share a prefix in multiples of this
MIN_SHARED = 64  # tokens: a shorter prefix costs as much to find and continue as to compute


class Slots:
    """Room for `count` sequences of `length` positions. Running sequences always occupy the first slots without a gap.

    Attention gives what lies beyond a sequence's end a weight of 0, so every position must hold a finite number.
    """

    def __init__(self, arch: Architecture, count: int, length: int) -> None:
        self.count = count
        self.length = length
        # numpy's zeros come from the operating system: unlike torch's they take no memory before they are written
        zeros = np.zeros((arch.layers, 2, count, arch.kv_heads, length, arch.head_dim), np.float32)
        self.kv = torch.from_numpy(zeros)

    def load(self, slot: int, kv: Tensor) -> None:
        """Copy a prompt's keys and values [layers, 2, K, P, D] to the begin of a slot."""
        self.kv[:, :, slot, :, : kv.shape[3]] = kv

    def clear(self, slot: int) -> None:
        """Forget a slot whose numbers are not finite."""
        self.kv[:, :, slot] = 0.0

    def move(self, source: int, target: int, length: int) -> None:
        """Copy the first `length` positions of one slot to another."""
        self.kv[:, :, target, :, :length] = self.kv[:, :, source, :, :length]


def slot_bytes(arch: Architecture, length: int) -> int:
    """Bytes of one slot of `length` positions."""
    return arch.layers * 2 * arch.kv_heads * length * arch.head_dim * FLOAT_BYTES


@dataclass(frozen=True, slots=True)
class Prefix:
    """A computed text. `key`: ids as packed int32, `kv` [layers, 2, K, P, D], `logits` [V] after its last token.

    A prompt has logits. A prompt with its response has none: it is there to be continued.
    """

    key: bytes
    kv: Tensor
    logits: Tensor | None

    @property
    def nbytes(self) -> int:
        """Bytes of the tensors and the key."""
        logits = 0 if self.logits is None else self.logits.numel()
        return (self.kv.numel() + logits) * FLOAT_BYTES + len(self.key)


class PrefixCache:
    """Computed texts by their exact ids, the least recently used dropped first.

    A prompt that begins like a cached text (at least `MIN_SHARED` tokens and half of its own length) is continued from
    it: the next turn of an episode from the last one's prompt and response. Everything is dropped when the weights
    change.
    """

    def __init__(self, capacity_bytes: int) -> None:
        self.capacity = capacity_bytes
        self.used = 0
        self._prefixes: OrderedDict[bytes, Prefix] = OrderedDict()
        self._blocks: dict[
            int, bytes
        ] = {}  # chained hash of the first n blocks -> key of a prompt that begins with them

    def __len__(self) -> int:
        return len(self._prefixes)

    def get(self, key: bytes) -> Prefix | None:
        """The prompt with exactly these ids."""
        prefix = self._prefixes.get(key)
        if prefix is None or prefix.logits is None:
            return None
        self._prefixes.move_to_end(key)
        return prefix

    def longest(self, key: bytes) -> tuple[Prefix, int] | None:
        """A text that shares a prefix worth continuing, and how many tokens; always fewer than the prompt's."""
        least = max(MIN_SHARED, (len(key) // 4 + 1) // 2)
        hashes = _block_hashes(key[:-4])
        for n in range(len(hashes), 0, -1):
            shared = n * BLOCK
            if shared < least:
                return None
            prefix = self._prefixes.get(self._blocks.get(hashes[n - 1], b""))
            if prefix is not None and prefix.key[: shared * 4] == key[: shared * 4]:
                self._prefixes.move_to_end(prefix.key)
                return prefix, _common(prefix.key, key[:-4])
        return None

    def put(self, prefix: Prefix) -> None:
        """Keep a text; one larger than the whole cache is not kept."""
        if prefix.nbytes > self.capacity or prefix.key in self._prefixes:
            return
        self._prefixes[prefix.key] = prefix
        self.used += prefix.nbytes
        for value in _block_hashes(prefix.key):
            self._blocks[value] = prefix.key
        while self.used > self.capacity:
            self._forget(next(iter(self._prefixes.values())))

    def clear(self) -> None:
        """Drop everything."""
        self._prefixes.clear()
        self._blocks.clear()
        self.used = 0

    def _forget(self, prefix: Prefix) -> None:
        del self._prefixes[prefix.key]
        self.used -= prefix.nbytes
        for value in _block_hashes(prefix.key):
            if self._blocks.get(value) == prefix.key:
                del self._blocks[value]


def _common(one: bytes, other: bytes) -> int:
    """How many tokens two packed texts have in common at their begin."""
    size = min(len(one), len(other))
    differs = np.frombuffer(one[:size], np.int32) != np.frombuffer(other[:size], np.int32)
    return int(differs.argmax()) if differs.any() else size // 4


def _block_hashes(key: bytes) -> list[int]:
    """Chained hashes of the prefixes of whole blocks; none for prompts too short to be shared."""
    if len(key) < MIN_SHARED * 4:
        return []
    hashes: list[int] = []
    chain = 0
    step = BLOCK * 4
    for begin in range(0, len(key) - step + 1, step):
        chain = hash((chain, key[begin : begin + step]))
        hashes.append(chain)
    return hashes
