"""The prefix cache. It stores the keys and values of token sequences. A later prompt with the same beginning reuses
them: for example the same prompt, or the next turn of an episode.

The keys and values are stored in blocks of `BLOCK` token positions. If two sequences have a common prefix, they share
the full blocks of this prefix. So a new turn of an episode, or another episode of the same task, needs memory only for
its new tokens.
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
MIN_SHARED = 64  # tokens; a shorter prefix can be computed as fast as it can be found and copied


@dataclass(frozen=True, slots=True, eq=False)
class CachedPrefix:
    """A cached token sequence. `key`: the token ids as packed int32. `blocks`: the indices of the sequence's blocks.
    `logits` [V]: the logits after the last token; V is the size of the vocabulary.

    If the sequence is a prompt, it has logits. If the sequence is a prompt and a response, `logits` is None. Without
    logits, only a longer prompt can reuse the sequence.
    """

    key: bytes
    blocks: list[int]
    logits: Tensor | None

    def __len__(self) -> int:
        return len(self.key) // 4


class PrefixCache:
    """Stores the keys and values of token sequences. If the memory is full, the least recently used sequences are
    evicted. A weight update clears the cache.

    A prompt can reuse a cached sequence if both begin with the same full blocks, and these blocks contain at least
    `MIN_SHARED` tokens and at least half of the prompt. The prompt is then computed from the first token that differs.
    If several cached sequences begin with these blocks, the prompt reuses a sequence that is a prefix of the prompt. If
    there is no such sequence, the prompt reuses the newest of the sequences.
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
        """The number of bytes in use, by blocks and logits together."""
        return (self.blocks - len(self._free)) * self._block_bytes + self._logits_bytes

    def find_prompt(self, key: bytes) -> CachedPrefix | None:
        """Returns the cached prompt with exactly this key, and marks the prompt as recently used. Returns None if there
        is no such prompt.
        """
        cached = self._sequences.get(key)
        if cached is None or cached.logits is None:
            return None
        self._sequences.move_to_end(key)
        return cached

    def find_longest(self, key: bytes) -> tuple[CachedPrefix, int] | None:
        """Returns (cached, n). `cached` is the cached sequence that a prompt can reuse. `n` is the number of tokens of
        the common prefix of `cached` and the prompt. Returns None if there is no such sequence. The common prefix never
        contains the prompt's last token, because the last token must be computed to get logits. `key`: the prompt's
        token ids as packed int32.
        """
        match = self._longest_match(key[:-4])
        if match is None or match[1] * BLOCK < max(MIN_SHARED, (len(key) // 4 + 1) // 2):
            return None
        cached = self._find_exact_prefix(key, match[1]) or match[0]
        self._sequences.move_to_end(cached.key)
        return cached, _common_length(cached.key, key[:-4])

    def load(self, cached: CachedPrefix, length: int, target: KeysValues) -> None:
        """Copy the keys and values of the first `length` positions of a cached sequence to the start of `target`."""
        for begin, end, at in self._runs(cached.blocks, 0, length):
            target.span(begin, end).copy(self._kv.span(at, at + end - begin))

    def put(self, key: bytes, kv: KeysValues, logits: Tensor | None) -> None:
        """Store the keys and values of a token sequence. They are in the first positions of `kv`. `key`: the token ids
        as packed int32. `logits`: the logits after the last token; None if the sequence contains a response.

        Evicts other sequences if necessary. Does nothing if the sequence is larger than the cache, or is already
        stored. If the stored sequence has no logits and `logits` is given, the sequence is stored again with logits.
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
        # `_allocate` can evict the matching sequence. The references are counted first, so that `_allocate` does not
        # free the shared blocks.
        for block in blocks:
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
        """Allocate `count` blocks and return their indices. Evicts the least recently used sequences until there is
        room for the blocks and for `size` bytes of logits.
        """
        while len(self._free) < count or self.used + count * self._block_bytes + size > self.capacity:
            self._evict(next(iter(self._sequences.values())))
        taken = [self._free.pop() for _ in range(count)]
        for block in taken:
            self._refcounts[block] = 1
        return taken

    def _longest_match(self, key: bytes) -> tuple[CachedPrefix, int] | None:
        """Returns (cached, n). `cached` is the cached sequence that has the most full blocks in common with the
        beginning of `key`. `n` is the number of these blocks. Sequences with fewer than `MIN_SHARED` tokens are
        not considered. Returns None if no cached sequence has a full block in common with `key`, or if `key` has fewer
        than `MIN_SHARED` tokens.
        """
        hashes = _block_hashes(key)
        for n in range(len(hashes), 0, -1):
            newest = next(reversed(self._prefixes.get(hashes[n - 1], {})), b"")
            if newest and newest[: n * BLOCK * 4] == key[: n * BLOCK * 4]:
                return self._sequences[newest], n
        return None

    def _find_exact_prefix(self, key: bytes, blocks: int) -> CachedPrefix | None:
        """Returns the longest cached sequence that is a prefix of `key`, contains the first `blocks` full blocks of
        `key`, and ends within the next block. Returns None if there is no such sequence. For example, different
        responses to one prompt can begin with the same full blocks and differ only in the next block.
        """
        for length in range(min((blocks + 1) * BLOCK, len(key) // 4) - 1, blocks * BLOCK, -1):
            if (cached := self._sequences.get(key[: length * 4])) is not None:
                return cached
        return None

    def _runs(self, blocks: list[int], begin: int, end: int) -> Iterator[tuple[int, int, int]]:
        """Split the positions [begin, end) of a sequence into runs. A run is contiguous in the cache's memory. Yields
        (first position, last position + 1, first position in the cache's memory) for each run. The argument `begin`
        must be the first position of a block.
        """
        first, last = begin // BLOCK, -(-end // BLOCK)
        breaks = [i for i in range(first + 1, last) if blocks[i] != blocks[i - 1] + 1]
        for a, b in pairwise([first, *breaks, last]):
            if a < b:
                yield a * BLOCK, min(b * BLOCK, end), blocks[a] * BLOCK

    def _evict(self, cached: CachedPrefix) -> None:
        del self._sequences[cached.key]
        # `_allocate` takes the last free block first. So a later sequence gets these blocks in ascending order.
        for block in reversed(cached.blocks):
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
    """Returns the number of tokens of the common prefix of two keys."""
    size = min(len(a), len(b))
    differs = np.frombuffer(a[:size], np.int32) != np.frombuffer(b[:size], np.int32)
    return int(differs.argmax()) if differs.any() else size // 4


def _block_hashes(key: bytes) -> list[int]:
    """Returns one hash for each full block of a key. The hash is computed from all tokens of the key up to the end of
    the block. Returns an empty list if the key has fewer than `MIN_SHARED` tokens.
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
