"""Scheduling: admission, budgets, slots, endings. A fake model records the computations."""

import time

import numpy as np
import pytest
import torch

from arlarena.inference.embedded.architecture import Architecture
from arlarena.inference.embedded.kv_slots import Slots
from arlarena.inference.embedded.prefix_cache import PrefixCache
from arlarena.inference.embedded.sampler import RowSampling, uniforms
from arlarena.inference.embedded.scheduler import Scheduler
from arlarena.inference.embedded.sequence import Sequence

ARCH = Architecture("qwen3", 16, 4, 1, 1, 1, 2, 4, 1e-6, 1e4, 512, False, True, False)


class CountingModel:
    """A model that records its calls. The next token is always (last token + 1) modulo 16."""

    arch = ARCH

    def __init__(self):
        self.packed, self.pieces, self.continued, self.decoded = [], [], [], []

    def prefill(self, ids, lengths):
        self.packed.append(list(lengths))
        last = torch.tensor(lengths).cumsum(0) - 1
        return self.logits(ids[last].unsqueeze(1)), torch.zeros(1, 2, len(ids), 1, 2)

    def extend(self, ids, piece):
        assert len(ids) == piece.length
        self.pieces.append((piece.start, piece.length))
        return ids.unsqueeze(1)

    def continue_(self, ids, pieces):
        self.continued.append([(piece.start, piece.length) for piece in pieces])
        last = torch.tensor([piece.length for piece in pieces]).cumsum(0) - 1
        return self.logits(ids[last].unsqueeze(1))

    def decode(self, ids, positions, kv):
        self.decoded.append(positions)
        return self.logits(ids.unsqueeze(1))

    def logits(self, x):
        out = torch.full((len(x), 16), -1e4)
        out[torch.arange(len(x)), (x[:, 0].long() + 1) % 16] = 0.0
        return out


def make(slots=4, budget=64, cache=1 << 20):
    model = CountingModel()
    return model, Scheduler(model, Slots(ARCH, slots, 512), PrefixCache(ARCH, cache), budget, "v1")


def request(prompt, max_tokens=5, eos=(), stop=(), deadline=None, **more):
    far = time.monotonic() + 600 if deadline is None else deadline
    return Sequence(prompt, RowSampling(), max_tokens, frozenset(stop), frozenset(eos), far, **more)


def six_then_seven(tokens):
    return "end" if tokens[-2:] == [6, 7] else None


def drain(scheduler, limit=1000):
    for _ in range(limit):
        if not scheduler.step():
            return
    raise AssertionError("still running")


def test_responses_end_at_eos_stop_ids_stop_strings_and_max_tokens():
    _, s = make()
    cases = [
        (request([3], 5), [4, 5, 6, 7, 8], "length", None),
        (request([3], 5, eos={6}), [4, 5, 6], "stop", None),
        (request([3], 5, stop={5}), [4, 5], "stop", 5),
        (request([3], 5, eos={4}), [4], "stop", None),
        (request([3], 1), [4], "length", None),
        (
            request([3], 9, stop_check=lambda tokens: "end" if tokens[-2:] == [6, 7] else None),
            [4, 5, 6, 7],
            "stop",
            "end",
        ),
    ]
    s.add([case[0] for case in cases])
    drain(s)
    for q, tokens, reason, stop in cases:
        assert (q.tokens, q.finish_reason, q.stop_reason) == (tokens, reason, stop)
        assert len(q.logprobs) == len(q.ranks) == len(tokens)
        assert q.spans() == [("v1", 0, len(tokens))]
    assert sorted(map(id, s.updated)) == sorted(id(case[0]) for case in cases)


def test_each_token_is_drawn_with_the_random_number_of_its_index():
    model, s = make()
    model.logits = lambda x: torch.zeros(len(x), 16)  # uniform logits: token = floor(16 · number)
    q = Sequence([3], RowSampling(seed=7), 40, frozenset(), frozenset(), time.monotonic() + 600)
    s.add([q])
    drain(s)
    numbers = uniforms(np.full(40, 7, np.uint64), np.arange(40, dtype=np.uint64))
    assert q.tokens == [int(16 * number) for number in numbers]


def test_identical_prompts_are_computed_once_even_in_one_step():
    model, s = make(slots=8)
    s.add([request([1, 2, 3]) for _ in range(5)] + [request([9, 9])])
    drain(s)
    s.add([request([1, 2, 3])])
    drain(s)
    assert model.packed == [[2, 3]]
    assert s.counters.prompt_hits == 5
    assert s.counters.prompt_tokens == 6 * 3 + 2
    assert s.counters.computed_tokens == 5


def test_prompts_are_computed_again_after_forget_prompts():
    model, s = make()
    for _ in range(2):
        s.add([request([1, 2, 3])])
        drain(s)
        s.forget_prompts()
    assert model.packed == [[3], [3]]


def test_more_requests_than_slots_are_queued_first_come_first_served():
    model, s = make(slots=2)
    queued = [request([i + 1], max_tokens=3 + i % 2) for i in range(9)]
    s.add(queued)
    drain(s)
    assert all(len(positions) <= 2 for positions in model.decoded)
    assert [q.tokens for q in queued] == [[(i + 2 + k) % 16 for k in range(3 + i % 2)] for i in range(9)]
    ended = [queued.index(q) for q in s.updated]
    assert all(abs(place - index) <= 2 for place, index in enumerate(ended))


def test_a_step_computes_no_more_prompt_tokens_than_its_budget_while_decoding_goes_on():
    model, s = make(slots=64, budget=64)
    running = request([1], max_tokens=400)
    s.add([running])
    s.step()
    s.add([request([i % 16] * 20 + [i]) for i in range(16)])
    before = len(running.tokens)
    while s.waiting:
        s.step()
        assert sum(model.packed[-1]) <= 64
    assert len(running.tokens) - before >= 16 * 21 // 64


def test_a_prompt_longer_than_the_budget_is_computed_in_pieces_beside_others():
    model, s = make(slots=8, budget=64)
    long = request([1] * 300 + [4])
    short = [request([7, i]) for i in range(4)]
    s.add([long])
    s.step()
    s.add(short)
    s.step()
    assert all(q.tokens for q in short)
    assert not long.tokens
    drain(s)
    assert long.tokens == [5, 6, 7, 8, 9]
    assert [start for start, _ in model.pieces] == [
        sum(n for _, n in model.pieces[:i]) for i in range(len(model.pieces))
    ]
    assert sum(n for _, n in model.pieces) == 301
    assert all(n <= 64 for _, n in model.pieces)


def test_a_prompt_with_a_cached_prefix_computes_only_the_rest():
    model, s = make(budget=512)
    beginning = [i % 16 for i in range(128)]
    s.add([request(beginning)])
    drain(s)
    s.add([request([*beginning, 3, 4]), request([*beginning, 5])])
    drain(s)
    assert model.continued == [[(128, 2), (128, 1)]]  # in one batch
    assert model.pieces == []


def test_the_next_turn_computes_only_tokens_after_the_last_response():
    model, s = make(budget=512)
    first = request([i % 16 for i in range(100)])
    s.add([first])
    drain(s)
    observation = [1, 2, 3]
    s.add([request([*first.prompt, *first.tokens, *observation])])
    drain(s)
    known = 100 + len(first.tokens) - 1  # the last token has no keys and values
    assert model.continued == [[(known, 1 + len(observation))]]


def test_a_response_begun_with_old_weights_is_not_cached():
    model, s = make(budget=512)
    first = request([i % 16 for i in range(100)])
    s.add([first])
    s.step()
    s.version = "v2"
    s.forget_prompts()
    drain(s)
    assert len(s.cache) == 0
    s.add([request([*first.prompt, *first.tokens, 1])])
    drain(s)
    assert model.continued == []


def test_new_weights_restart_the_chunked_prompt():
    model, s = make(budget=64)
    s.add([request([1] * 200)])
    s.step()
    s.forget_prompts()
    drain(s)
    assert [start for start, _ in model.pieces[1:]] == [0, 64, 128, 192]


def test_a_change_of_version_splits_the_spans_at_its_token():
    _, s = make()
    q = request([1], max_tokens=6)
    s.add([q])
    s.step()
    s.step()
    taken = len(q.tokens)
    s.version = "v2"
    drain(s)
    assert q.spans() == [("v1", 0, taken), ("v2", taken, 6)]


@pytest.mark.parametrize("where", ["running", "waiting", "filling"])
@pytest.mark.parametrize("why", ["deadline", "abort"])
def test_cancelled_and_late_sequences_end_in_every_state(where, why):
    _, s = make(slots=1, budget=64)
    deadline = 100.0 if why == "deadline" else 1e12
    prompt = [1] * 300 if where == "filling" else [1]
    leaver = request(prompt, max_tokens=400, deadline=deadline)
    other = request([5], max_tokens=3, deadline=1e12)
    if where == "waiting":
        s.add([other, leaver])
        other.max_tokens = 50
    else:
        s.add([leaver, other])
    s.step()
    s.sweep(50.0)
    assert leaver.finish_reason is None
    leaver.cancelled = why == "abort"
    s.sweep(150.0)
    assert leaver.finish_reason == why
    assert leaver in s.updated
    drain(s)
    assert other.finish_reason == "length"


def test_end_all_ends_running_waiting_and_chunked_sequences():
    _, s = make(slots=1, budget=64)
    everyone = [request([1], 400), request([2] * 300), request([3])]
    s.add(everyone)
    s.step()
    s.end_all("abort")
    assert {q.finish_reason for q in everyone} == {"abort"}
    assert s.waiting == len(s.running) == 0
    assert not s.step()


def test_finished_sequences_leave_no_gaps_and_do_not_disturb_others():
    model, s = make(slots=8)
    lengths = [2, 7, 3, 7, 1, 5]
    sequences = [request([i], n) for i, n in enumerate(lengths)]
    s.add(sequences)
    drain(s)
    for i, (q, n) in enumerate(zip(sequences, lengths, strict=True)):
        assert q.tokens == [(i + 1 + k) % 16 for k in range(n)]
    assert [len(positions) for positions in model.decoded] == [5, 4, 3, 3, 2, 2]
