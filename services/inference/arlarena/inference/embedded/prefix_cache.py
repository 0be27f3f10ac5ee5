"""Prefix cache: computed texts, reused by the same prompt or by an episode's next turn.

A text is stored in blocks of `BLOCK` positions and shares full blocks with texts that have the same prefix. So an
episode, or a group of episodes, takes memory only for what differs, and adding a turn copies only its new tokens.
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

BLOCK = 16  # positions; texts are looked up and shared in multiples of this
MIN_SHARED = 64  # tokens; finding and continuing a shorter prefix costs as much as computing it


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """A computed text. `key`: ids as packed int32. `blocks`: indices of its blocks. `logits` [V]: after its last token.

    A prompt has logits. A prompt with its response has none: it can only be continued.
    """

    key: bytes
    blocks: list[int]
    logits: Tensor | None

    def __len__(self) -> int:
        return len(self.key) // 4


class PrefixCache:
    """Computed texts by their exact ids, with LRU eviction.

    A prompt reuses a cached text if their common prefix has at least `MIN_SHARED` tokens and half of the prompt's
    length; it is computed from the first token that differs. Among texts that share the same full blocks, a text that
    is a prefix of the prompt is preferred, else the newest. A weight update clears the cache.
    """

    def __init__(self, arch: Architecture, capacity_bytes: int) -> None:
        self.capacity = capacity_bytes
        self._block_bytes = BLOCK * position_bytes(arch)
        self.blocks = capacity_bytes // self._block_bytes
        self._kv = KeysValues.zeros(arch, self.blocks * BLOCK)
        self._texts: OrderedDict[bytes, CachedPrefix] = OrderedDict()
        self._prefixes: dict[int, dict[bytes, None]] = {}  # chained hash of the first n blocks -> keys of these texts
        self._refcounts = [0] * self.blocks  # texts that use each block
        self._free = list(range(self.blocks - 1, -1, -1))
        self._logits_bytes = 0

    def __len__(self) -> int:
        return len(self._texts)

    @property
    def used(self) -> int:
        """Bytes in use."""
        return (self.blocks - len(self._free)) * self._block_bytes + self._logits_bytes

    def prompt(self, key: bytes) -> CachedPrefix | None:
        """The cached prompt with exactly these ids."""
        text = self._texts.get(key)
        if text is None or text.logits is None:
            return None
        self._texts.move_to_end(key)
        return text

    def longest(self, key: bytes) -> tuple[CachedPrefix, int] | None:
        """The text to continue, and the length of the common prefix in tokens: always less than the prompt's length."""
        match = self._longest_match(key[:-4])
        if match is None or match[1] * BLOCK < max(MIN_SHARED, (len(key) // 4 + 1) // 2):
            return None
        text = self._continued(key, match[1]) or match[0]
        self._texts.move_to_end(text.key)
        return text, _common(text.key, key[:-4])

    def load(self, text: CachedPrefix, length: int, target: KeysValues) -> None:
        """Copy a text's first `length` positions to those of `target`."""
        for begin, end, at in self._runs(text.blocks, 0, length):
            target.span(begin, end).copy(self._kv.span(at, at + end - begin))

    def put(self, key: bytes, kv: KeysValues, logits: Tensor | None) -> None:
        """Store a text, whose positions are the first of `kv`, unless it is larger than the cache."""
        known = self._texts.get(key)
        if known is not None and (logits is None or known.logits is not None):
            return
        length = len(key) // 4
        count, size = -(-length // BLOCK), 0 if logits is None else logits.numel() * FLOAT_BYTES
        if count * self._block_bytes + size > self.capacity:
            return
        match = self._longest_match(key)
        blocks = [] if match is None else match[0].blocks[: match[1]]
        shared = len(blocks) * BLOCK
        for block in blocks:  # before `_allocate`, which may evict their text
            self._refcounts[block] += 1
        new = self._allocate(count - len(blocks), size)
        for begin, end, at in self._runs(blocks + new, shared, length):
            self._kv.span(at, at + end - begin).copy(kv.span(begin, end))
        if key in self._texts:
            self._forget(self._texts[key])
        self._texts[key] = CachedPrefix(key, blocks + new, logits)
        self._logits_bytes += size
        for value in _block_hashes(key):
            self._prefixes.setdefault(value, {})[key] = None

    def clear(self) -> None:
        """Drop everything."""
        self._texts.clear()
        self._prefixes.clear()
        self._refcounts = [0] * self.blocks
        self._free = list(range(self.blocks - 1, -1, -1))
        self._logits_bytes = 0

    def _allocate(self, count: int, size: int) -> list[int]:
        """Allocate `count` blocks and leave `size` bytes free, by evicting the least recently used texts."""
        while len(self._free) < count or self.used + count * self._block_bytes + size > self.capacity:
            self._forget(next(iter(self._texts.values())))
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._refcounts[block] = 1
        return taken

    def _longest_match(self, key: bytes) -> tuple[CachedPrefix, int] | None:
        """The text that shares the most full leading blocks with `key`, and their number."""
        hashes = _block_hashes(key)
        for n in range(len(hashes), 0, -1):
            newest = next(reversed(self._prefixes.get(hashes[n - 1], {})), b"")
            if newest and newest[: n * BLOCK * 4] == key[: n * BLOCK * 4]:
                return self._texts[newest], n
        return None

    def _continued(self, key: bytes, blocks: int) -> CachedPrefix | None:
        """The longest text that is a prefix of `key` and ends within the block after the first `blocks`. Responses to
        the same prompt may differ in that block only; this is the response that `key` continues.
        """
        for length in range(min((blocks + 1) * BLOCK, len(key) // 4) - 1, blocks * BLOCK, -1):
            if (text := self._texts.get(key[: length * 4])) is not None:
                return text
        return None

    def _runs(self, blocks: list[int], begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Contiguous runs of positions [begin, end), as (begin, end, offset in the store). `begin`: a block's first."""
        first, last = begin // BLOCK, -(-end // BLOCK)
        breaks = [i for i in range(first + 1, last) if blocks[i] != blocks[i - 1] + 1]
        for a, b in pairwise([first, *breaks, last]):
            if a < b:
                yield a * BLOCK, min(b * BLOCK, end), blocks[a] * BLOCK

    def _forget(self, text: CachedPrefix) -> None:
        del self._texts[text.key]
        for block in reversed(text.blocks):  # reversed, so that they are allocated again in ascending order
            self._refcounts[block] -= 1
            if not self._refcounts[block]:
                self._free.append(block)
        if text.logits is not None:
            self._logits_bytes -= text.logits.numel() * FLOAT_BYTES
        for value in _block_hashes(text.key):
            del self._prefixes[value][text.key]
            if not self._prefixes[value]:
                del self._prefixes[value]


def _common(a: bytes, b: bytes) -> int:
    """Tokens in the common prefix of two packed texts."""
    size = min(len(a), len(b))
    differs = np.frombuffer(a[:size], np.int32) != np.frombuffer(b[:size], np.int32)
    return int(differs.argmax()) if differs.any() else size // 4


def _block_hashes(key: bytes) -> list[int]:
    """Chained hashes after each full block; none for texts too short to be shared."""
    if len(key) < MIN_SHARED * 4:
        return []
    hashes: list[int] = []
    chain = 0
    step = BLOCK * 4
    for begin in range(0, len(key) - step + 1, step):
        chain = hash((chain, key[begin : begin + step]))
        hashes.append(chain)
    return hashes
