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
    """Keys and values that tell a position, its token and all before it from every other."""
    kv = KeysValues.zeros(ARCH, len(ids))
    for position in range(len(ids)):
        mark = hash(tuple(ids[: position + 1])) % 99_991
        kv.keys[..., position], kv.values[..., position, :] = mark, -mark
    return kv


def put(cache, ids, logits=LOGITS):
    cache.put(pack_key(ids), computed(ids), logits)


def check(cache, text, length, ids):
    target = KeysValues.zeros(ARCH, len(ids))
    cache.load(text, length, target.span(0, length))
    expected = computed(ids[:length])
    assert torch.equal(target.span(0, length).keys, expected.keys)
    assert torch.equal(target.span(0, length).values, expected.values)
    assert not target.span(length, len(ids)).keys.any()


def room(blocks, prompts):
    return PrefixCache(ARCH, blocks * BLOCK_BYTES + prompts * LOGITS.numel() * 4)


def test_the_least_recently_used_prompt_goes_first():
    cache = room(2, 2)
    put(cache, [1])
    put(cache, [2])
    assert cache.prompt(pack_key([1])) is not None
    put(cache, [3])
    assert cache.prompt(pack_key([2])) is None
    assert cache.prompt(pack_key([1])) is not None
    assert cache.prompt(pack_key([3])) is not None
    assert cache.used == cache.capacity


def test_logits_take_room_too():
    cache = PrefixCache(ARCH, 3 * BLOCK_BYTES + 3 * LOGITS.numel() * 4 - 1)
    for token in range(3):
        put(cache, [token])
    assert len(cache) == 2
    assert cache.used <= cache.capacity


def test_a_prompt_larger_than_the_cache_is_not_kept():
    cache = room(1, 1)
    put(cache, [1] * (BLOCK + 1))
    put(cache, [1] * BLOCK, torch.zeros(11))
    assert len(cache) == cache.used == 0
    put(cache, [1] * BLOCK)
    assert len(cache) == 1


def test_no_capacity_means_no_cache():
    cache = room(0, 0)
    put(cache, [1])
    assert cache.prompt(pack_key([1])) is None


def test_the_longest_common_beginning_is_found_to_the_token():
    cache = room(100, 9)
    put(cache, [*BASE[:100], 1])
    put(cache, [*BASE[:200], 1])
    prompt = [*BASE[:190], 9, 9]
    found, shared = cache.longest(pack_key(prompt))
    assert found.key == pack_key([*BASE[:200], 1])
    assert shared == 190
    check(cache, found, shared, prompt)


def test_a_short_or_small_common_beginning_is_not_worth_it():
    cache = room(100, 9)
    put(cache, BASE[:MIN_SHARED])
    assert cache.longest(pack_key([*BASE[: MIN_SHARED - 1], 1, 1])) is None
    assert cache.longest(pack_key([*BASE[:MIN_SHARED], *[1] * (MIN_SHARED + 1)])) is None
    assert cache.longest(pack_key([*BASE[:MIN_SHARED], 5])) is not None


def test_the_whole_prompt_is_never_taken_as_its_own_beginning():
    cache = room(100, 9)
    put(cache, BASE[:160])
    _, shared = cache.longest(pack_key(BASE[:160]))
    assert shared < 160


def test_what_was_dropped_is_not_found_by_its_beginning():
    cache = room(-(-len(BASE) // BLOCK), 1)
    put(cache, BASE)
    put(cache, [7] * 100)
    assert cache.longest(pack_key([*BASE, 1])) is None
    cache.clear()
    assert cache.longest(pack_key([*[7] * 100, 1])) is None
    assert cache.used == 0


def test_a_text_without_logits_is_continued_and_never_taken_for_a_prompt():
    cache = room(100, 9)
    put(cache, BASE[:100], None)
    assert cache.prompt(pack_key(BASE[:100])) is None
    assert cache.longest(pack_key([*BASE[:100], 3]))[1] == 100
    assert cache.longest(pack_key(BASE[:100]))[1] == 99  # never the whole prompt
    put(cache, BASE[:100])
    assert cache.prompt(pack_key(BASE[:100])).logits is LOGITS
    assert len(cache) == 1


def test_texts_that_continue_another_share_its_whole_blocks():
    cache = room(100, 9)
    put(cache, BASE[:200])
    before = cache.used
    for sibling in range(8):
        put(cache, [*BASE[:200], *[sibling] * 30], None)
    apart = -(-230 // BLOCK) - 200 // BLOCK
    assert cache.used - before == 8 * apart * BLOCK_BYTES
    for sibling in range(8):
        text, shared = cache.longest(pack_key([*BASE[:200], *[sibling] * 40]))
        assert shared == 230
        check(cache, text, shared, [*BASE[:200], *[sibling] * 40])


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 2, 0)])
def test_siblings_that_differ_in_their_last_block_alone_are_each_continued_to_the_token(order):
    """Whichever finishes last: the load of the machine must not decide how much of a prompt is computed again."""
    cache = room(100, 9)
    siblings = [[*BASE[:70], *[9 - sibling] * 5] for sibling in range(3)]
    for sibling in order:
        put(cache, siblings[sibling], None)
    for text in siblings:
        prompt = [*text, 5, 5, 5, 5]
        found, shared = cache.longest(pack_key(prompt))
        assert (found.key, shared) == (pack_key(text), 75)
        check(cache, found, shared, prompt)
    _, shared = cache.longest(pack_key([*BASE[:70], 9, 9, 0, 0]))  # continues none of them to its end
    assert shared in (70, 72)


def test_a_text_is_found_after_a_newer_one_with_the_same_blocks_was_dropped():
    cache = room(100, 9)
    older, newer = [*BASE[:70], 9, 9], [*BASE[:70], 8, 8]
    put(cache, older, None)
    put(cache, newer, None)
    cache._forget(cache._texts[pack_key(newer)])
    found, shared = cache.longest(pack_key([*older, 5]))
    assert (found.key, shared) == (pack_key(older), 72)
    cache._forget(cache._texts[pack_key(older)])
    assert cache.longest(pack_key([*older, 5])) is None
    assert not cache._beginnings


@pytest.mark.parametrize(
    "seed", [0, 1, *(pytest.param(seed, marks=pytest.mark.slow) for seed in (2, 3, 4))]
)  # two seconds
def test_whatever_comes_and_goes_a_found_text_holds_what_was_computed_of_it(seed):
    draw = random.Random(seed)
    cache = room(40, 6)
    episodes = [[draw.randrange(3)] * draw.randrange(70, 130) for _ in range(6)]
    hits = 0
    for _ in range(400):
        ids = draw.choice(episodes)
        if (found := cache.longest(pack_key(ids))) is not None:
            text, shared = found
            check(cache, text, shared, ids)
            hits += 1
        put(cache, ids, draw.choice((LOGITS, None)))
        assert cache.used <= cache.capacity
        ids += [draw.randrange(10) for _ in range(draw.randrange(1, 40))]
        if len(ids) > 300:
            del ids[draw.randrange(70, 130) :]
        if draw.random() < 0.02:
            cache.clear()
    assert hits > 50


def test_memory_that_lies_in_one_is_copied_in_one():
    cache = room(100, 9)
    put(cache, BASE[:200])
    text = cache.prompt(pack_key(BASE[:200]))
    assert all(b == a + 1 for a, b in pairwise(text.blocks))
    assert len(list(cache._runs(text.blocks, 0, 190))) == 1


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
