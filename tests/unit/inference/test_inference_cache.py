"""Slots and the prefix cache, without a model."""

import random
from itertools import pairwise

import pytest
import torch

from arlarena.inference.embedded.architecture import Architecture
from arlarena.inference.embedded.kv_slots import KeysValues, Slots, position_bytes
from arlarena.inference.embedded.prefix_cache import BLOCK, MIN_SHARED, PrefixCache
from arlarena.inference.embedded.sequence import pack_key

ARCH = Architecture("qwen3", 10, 8, 2, 2, 1, 4, 16, 1e-6, 1e4, 64, False, True, False)
LOGITS = torch.zeros(10)
BLOCK_BYTES = BLOCK * position_bytes(ARCH)
BASE = list(range(10)) * 30


def computed(ids):
    """Keys and values that identify a position, its token and all tokens before it."""
    kv = KeysValues.zeros(ARCH, len(ids))
    for position in range(len(ids)):
        mark = hash(tuple(ids[: position + 1])) % 99_991
        kv.keys[..., position], kv.values[..., position, :] = mark, -mark
    return kv


def put(cache, ids, logits=LOGITS):
    cache.put(pack_key(ids), computed(ids), logits)


def check(cache, cached, length, ids):
    target = KeysValues.zeros(ARCH, len(ids))
    cache.load(cached, length, target.span(0, length))
    expected = computed(ids[:length])
    assert torch.equal(target.span(0, length).keys, expected.keys)
    assert torch.equal(target.span(0, length).values, expected.values)
    assert not target.span(length, len(ids)).keys.any()


def sized_cache(blocks, prompts):
    return PrefixCache(ARCH, blocks * BLOCK_BYTES + prompts * LOGITS.numel() * 4)


def test_the_least_recently_used_prompt_is_evicted_first():
    cache = sized_cache(2, 2)
    put(cache, [1])
    put(cache, [2])
    assert cache.find_prompt(pack_key([1])) is not None
    put(cache, [3])
    assert cache.find_prompt(pack_key([2])) is None
    assert cache.find_prompt(pack_key([1])) is not None
    assert cache.find_prompt(pack_key([3])) is not None
    assert cache.used == cache.capacity


def test_logits_count_towards_the_capacity():
    cache = PrefixCache(ARCH, 3 * BLOCK_BYTES + 3 * LOGITS.numel() * 4 - 1)
    for token in range(3):
        put(cache, [token])
    assert len(cache) == 2
    assert cache.used <= cache.capacity


def test_a_prompt_larger_than_the_cache_is_not_kept():
    cache = sized_cache(1, 1)
    put(cache, [1] * (BLOCK + 1))
    put(cache, [1] * BLOCK, torch.zeros(11))
    assert len(cache) == cache.used == 0
    put(cache, [1] * BLOCK)
    assert len(cache) == 1


def test_zero_capacity_turns_the_cache_off():
    cache = sized_cache(0, 0)
    put(cache, [1])
    assert cache.find_prompt(pack_key([1])) is None


def test_the_longest_common_prefix_is_found_to_the_token():
    cache = sized_cache(100, 9)
    put(cache, [*BASE[:100], 1])
    put(cache, [*BASE[:200], 1])
    prompt = [*BASE[:190], 9, 9]
    cached, shared = cache.find_longest(pack_key(prompt))
    assert cached.key == pack_key([*BASE[:200], 1])
    assert shared == 190
    check(cache, cached, shared, prompt)


def test_a_common_prefix_that_is_too_short_is_not_used():
    cache = sized_cache(100, 9)
    put(cache, BASE[:MIN_SHARED])
    assert cache.find_longest(pack_key([*BASE[: MIN_SHARED - 1], 1, 1])) is None
    assert cache.find_longest(pack_key([*BASE[:MIN_SHARED], *[1] * (MIN_SHARED + 1)])) is None
    assert cache.find_longest(pack_key([*BASE[:MIN_SHARED], 5])) is not None


def test_the_shared_prefix_is_always_shorter_than_the_prompt():
    cache = sized_cache(100, 9)
    put(cache, BASE[:160])
    _, shared = cache.find_longest(pack_key(BASE[:160]))
    assert shared < 160


def test_an_evicted_text_is_not_found_by_its_prefix():
    cache = sized_cache(-(-len(BASE) // BLOCK), 1)
    put(cache, BASE)
    put(cache, [7] * 100)
    assert cache.find_longest(pack_key([*BASE, 1])) is None
    cache.clear()
    assert cache.find_longest(pack_key([*[7] * 100, 1])) is None
    assert cache.used == 0


def test_a_text_without_logits_can_be_continued_but_is_no_prompt():
    cache = sized_cache(100, 9)
    put(cache, BASE[:100], None)
    assert cache.find_prompt(pack_key(BASE[:100])) is None
    assert cache.find_longest(pack_key([*BASE[:100], 3]))[1] == 100
    assert cache.find_longest(pack_key(BASE[:100]))[1] == 99  # the common prefix is always shorter than the prompt
    put(cache, BASE[:100])
    assert cache.find_prompt(pack_key(BASE[:100])).logits is LOGITS
    assert len(cache) == 1


def test_texts_with_a_common_prefix_share_its_full_blocks():
    cache = sized_cache(100, 9)
    put(cache, BASE[:200])
    before = cache.used
    for sibling in range(8):
        put(cache, [*BASE[:200], *[sibling] * 30], None)
    apart = -(-230 // BLOCK) - 200 // BLOCK
    assert cache.used - before == 8 * apart * BLOCK_BYTES
    for sibling in range(8):
        cached, shared = cache.find_longest(pack_key([*BASE[:200], *[sibling] * 40]))
        assert shared == 230
        check(cache, cached, shared, [*BASE[:200], *[sibling] * 40])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_texts_that_differ_only_in_the_last_block_are_each_continued_to_the_token(order):
    """The load of the machine changes the order in which texts finish. The number of reused tokens must not change."""
    cache = sized_cache(100, 9)
    siblings = [[*BASE[:70], *[9 - sibling] * 5] for sibling in range(3)]
    for sibling in order:
        put(cache, siblings[sibling], None)
    for sibling in siblings:
        prompt = [*sibling, 5, 5, 5, 5]
        cached, shared = cache.find_longest(pack_key(prompt))
        assert (cached.key, shared) == (pack_key(sibling), 75)
        check(cache, cached, shared, prompt)
    _, shared = cache.find_longest(pack_key([*BASE[:70], 9, 9, 0, 0]))  # no cached text is a prefix of this prompt
    assert shared in (70, 72)


def test_a_text_is_found_after_a_newer_text_with_the_same_blocks_was_evicted():
    cache = sized_cache(100, 9)
    older, newer = [*BASE[:70], 9, 9], [*BASE[:70], 8, 8]
    put(cache, older, None)
    put(cache, newer, None)
    cache._evict(cache._sequences[pack_key(newer)])
    cached, shared = cache.find_longest(pack_key([*older, 5]))
    assert (cached.key, shared) == (pack_key(older), 72)
    cache._evict(cache._sequences[pack_key(older)])
    assert cache.find_longest(pack_key([*older, 5])) is None
    assert not cache._prefixes


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (1, 2, 3, 4))]
)  # two seconds
def test_cached_texts_hold_the_computed_values_through_random_operations(seed):
    draw = random.Random(seed)
    cache = sized_cache(40, 6)
    episodes = [[draw.randrange(3)] * draw.randrange(70, 130) for _ in range(6)]
    hits = 0
    for _ in range(400):
        ids = draw.choice(episodes)
        if (match := cache.find_longest(pack_key(ids))) is not None:
            cached, shared = match
            check(cache, cached, shared, ids)
            hits += 1
        put(cache, ids, draw.choice((LOGITS, None)))
        assert cache.used <= cache.capacity
        ids += [draw.randrange(10) for _ in range(draw.randrange(1, 40))]
        if len(ids) > 300:
            del ids[draw.randrange(70, 130) :]
        if draw.random() < 0.02:
            cache.clear()
    assert hits > 50


def test_contiguous_blocks_are_copied_in_one_run():
    cache = sized_cache(100, 9)
    put(cache, BASE[:200])
    cached = cache.find_prompt(pack_key(BASE[:200]))
    assert all(b == a + 1 for a, b in pairwise(cached.blocks))
    assert len(list(cache._runs(cached.blocks, 0, 190))) == 1


def test_copying_slots_touches_only_the_live_part():
    slots = Slots(ARCH, 3, 8)
    slots.kv.keys.fill_(-1)
    slots.kv.values.fill_(-1)
    kv = computed([1, 2, 3, 4, 5])
    slots[2].span(0, 5).copy(kv)
    slots.copy(2, 0, 5)
    assert torch.equal(slots[0].span(0, 5).keys, kv.keys)
    assert torch.equal(slots[0].span(0, 5).values, kv.values)
    assert (slots[0].span(5, 8).keys == -1).all()
    assert (slots[1].values == -1).all()
    slots.clear(2)
    assert not slots[2].keys.any()
    assert not slots[2].values.any()
