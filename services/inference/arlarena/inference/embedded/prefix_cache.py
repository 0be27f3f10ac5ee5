"""The prefix cache. It stores the keys and values of token sequences for later prompts with the same beginning, such as
the same prompt again or the next turn of an episode.

The keys and values are stored in blocks of `BLOCK` token positions. Sequences with the same prefix share the blocks
that are full. So a new turn of an episode, or another episode of the same task, needs memory only for its new tokens.
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

BLOCK = 16  # token positions per block
MIN_SHARED = 64  # tokens; finding and copying a shorter prefix takes as long as computing it


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """A cached token sequence. `key`: the token ids as packed int32. `blocks`: indices of the sequence's blocks.
    `logits` [V]: the logits after the last token; V is the size of the vocabulary.

    A cached prompt has logits. For a cached prompt with its response, `logits` is None, and only a longer prompt can
    reuse the sequence.
    """

    key: bytes
    blocks: list[int]
    logits: Tensor | None

    def __len__(self) -> int:
        return len(self.key) // 4


class PrefixCache:
    """The keys and values of token sequences, by their token ids. The least recently used sequences are evicted.

    A prompt reuses a cached sequence if the full blocks that the two share contain at least `MIN_SHARED` tokens and at
    least half of the prompt. The prompt is then computed from the first token that differs. If several cached sequences
    share the same full blocks with the prompt, the prompt reuses a sequence that is a prefix of the prompt, or else the
    newest sequence. A weight update clears the cache.
    """

    def __init__(self, arch: Architecture, capacity_bytes: int) -> None:
        self.capacity = capacity_bytes
        self._block_bytes = BLOCK * position_bytes(arch)
        self.blocks = capacity_bytes // self._block_bytes
        self._kv = KeysValues.zeros(arch, self.blocks * BLOCK)
        self._sequences: OrderedDict[bytes, CachedPrefix] = OrderedDict()
        # hash of the first n blocks -> keys of the cached sequences that begin with these blocks
        self._prefixes: dict[int, dict[bytes, None]] = {}
        self._refcounts = [0] * self.blocks  # for each block, how many cached sequences use it
        self._free = list(range(self.blocks - 1, -1, -1))
        self._logits_bytes = 0

    def __len__(self) -> int:
        return len(self._sequences)

    @property
    def used(self) -> int:
        """The number of bytes in use."""
        return (self.blocks - len(self._free)) * self._block_bytes + self._logits_bytes

    def find_prompt(self, key: bytes) -> CachedPrefix | None:
        """Returns the cached prompt with exactly this key, or None. Marks the prompt as recently used."""
        cached = self._sequences.get(key)
        if cached is None or cached.logits is None:
            return None
        self._sequences.move_to_end(key)
        return cached

    def find_longest(self, key: bytes) -> tuple[CachedPrefix, int] | None:
        """Returns the cached sequence that a prompt reuses, and the length of their common prefix in tokens. Returns
        None if the prompt can reuse no sequence. The common prefix is always shorter than the prompt, so at least one
        token is computed. `key`: the prompt's token ids as packed int32.
        """
        match = self._longest_match(key[:-4])
        if match is None or match[1] * BLOCK < max(MIN_SHARED, (len(key) // 4 + 1) // 2):
            return None
        cached = self._find_exact_prefix(key, match[1]) or match[0]
        self._sequences.move_to_end(cached.key)
        return cached, _common_length(cached.key, key[:-4])

    def load(self, cached: CachedPrefix, length: int, target: KeysValues) -> None:
        """Copy the keys and values of a cached sequence's first `length` positions to the start of `target`."""
        for begin, end, at in self._runs(cached.blocks, 0, length):
            target.span(begin, end).copy(self._kv.span(at, at + end - begin))

    def put(self, key: bytes, kv: KeysValues, logits: Tensor | None) -> None:
        """Store the keys and values of a token sequence, which are in the first positions of `kv`. `logits`: the logits
        after the last token, None if the sequence also contains a response. Other sequences are evicted if necessary.
        Does nothing if the sequence is larger than the cache or is already stored. A sequence that is stored without
        logits is stored again if `logits` is given.
        """
        known = self._sequences.get(key)
        if known is not None and (logits is None or known.logits is not None):
            return
        length = len(key) // 4
        count, size = -(-length // BLOCK), 0 if logits is None else logits.numel() * FLOAT_BYTES
        if count * self._block_bytes + size > self.capacity:
            return
        match = self._longest_match(key)
        blocks = [] if match is None else match[0].blocks[: match[1]]
        shared = len(blocks) * BLOCK
        for block in blocks:  # before `_allocate`, which may evict the sequence to which these blocks belong
            self._refcounts[block] += 1
        new = self._allocate(count - len(blocks), size)
        for begin, end, at in self._runs(blocks + new, shared, length):
            self._kv.span(at, at + end - begin).copy(kv.span(begin, end))
        if key in self._sequences:
            self._evict(self._sequences[key])
        self._sequences[key] = CachedPrefix(key, blocks + new, logits)
        self._logits_bytes += size
        for value in _block_hashes(key):
            self._prefixes.setdefault(value, {})[key] = None

    def clear(self) -> None:
        """Remove all cached sequences."""
        self._sequences.clear()
        self._prefixes.clear()
        self._refcounts = [0] * self.blocks
        self._free = list(range(self.blocks - 1, -1, -1))
        self._logits_bytes = 0

    def _allocate(self, count: int, size: int) -> list[int]:
        """Allocate `count` blocks and return their indices. The least recently used sequences are evicted until the
        blocks, and `size` bytes of logits, fit into the capacity.
        """
        while len(self._free) < count or self.used + count * self._block_bytes + size > self.capacity:
            self._evict(next(iter(self._sequences.values())))
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._refcounts[block] = 1
        return taken

    def _longest_match(self, key: bytes) -> tuple[CachedPrefix, int] | None:
        """Returns the cached sequence that shares the most full blocks with the beginning of `key`, and the number of
        these blocks. Returns None if no block is shared.
        """
        hashes = _block_hashes(key)
        for n in range(len(hashes), 0, -1):
            newest = next(reversed(self._prefixes.get(hashes[n - 1], {})), b"")
            if newest and newest[: n * BLOCK * 4] == key[: n * BLOCK * 4]:
                return self._sequences[newest], n
        return None

    def _find_exact_prefix(self, key: bytes, blocks: int) -> CachedPrefix | None:
        """Returns the longest cached sequence that is a prefix of `key` and ends within the block after the first
        `blocks` blocks, or None. Several responses to one prompt may differ only in this last block. This method finds
        the response with which `key` begins.
        """
        for length in range(min((blocks + 1) * BLOCK, len(key) // 4) - 1, blocks * BLOCK, -1):
            if (cached := self._sequences.get(key[: length * 4])) is not None:
                return cached
        return None

    def _runs(self, blocks: list[int], begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Split the positions [begin, end) of a sequence into runs that are contiguous in the cache's memory. Yields
        (begin and end of the run in the sequence, begin of the run in the cache's memory). The argument `begin` must be
        the first position of a block.
        """
        first, last = begin // BLOCK, -(-end // BLOCK)
        breaks = [i for i in range(first + 1, last) if blocks[i] != blocks[i - 1] + 1]
        for a, b in pairwise([first, *breaks, last]):
            if a < b:
                yield a * BLOCK, min(b * BLOCK, end), blocks[a] * BLOCK

    def _evict(self, cached: CachedPrefix) -> None:
        del self._sequences[cached.key]
        for block in reversed(cached.blocks):  # reversed, so that the next allocation gets ascending blocks
            self._refcounts[block] -= 1
            if not self._refcounts[block]:
                self._free.append(block)
        if cached.logits is not None:
            self._logits_bytes -= cached.logits.numel() * FLOAT_BYTES
        for value in _block_hashes(cached.key):
            del self._prefixes[value][cached.key]
            if not self._prefixes[value]:
                del self._prefixes[value]


def _common_length(a: bytes, b: bytes) -> int:
    """Returns the length, in tokens, of the common prefix of two keys."""
    size = min(len(a), len(b))
    differs = np.frombuffer(a[:size], np.int32) != np.frombuffer(b[:size], np.int32)
    return int(differs.argmax()) if differs.any() else size // 4


def _block_hashes(key: bytes) -> list[int]:
    """Returns a hash for each full block of a key. The hash covers all tokens from the first one to the end of the
    block. Returns an empty list for a key with fewer than `MIN_SHARED` tokens.
    """
    if len(key) < MIN_SHARED * 4:
        return []
    hashes: list[int] = []
    chain = 0
    step = BLOCK * 4
    for begin in range(0, len(key) - step + 1, step):
        chain = hash((chain, key[begin : begin + step]))
        hashes.append(chain)
    return hashes
