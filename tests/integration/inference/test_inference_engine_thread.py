"""The engine's thread: messages from other threads, and failures."""

import threading
import time

import pytest
import torch
from support.inference.inference_support import MAX_LENGTH, model, save

from arlarena.inference.embedded.engine import Engine, EngineDeadError, EngineLimits
from arlarena.inference.embedded.sampler import RowSampling
from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.embedded.weights.loading import load_model


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load_model(save(model(1), tmp_path_factory.mktemp("model")))


class Collector:
    """Collects the delivered sequences."""

    def __init__(self):
        self.finished = []
        self.deaths = []
        self.news = threading.Condition()

    def deliver(self, sequences):
        with self.news:
            self.finished += [s for s in sequences if s.finish_reason is not None]
            self.news.notify_all()

    def wait(self, count):
        with self.news:
            assert self.news.wait_for(lambda: len(self.finished) >= count, 30)


@pytest.fixture
def engine(loaded):
    collector = Collector()
    made = Engine(
        loaded.arch,
        loaded.parameters,
        loaded.label,
        EngineLimits(MAX_LENGTH),
        collector.deliver,
        collector.deaths.append,
    )
    made.collector = collector
    made.start()
    yield made
    made.stop()


def request(prompt, max_tokens=5):
    return Sequence(prompt, RowSampling(seed=1), max_tokens, frozenset(), frozenset(), time.monotonic() + 60)


def test_several_threads_can_submit_concurrently(engine):
    def submit(start):
        for i in range(20):
            engine.submit([request([3 + (start + i) % 40])])

    threads = [threading.Thread(target=submit, args=(k,)) for k in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.collector.wait(160)
    by_prompt = {}
    for s in engine.collector.finished:
        assert by_prompt.setdefault(tuple(s.prompt), s.tokens) == s.tokens


def test_stop_ends_sequences_in_flight_and_refuses_later_ones(engine):
    engine.submit([request([5], 500) for _ in range(3)])
    engine.call(lambda: None).result(10)
    engine.stop()
    engine.collector.wait(3)
    assert {s.finish_reason for s in engine.collector.finished} == {"abort"}
    assert not engine.alive
    with pytest.raises(EngineDeadError):
        engine.submit([request([5])])
    engine.stop()
    assert engine.collector.deaths == []


def test_an_error_in_a_call_is_raised_to_the_caller_and_the_engine_continues(engine):
    with pytest.raises(ZeroDivisionError):
        engine.call(lambda: 1 / 0).result(10)
    engine.submit([request([5])])
    engine.collector.wait(1)


def test_a_failed_engine_ends_all_sequences_with_an_error(engine):
    def break_it(*arguments, **more):
        raise RuntimeError("broken model")

    engine.submit([request([5], 400)])
    engine.call(lambda: setattr(engine._model, "decode", break_it)).result(10)
    engine.collector.wait(1)
    assert engine.collector.finished[0].finish_reason == "error"
    deadline = time.monotonic() + 10
    while not engine.collector.deaths:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    assert "broken model" in str(engine.collector.deaths[0])
    assert not engine.alive
    with pytest.raises(EngineDeadError, match="broken model"):
        engine.call(lambda: None)


def test_an_idle_engine_uses_no_cpu_time(engine):
    engine.submit([request([5])])
    engine.collector.wait(1)
    before = time.process_time()
    steps = engine.counters.steps
    threading.Event().wait(0.3)
    assert time.process_time() - before < 0.1
    assert engine.counters.steps == steps


def test_the_number_of_slots_fits_the_memory(loaded):
    few = EngineLimits(MAX_LENGTH, slots=100, kv_bytes=3 * 2 * 2 * 2 * MAX_LENGTH * 16 * 4)
    assert few.affordable_slots(loaded.arch) == 3
    assert EngineLimits(MAX_LENGTH, kv_bytes=1).affordable_slots(loaded.arch) == 1
    assert torch.get_default_dtype() is torch.float32
