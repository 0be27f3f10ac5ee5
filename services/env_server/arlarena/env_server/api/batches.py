"""`/v1/batch`: many operations (items) in one request. Each item has its own result or error.

Items that need no thread run first, in one pass on the event loop. An item must wait until the end of this pass

- if it starts an episode of a task that is not in the reset cache,
- if it is a step and the environment's steps block,
- if its session is busy, or
- if an earlier item of its session must wait.

The passes of large batches (more than `YIELD_EVERY` items) run one after another, in the order of the requests. Between
the items of a pass, the event loop also serves other requests. After the pass, the waiting items run. Waiting items of
different sessions run concurrently. The items of one session always run in their order.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from contextlib import nullcontext
from operator import attrgetter
from typing import TYPE_CHECKING

from arlarena.env_server import errors
from arlarena.env_server.errors import ApiError, invalid
from arlarena.env_server.sessions.store import UNKNOWN_CALLER, Caller
from arlarena.proto.env_api import BatchItem, BatchRequest, BatchResult, ResetSpec, StepResult

if TYPE_CHECKING:
    from arlarena.env_server.sessions.service import EnvironmentService

RESET_FIELDS = ResetSpec.__struct_fields__
_reset_of = attrgetter(*RESET_FIELDS)
_NO_RESET = (None,) * len(RESET_FIELDS)
# After this number of items, the event loop serves other requests. 64 steps take about a millisecond.
YIELD_EVERY = 64


async def run_batch(
    service: EnvironmentService, request: BatchRequest, caller: Caller = UNKNOWN_CALLER
) -> list[BatchResult]:
    """Run all items. Returns the results in the order of the items.

    Raises:
        ApiError: 422 if the batch has too many items.
    """
    check_size(service, request)
    return await _Batch(service, request, caller.tenant).run()


def check_size(service: EnvironmentService, request: BatchRequest) -> None:
    """Refuse a batch with more than `max_batch` items.

    Raises:
        ApiError: 422 if the batch is refused.
    """
    maximum = service.settings.max_batch
    if len(request.items) > maximum:
        raise invalid(f"{len(request.items)} items are more than this server's max_batch of {maximum}")


class _Batch:
    """The state of one batch request while its items run."""

    def __init__(self, service: EnvironmentService, request: BatchRequest, tenant: str | None) -> None:
        self._service, self._items, self._tenant = service, request.items, tenant
        self._limit_s = request.deadline_s or service.settings.batch_deadline_s
        self._clock = asyncio.get_running_loop().time
        self._deadline = self._clock() + self._limit_s
        self._results: list[BatchResult | None] = [None] * len(request.items)

    async def run(self) -> list[BatchResult]:
        """Run the items that need not wait, then the waiting items. Returns the results in the order of the items."""
        # A large batch finishes its pass before the next large batch begins. If large batches alternated after each
        # YIELD_EVERY items, all of them would end late.
        large = len(self._items) > YIELD_EVERY
        async with self._service.large_batches if large else nullcontext():
            waiting = await self._first_pass()
        if waiting:
            await asyncio.gather(*(self._run_waiting(numbers) for numbers in waiting.values()))
        return [result for result in self._results if result is not None]

    async def _first_pass(self) -> dict[str, list[int]]:
        """Run the items that need not wait. Returns the positions of the other items, by session."""
        waiting: dict[str, list[int]] = defaultdict(list)
        for number, item in enumerate(self._items):
            if number % YIELD_EVERY == YIELD_EVERY - 1:
                await asyncio.sleep(0)
            if item.session_id in waiting or not self._try_now(number, item):
                waiting[item.session_id].append(number)
        return waiting

    def _try_now(self, number: int, item: BatchItem) -> bool:
        """Run an item and store its result or error. If the item must wait, return False and store nothing."""
        try:
            self._results[number] = self._result_now(item)
        except Exception as error:
            self._results[number] = self._error_result(item, error)
        return self._results[number] is not None

    def _result_now(self, item: BatchItem) -> BatchResult | None:
        """Run an item on the event loop and return its result. Returns None if the item must wait."""
        if self._clock() >= self._deadline:
            raise errors.timed_out("the batch", self._limit_s)
        session = self._service.store.get(item.session_id, self._tenant)
        _check_fields(item)
        if item.op == "state":
            return BatchResult(item.session_id, True, item.request_id, state=self._service.state(session))
        if item.op == "close":
            self._service.end(item.session_id, self._tenant)
            return BatchResult(item.session_id, True, item.request_id)
        if session.lock.locked():
            return None
        if item.action is None:
            result = self._service.reset_now(session, item)
            return None if result is None else _item_result(item, result)
        if self._service.factory.blocking:
            return None
        return _item_result(item, self._service.step_now(session, item.action.text, item.step_index))

    async def _run_waiting(self, numbers: list[int]) -> None:
        """Run the waiting items of one session in their order. `numbers`: the positions of the items in the batch."""
        for number in numbers:
            item = self._items[number]
            if self._try_now(number, item):
                continue
            try:
                self._results[number] = await self._await_result(item)
            except Exception as error:
                self._results[number] = self._error_result(item, error)

    async def _await_result(self, item: BatchItem) -> BatchResult:
        """Run an item that must wait, until the deadline of the batch."""
        session = self._service.store.get(item.session_id, self._tenant)
        try:
            async with asyncio.timeout_at(self._deadline):
                if item.action is not None:
                    result = await self._service.step(session, item.action.text, item.step_index)
                else:
                    result = await self._service.reset(session, item)
        except TimeoutError as error:
            raise errors.timed_out("the batch", self._limit_s) from error
        return _item_result(item, result)

    def _error_result(self, item: BatchItem, error: Exception) -> BatchResult:
        """Count an error and return the item's result with this error."""
        api_error = error if isinstance(error, ApiError) else self._service.unexpected(f"the {item.op}", error)
        self._service.metrics.errors.labels(api_error.code).inc()
        return BatchResult(item.session_id, False, item.request_id, error=api_error.to_item())


def _check_fields(item: BatchItem) -> None:
    """Refuse an item with a field that belongs to another operation.

    Raises:
        ApiError: 422 if the item is refused.
    """
    if (item.op == "step") != (item.action is not None):
        raise invalid("op 'step' needs an action, such as {text: 'up'}; other ops must not have an action")
    if item.op != "step" and item.step_index is not None:
        raise invalid(f"op {item.op!r} must not have step_index: only op 'step' has this field")
    if item.op != "reset" and (given := _reset_of(item)) != _NO_RESET:
        name = next(name for name, value in zip(RESET_FIELDS, given, strict=True) if value is not None)
        raise invalid(f"op {item.op!r} must not have {name}: only op 'reset' has this field")


def _item_result(item: BatchItem, result: StepResult) -> BatchResult:
    return BatchResult(
        item.session_id, True, item.request_id, result.observation, result.reward, result.done, result.metadata
    )
