"""Slots and the prefix cache, without a model."""

import torch

from arlarena.inference.embedded.architecture import Architecture
from arlarena.inference.embedded.cache import MIN_SHARED, Prefix, PrefixCache, Slots
from arlarena.inference.embedded.sequence import pack_key

ARCH = Architecture("qwen3", 10, 8, 2, 2, 1, 4, 16, 1e-6, 1e4, 64, False, True, False)


def prefix(ids):
    return Prefix(pack_key(ids), torch.zeros(2, 2, 1, len(ids), 4), torch.zeros(10))


def test_the_least_recently_used_prompt_goes_first():
    a, b, c = prefix([1]), prefix([2]), prefix([3])
    cache = PrefixCache(2 * a.nbytes)
    cache.put(a)
    cache.put(b)
    assert cache.get(a.key) is a
    cache.put(c)
    assert cache.get(b.key) is None
    assert cache.get(a.key) is a
    assert cache.get(c.key) is c
    assert cache.used == 2 * a.nbytes


def test_a_prompt_larger_than_the_cache_is_not_kept():
    cache = PrefixCache(prefix([1]).nbytes)
    cache.put(prefix([1, 2, 3]))
    assert len(cache) == cache.used == 0


def test_no_capacity_means_no_cache():
    cache = PrefixCache(0)
    cache.put(prefix([1]))
    assert cache.get(pack_key([1])) is None


def test_the_longest_common_beginning_is_found_to_the_token():
    base = list(range(10)) * 30
    cache = PrefixCache(1 << 30)
    short, long = prefix([*base[:100], 1]), prefix([*base[:200], 1])
    cache.put(short)
    cache.put(long)
    found, shared = cache.longest(pack_key([*base[:190], 9, 9]))
    assert found is long
    assert shared == 190
    assert found.key[: shared * 4] == pack_key(base[:shared])


def test_a_short_or_small_common_beginning_is_not_worth_it():
    base = list(range(10)) * 30
    cache = PrefixCache(1 << 30)
    cache.put(prefix(base[:MIN_SHARED]))
    assert cache.longest(pack_key([*base[: MIN_SHARED - 1], 1, 1])) is None
    assert cache.longest(pack_key([*base[:MIN_SHARED], *[1] * (MIN_SHARED + 1)])) is None
    assert cache.longest(pack_key([*base[:MIN_SHARED], 5])) is not None


def test_the_whole_prompt_is_never_taken_as_its_own_beginning():
    base = list(range(10)) * 16
    cache = PrefixCache(1 << 30)
    cache.put(prefix(base))
    _, shared = cache.longest(pack_key(base))
    assert shared < len(base)


def test_what_was_dropped_is_not_found_by_its_beginning():
    base = list(range(10)) * 30
    cache = PrefixCache(prefix(base).nbytes)
    cache.put(prefix(base))
    cache.put(prefix([7] * 100))
    assert cache.longest(pack_key([*base, 1])) is None
    cache.clear()
    assert cache.longest(pack_key([*[7] * 100, 1])) is None
    assert cache.used == 0


def test_loading_and_moving_slots_touch_only_the_live_part():
    slots = Slots(ARCH, 3, 8)
    slots.kv.fill_(-1)
    kv = torch.randn(2, 2, 1, 5, 4)
    slots.load(2, kv)
    slots.move(2, 0, 5)
    assert torch.equal(slots.kv[:, :, 0, :, :5], kv)
    assert (slots.kv[:, :, 0, :, 5:] == -1).all()
    assert (slots.kv[:, :, 1] == -1).all()


def test_a_text_without_logits_is_continued_and_never_taken_for_a_prompt():
    cache = PrefixCache(1 << 30)
    base = [i % 10 for i in range(100)]
    known = prefix(base)
    cache.put(Prefix(known.key, known.kv, None))
    assert cache.get(known.key) is None
    assert cache.longest(pack_key([*base, 3]))[1] == 100
    assert cache.longest(pack_key(base))[1] == 99  # never the whole prompt
