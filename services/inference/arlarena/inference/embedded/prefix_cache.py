"""Computed texts, kept for those that begin alike: the same prompt, or an episode's next turn.

Texts lie in blocks of `BLOCK` positions. One that continues another shares the blocks that both fill: an episode, and a
group of them, takes the room of what is different, and a turn is kept by copying what is new.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from torch import Tensor

from arlarena.inference.embedded.architecture import Architecture
from arlarena.inference.embedded.kv_slots import FLOAT_BYTES, KeysValues, position_bytes

BLOCK = 16  # positions: texts are found, and share memory, in multiples of this
MIN_SHARED = 64  # tokens: a shorter beginning costs as much to find and continue as to compute


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """A computed text. `key`: ids as packed int32. `blocks`: where it lies. `logits` [V]: after its last token.

    A prompt has logits. A prompt with its response has none: it is there to be continued.
    """

    key: bytes
    blocks: list[int]
    logits: Tensor | None

    def __len__(self) -> int:
        return len(self.key) // 4


class PrefixCache:
    """Computed texts by their exact ids, the least recently used dropped first.

    A prompt that begins like a cached text (at least `MIN_SHARED` tokens and half of its own length) is continued from
    it, from the very token at which they part. Of texts with the same whole blocks, the one that the prompt continues
    is taken, else the newest. Everything is dropped when the weights change.
    """

    def __init__(self, arch: Architecture, capacity_bytes: int) -> None:
        self.capacity = capacity_bytes
        self._block_bytes = BLOCK * position_bytes(arch)
        self.blocks = capacity_bytes // self._block_bytes
        self._kv = KeysValues.zeros(arch, self.blocks * BLOCK)
        self._texts: OrderedDict[bytes, CachedPrefix] = OrderedDict()
        self._beginnings: dict[int, dict[bytes, None]] = {}  # chained hash of the first n blocks -> keys with them
        self._holders = [0] * self.blocks  # texts that lie in each block
        self._free = list(range(self.blocks - 1, -1, -1))
        self._logits_bytes = 0

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def used(self) -> int:
        """Bytes."""
        return (self.blocks - len(self._free)) * self._block_bytes + self._logits_bytes

    def prompt(self, key: bytes) -> CachedPrefix | None:
        """The prompt with exactly these ids."""
        text = self._texts.get(key)
        if text is None or text.logits is None:
            return None
        self._texts.move_to_end(key)
        return text

    def longest(self, key: bytes) -> tuple[CachedPrefix, int] | None:
        """A text that shares a beginning worth continuing, and how many tokens; always fewer than the prompt's."""
        found = self._like(key[:-4])
        if found is None or found[1] * BLOCK < max(MIN_SHARED, (len(key) // 4 + 1) // 2):
            return None
        text = self._continued(key, found[1]) or found[0]
        self._texts.move_to_end(text.key)
        return text, _common(text.key, key[:-4])

    def load(self, text: CachedPrefix, length: int, target: KeysValues) -> None:
        """Copy a text's first `length` positions to those of `target`."""
        for begin, end, at in self._runs(text.blocks, 0, length):
            target.span(begin, end).copy(self._kv.span(at, at + end - begin))

    def put(self, key: bytes, kv: KeysValues, logits: Tensor | None) -> None:
        """Keep a text whose positions are the first of `kv`; one that is larger than the whole cache is not kept."""
        known = self._texts.get(key)
        if known is not None and (logits is None or known.logits is not None):
            return
        length = len(key) // 4
        count, size = -(-length // BLOCK), 0 if logits is None else logits.numel() * FLOAT_BYTES
        if count * self._block_bytes + size > self.capacity:
            return
        like = self._like(key)
        blocks = [] if like is None else like[0].blocks[: like[1]]
        shared = len(blocks) * BLOCK
        for block in blocks:  # held from now on, whatever has to go
            self._holders[block] += 1
        new = self._take(count - len(blocks), size)
        for begin, end, at in self._runs(blocks + new, shared, length):
            self._kv.span(at, at + end - begin).copy(kv.span(begin, end))
        if key in self._texts:
            self._forget(self._texts[key])
        self._texts[key] = CachedPrefix(key, blocks + new, logits)
        self._logits_bytes += size
        for value in _block_hashes(key):
            self._beginnings.setdefault(value, {})[key] = None

    def clear(self) -> None:
        """Drop everything."""
        self._texts.clear()
        self._beginnings.clear()
        self._holders = [0] * self.blocks
        self._free = list(range(self.blocks - 1, -1, -1))
        self._logits_bytes = 0

    def _take(self, count: int, size: int) -> list[int]:
        """So many free blocks, and `size` bytes besides; what was not used for longest makes room."""
        while len(self._free) < count or self.used + count * self._block_bytes + size > self.capacity:
            self._forget(next(iter(self._texts.values())))
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._holders[block] = 1
        return taken

    def _like(self, key: bytes) -> tuple[CachedPrefix, int] | None:
        """The text that begins with the most whole blocks of this one, and how many."""
        hashes = _block_hashes(key)
        for n in range(len(hashes), 0, -1):
            newest = next(reversed(self._beginnings.get(hashes[n - 1], {})), b"")
            if newest and newest[: n * BLOCK * 4] == key[: n * BLOCK * 4]:
                return self._texts[newest], n
        return None

    def _continued(self, key: bytes, blocks: int) -> CachedPrefix | None:
        """The longest text that this one continues and that ends within the block behind `blocks` of them. Siblings
        whose responses differ in that block alone have the same whole blocks; one of them is this one's own.
        """
        for length in range(min((blocks + 1) * BLOCK, len(key) // 4) - 1, blocks * BLOCK, -1):
            if (text := self._texts.get(key[: length * 4])) is not None:
                return text
        return None

    def _runs(self, blocks: list[int], begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """(begin, end, where it lies) of the pieces of [begin, end) that lie in one; `begin` at a block's begin."""
        first, last = begin // BLOCK, -(-end // BLOCK)
        breaks = [i for i in range(first + 1, last) if blocks[i] != blocks[i - 1] + 1]
        for a, b in pairwise([first, *breaks, last]):
            if a < b:
                yield a * BLOCK, min(b * BLOCK, end), blocks[a] * BLOCK

    def _forget(self, text: CachedPrefix) -> None:
        del self._texts[text.key]
        for block in reversed(text.blocks):  # so that they are taken in the order in which they lie
            self._holders[block] -= 1
            if not self._holders[block]:
                self._free.append(block)
        if text.logits is not None:
            self._logits_bytes -= text.logits.numel() * FLOAT_BYTES
        for value in _block_hashes(text.key):
            del self._beginnings[value][text.key]
            if not self._beginnings[value]:
                del self._beginnings[value]


def _common(one: bytes, other: bytes) -> int:
    """How many tokens two packed texts have in common at their begin."""
    size = min(len(one), len(other))
    differs = np.frombuffer(one[:size], np.int32) != np.frombuffer(other[:size], np.int32)
    return int(differs.argmax()) if differs.any() else size // 4


def _block_hashes(key: bytes) -> list[int]:
    """Chained hashes of the beginnings of whole blocks; none for texts too short to be shared."""
    if len(key) < MIN_SHARED * 4:
        return []
    hashes: list[int] = []
    chain = 0
    step = BLOCK * 4
    for begin in range(0, len(key) - step + 1, step):
        chain = hash((chain, key[begin : begin + step]))
        hashes.append(chain)
    return hashes
