"""Concurrent calls share a request. Each gets its own result, and an error reaches all callers of the request."""

import asyncio
from collections.abc import Sequence

import pytest

from arlarena.client.batcher import Batcher


class Echo:
    """Records the batches, and returns the double of each item."""

    def __init__(self, delay_s: float = 0.0) -> None:
        self.batches: list[list[int]] = []
        self.delay_s = delay_s

    async def __call__(self, items: Sequence[int]) -> Sequence[int]:
        self.batches.append(list(items))
        await asyncio.sleep(self.delay_s)
        return [2 * item for item in items]


@pytest.mark.parametrize("window_s", [0.0, 0.002])
async def test_concurrent_calls_share_a_request_and_keep_their_order(window_s: float) -> None:
    echo = Echo()
    batcher: Batcher[int, int] = Batcher(echo, window_s=window_s, size=100)
    assert await asyncio.gather(*(batcher.submit(i) for i in range(50))) == [2 * i for i in range(50)]
    assert echo.batches == [list(range(50))]
    assert (batcher.requests, batcher.items) == (1, 50)


async def test_a_full_batch_is_sent_at_once() -> None:
    echo = Echo()
    batcher: Batcher[int, int] = Batcher(echo, window_s=60.0, size=4)
    calls = [asyncio.ensure_future(batcher.submit(i)) for i in range(10)]
    assert await asyncio.gather(*calls[:8]) == [0, 2, 4, 6, 8, 10, 12, 14]
    await batcher.close()
    assert await asyncio.gather(*calls[8:]) == [16, 18]
    assert [len(batch) for batch in echo.batches] == [4, 4, 2]


async def test_requests_do_not_wait_for_one_another() -> None:
    gate, sent = asyncio.Event(), []

    async def send(items: Sequence[str]) -> Sequence[str]:
        sent.append(list(items))
        if "slow" in items:
            await gate.wait()
        return items

    batcher: Batcher[str, str] = Batcher(send, window_s=0.0, size=8)
    slow = asyncio.ensure_future(batcher.submit("slow"))
    while not sent:
        await asyncio.sleep(0)
    assert await batcher.submit("quick") == "quick"
    assert not slow.done()
    gate.set()
    assert await slow == "slow"


async def test_an_error_is_raised_only_in_the_callers_of_its_batch() -> None:
    async def send(items: Sequence[int]) -> Sequence[int]:
        if 1 in items:
            raise OSError("away")
        return items

    batcher: Batcher[int, int] = Batcher(send, window_s=0.0, size=2)
    results = await asyncio.gather(*(batcher.submit(i) for i in range(4)), return_exceptions=True)
    assert [isinstance(result, OSError) for result in results] == [True, True, False, False]


async def test_a_cancelled_caller_does_not_affect_other_callers() -> None:
    batcher: Batcher[int, int] = Batcher(Echo(0.01), window_s=0.0, size=8)
    leaving, staying = asyncio.ensure_future(batcher.submit(1)), asyncio.ensure_future(batcher.submit(2))
    await asyncio.sleep(0)
    leaving.cancel()
    assert await staying == 4
    assert leaving.cancelled()


def test_invalid_window_and_size_are_refused() -> None:
    with pytest.raises(ValueError, match="batch window_s must be"):
        Batcher(Echo(), window_s=-1.0, size=1)
    with pytest.raises(ValueError, match="batch window_s must be"):
        Batcher(Echo(), window_s=0.0, size=0)
