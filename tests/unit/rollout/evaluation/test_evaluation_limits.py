"""Limits and budgets: rates are kept, a 429 holds all requests, and Retry-After is obeyed and bounded."""

import asyncio
import time

import pytest

from arlarena.rollout.evaluation.errors import BudgetSpent, EvaluationError
from arlarena.rollout.evaluation.models.errors import Retryable
from arlarena.rollout.evaluation.models.protocol import SamplingRequest, TokenUsage
from arlarena.rollout.evaluation.play.budgets import BudgetLimits, BudgetMeter
from arlarena.rollout.evaluation.play.caller import NOTICE_AFTER, NOTICE_EVERY_S, ModelAccess
from arlarena.rollout.evaluation.play.limits import MinuteBucket, ModelLimits, RequestGate


class Clock:
    """A clock that moves by hand."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


async def send(gate: RequestGate, count: int, tokens: int = 1, seconds: float = 0.0) -> list[float]:
    """Send requests at once. Return when each was let through."""
    times: list[float] = []

    async def one() -> None:
        async with gate.permit(tokens):
            times.append(time.monotonic())
            await asyncio.sleep(seconds)

    await asyncio.gather(*(one() for _ in range(count)))
    return times


async def test_no_more_requests_than_the_concurrency() -> None:
    times = await send(RequestGate(ModelLimits(concurrency=3)), 9, seconds=0.05)
    assert times[8] - times[0] >= 0.1
    assert times[2] - times[0] < 0.04


class ClockedGate(RequestGate):
    """A gate whose waits move its clock."""

    def __init__(self, limits: ModelLimits) -> None:
        self.clock = Clock()
        super().__init__(limits, self.clock)

    async def rest(self, seconds: float) -> None:
        await asyncio.sleep(0)
        self.clock.now += seconds

    async def times(self, count: int, tokens: int = 1) -> list[float]:
        """When each of these requests, sent at once, was let through."""
        found: list[float] = []

        async def one() -> None:
            async with self.permit(tokens):
                found.append(self.clock.now)

        await asyncio.gather(*(one() for _ in range(count)))
        return found


async def test_requests_per_minute_are_kept() -> None:
    times = await ClockedGate(ModelLimits(concurrency=50, requests_per_minute=600)).times(40)
    assert [later - times[0] for later in times] == pytest.approx([number / 10 for number in range(40)])


async def test_tokens_per_minute_are_kept_and_corrected_by_the_vendors_count() -> None:
    gate = ClockedGate(ModelLimits(concurrency=50, tokens_per_minute=6000))
    assert await gate.times(4, tokens=200) == pytest.approx([100, 102, 104, 106])
    gate.succeeded(gate.clock.now, 200, 500)
    assert await gate.times(1) == pytest.approx([111])


async def test_the_lower_of_both_limits_counts() -> None:
    gate = ClockedGate(ModelLimits(requests_per_minute=600, tokens_per_minute=6000))
    assert await gate.times(3, tokens=5) == pytest.approx([100, 100.1, 100.2])
    assert await gate.times(3, tokens=500) == pytest.approx([100.3, 105.15, 110.15])


def test_any_minute_has_at_most_its_amount_and_one_second_more() -> None:
    clock = Clock()
    bucket = MinuteBucket(120, clock)
    sent: list[float] = []
    clock.now += 500  # idle time is not saved up
    for _ in range(400):
        clock.now += bucket.delay()
        bucket.take(1)
        sent.append(clock.now)
    assert all(sum(at <= other < at + 60 for other in sent) <= 120 + 2 + 1 for at in sent)
    assert sent[-1] - sent[0] == pytest.approx(398 / 2, abs=2)


def wait_of(gate: RequestGate, clock: Clock) -> float:
    return max(0.0, gate._delay()) if clock else 0.0


@pytest.fixture
def clocked() -> tuple[RequestGate, Clock]:
    clock = Clock()
    return RequestGate(ModelLimits(first_pause_s=1, longest_pause_s=8, longest_retry_after_s=30), clock), clock


@pytest.mark.parametrize(("asked", "waited"), [(7.0, 7.0), (3600.0, 30.0)])
def test_retry_after_holds_all_requests_and_is_bounded(
    clocked: tuple[RequestGate, Clock], asked: float, waited: float
) -> None:
    gate, clock = clocked
    assert gate.failed(Retryable("429", retry_after_s=asked), clock.now, 1) == 0.0
    assert wait_of(gate, clock) == pytest.approx(waited)


def test_a_lost_connection_holds_only_its_request(clocked: tuple[RequestGate, Clock]) -> None:
    gate, clock = clocked
    waits = [gate.failed(Retryable("lost"), clock.now, failures) for failures in (1, 2, 3, 4, 5, 1000)]
    assert all(0.5 * most <= wait <= most for wait, most in zip(waits, (1, 2, 4, 8, 8, 8), strict=True))
    assert wait_of(gate, clock) == 0.0


def test_rate_limits_without_a_time_double_once_for_all_requests_in_flight(clocked: tuple[RequestGate, Clock]) -> None:
    gate, clock = clocked
    seen = []
    for _ in range(3):
        sent_at = clock.now
        for _ in range(5):  # in flight together
            gate.failed(Retryable("429", rate_limited=True), sent_at, 1)
        seen.append(wait_of(gate, clock))
        clock.now += seen[-1]
    assert seen == pytest.approx([1, 2, 4])
    gate.succeeded(clock.now, 1, None)
    gate.failed(Retryable("429", rate_limited=True), clock.now, 1)
    assert wait_of(gate, clock) == pytest.approx(1)


async def test_a_stop_ends_the_waits() -> None:
    gate = RequestGate(ModelLimits())
    gate.failed(Retryable("429", retry_after_s=60), time.monotonic(), 1)
    waiting = asyncio.ensure_future(send(gate, 3))
    await asyncio.sleep(0.05)
    assert not waiting.done()
    gate.wake()
    assert len(await asyncio.wait_for(waiting, 2)) == 3


@pytest.mark.parametrize("name", ["concurrency", "requests_per_minute", "first_pause_s"])
def test_limits_are_above_zero(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must be above 0, not 0"):
        ModelLimits(**{name: 0})


def test_budgets_of_tokens_money_and_time() -> None:
    clock = Clock()
    meter = BudgetMeter(BudgetLimits(tokens=100), clock=clock)
    meter.add(TokenUsage(60, 39))
    meter.check()
    meter.add(TokenUsage(1, None))
    with pytest.raises(BudgetSpent, match=r"100 tokens is spent \(100 used\)"):
        meter.check()
    meter = BudgetMeter(BudgetLimits(money=0.5), lambda usage: (usage.input or 0) * 0.1)
    meter.add_earlier([TokenUsage(input=4)])
    meter.check()
    meter.add(TokenUsage(input=1))
    with pytest.raises(BudgetSpent, match=r"money budget of 0\.5 is spent \(0\.5000 used\)"):
        meter.check()
    meter = BudgetMeter(BudgetLimits(seconds=10), clock=clock)
    clock.now += 9.9
    meter.check()
    clock.now += 0.2
    with pytest.raises(BudgetSpent, match="10 s"):
        meter.check()


def test_an_unknown_price_is_not_zero() -> None:
    with pytest.raises(EvaluationError, match="price of this model is unknown"):
        BudgetMeter(BudgetLimits(money=1.0))
    meter = BudgetMeter(BudgetLimits(money=1.0), lambda usage: usage.output and 0.1)
    meter.add(TokenUsage(input=4))
    with pytest.raises(BudgetSpent, match="price of 1 replies is unknown"):
        meter.check()


def test_a_request_that_fails_again_and_again_is_reported_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, said = Clock(), []
    monkeypatch.setattr(time, "monotonic", clock)
    access = ModelAccess(None, SamplingRequest(), None, None, None, notice=said.append)  # type: ignore[arg-type]
    error = Retryable("m at http://127.0.0.1:1: connection refused")
    for failures in range(1, NOTICE_AFTER + 5):
        access.report_retries(failures, error)
    assert said == [f"a request has failed {NOTICE_AFTER} times and is sent again: {error}"]
    clock.now += NOTICE_EVERY_S
    access.report_retries(2, error)
    access.report_retries(9, error)
    assert said[1:] == [f"a request has failed 9 times and is sent again: {error}"]
