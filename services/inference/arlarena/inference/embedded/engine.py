"""The engine and its thread. The thread runs a step of the model while there is work. Between two steps, the thread
runs functions that other threads have sent. A sequence passes through these states:

    submit(sequences)  ->  waiting  ->  prompt computed (or cached)  ->  slot  ->  finished, delivered

A slot is the memory for the keys and values of one running sequence. Other threads must not use the model directly.
They may call `start`, `submit`, `cancel`, `call` and `stop`, and read the properties.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar

from arlarena.inference.embedded.architecture import Architecture
from arlarena.inference.embedded.kv_slots import Slots, position_bytes
from arlarena.inference.embedded.model import Model
from arlarena.inference.embedded.prefix_cache import PrefixCache
from arlarena.inference.embedded.scheduler import Counters, Scheduler
from arlarena.inference.embedded.sequence import Sequence
from arlarena.inference.embedded.weights.parameters import Parameters

T = TypeVar("T")
Deliver = Callable[[list[Sequence]], None]
OnDeath = Callable[[BaseException], None]

SWEEP_S = 0.05  # seconds between checks of deadlines and cancelled sequences


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """The sizes of an engine. `max_length`: maximum number of tokens of one sequence, prompt and response together.
    `slots`: maximum number of running sequences. `kv_bytes`: memory limit of all slots together. `cache_bytes`: memory
    limit of the prefix cache. `prefill_tokens`: maximum number of prompt tokens that one step computes.
    """

    max_length: int
    slots: int = 256
    kv_bytes: int = 2 << 30
    cache_bytes: int = 256 << 20
    prefill_tokens: int = 2048

    def affordable_slots(self, arch: Architecture) -> int:
        """Returns the number of slots that fit into `kv_bytes`: at least 1 and at most `slots`."""
        return max(1, min(self.slots, self.kv_bytes // (self.max_length * position_bytes(arch))))


class EngineDeadError(RuntimeError):
    """The engine's thread has ended. The message contains the reason."""


class Engine:
    """Samples responses for sequences. `version`: the label of the weights in service.

    After each step, the engine's thread calls `deliver` with a list of sequences. The list contains all sequences that
    have finished, and all streamed sequences that have new tokens. If an error ends the thread, the thread calls
    `on_death` with this error.
    """

    def __init__(
        self,
        arch: Architecture,
        parameters: Parameters,
        version: str,
        limits: EngineLimits,
        deliver: Deliver,
        on_death: OnDeath | None = None,
    ) -> None:
        self.arch = arch
        self.limits = limits
        self._model = Model(arch, parameters, limits.max_length)
        self._scheduler = Scheduler(
            self._model,
            Slots(arch, limits.affordable_slots(arch), limits.max_length),
            PrefixCache(arch, limits.cache_bytes),
            limits.prefill_tokens,
            version,
        )
        self._deliver = deliver
        self._on_death = on_death
        self._inbox: deque[Callable[[], None]] = deque()
        self._inbox_lock = threading.Lock()
        self._closed = False
        self._stopping = False
        self._wake = threading.Event()
        self._last_sweep = 0.0
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    # --- from any thread ---

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self, timeout_s: float = 10.0) -> None:
        """End the thread after the current step, and wait at most `timeout_s` seconds for its end. Unfinished sequences
        end with the finish reason `abort`. If the thread has already ended, this method does nothing.
        """
        try:
            self._post(self._begin_stop)
        except EngineDeadError:
            return
        if self._thread.ident is not None:
            self._thread.join(timeout_s)

    def submit(self, sequences: list[Sequence]) -> None:
        """Queue sequences.

        Raises:
            EngineDeadError: the engine's thread has ended.
        """
        self._post(lambda: self._scheduler.add(sequences))

    def cancel(self, sequence: Sequence) -> None:
        """End a sequence whose client has disconnected. The engine delivers it with the finish reason `abort`."""
        sequence.cancelled = True
        self._wake.set()

    def call(self, function: Callable[[], T]) -> Future[T]:
        """Run `function` on the engine's thread, between two steps. Returns a future for the function's result.

        Raises:
            EngineDeadError: the engine's thread has ended.
        """
        future: Future[T] = Future()

        def run() -> None:
            try:
                future.set_result(function())
            except Exception as error:
                future.set_exception(error)

        self._post(run)
        return future

    @property
    def alive(self) -> bool:
        """True while the thread runs."""
        return self._thread.is_alive() and not self._closed

    @property
    def version(self) -> str:
        """The label of the weights in service."""
        return self._scheduler.version

    @property
    def counters(self) -> Counters:
        """Numbers of tokens, prompts and steps since the engine started."""
        return self._scheduler.counters

    @property
    def running(self) -> int:
        """The number of sequences in slots."""
        return len(self._scheduler.running)

    @property
    def waiting(self) -> int:
        """The number of sequences that wait for a slot or for the computation of their prompt."""
        return self._scheduler.waiting

    @property
    def slots(self) -> int:
        """How many sequences can run at the same time."""
        return self._scheduler.slots.count

    @property
    def cached_prompts(self) -> int:
        """The number of token sequences in the prefix cache."""
        return len(self._scheduler.cache)

    # --- on the engine's thread, through `call` ---

    def forget_prompts(self) -> None:
        """Empty the prefix cache. Prompts that are only partly computed are computed again from their first token."""
        self._scheduler.forget_prompts()

    def swap(self, parameters: Parameters, version: str) -> None:
        """Use new weights from the next step on, and empty the prefix cache. `version`: the label of the new weights.
        The keys and values of running sequences are not computed again with the new weights.
        """
        self._model.parameters = parameters
        self._scheduler.version = version
        self._scheduler.forget_prompts()

    # --- the thread ---

    def _post(self, action: Callable[[], None]) -> None:
        with self._inbox_lock:
            if self._closed:
                raise EngineDeadError(f"the engine has stopped: {self._failure or 'the server is shutting down'}")
            self._inbox.append(action)
        self._wake.set()

    def _begin_stop(self) -> None:
        self._stopping = True

    def _run(self) -> None:
        try:
            while not self._stopping:
                self._turn()
        except BaseException as error:
            self._failure = error
        with self._inbox_lock:
            self._closed = True
            self._drain_inbox()
        self._scheduler.end_all("error" if self._failure else "abort")
        self._flush()
        if self._failure is not None and self._on_death is not None:
            self._on_death(self._failure)

    def _turn(self) -> None:
        """Run the functions in the inbox, then run one step. If there is no work, wait until there is work."""
        self._wake.clear()
        self._drain_inbox()
        now = time.monotonic()
        if now - self._last_sweep >= SWEEP_S:
            self._last_sweep = now
            self._scheduler.sweep(now)
        if self._scheduler.step():
            self.counters.steps += 1
            self.counters.busy_s += time.monotonic() - now
            self._flush()
            return
        self._flush()
        if not self._inbox and not self._stopping:
            self._wake.wait(SWEEP_S if self.running or self.waiting else None)

    def _drain_inbox(self) -> None:
        while self._inbox:
            self._inbox.popleft()()

    def _flush(self) -> None:
        updated = self._scheduler.updated
        if updated:
            self._scheduler.updated = []
            self._deliver(updated)
