"""Which sequence does what in a step: first come, first served, within a budget of prompt tokens.

A step computes at most `prefill_tokens` tokens of prompts, so that running sequences never wait long behind a queue
of prompts, and identical prompts are computed once. Not thread-safe: the engine's thread owns it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from arlarena.inference.embedded.kv_slots import KeysValues, Slots
from arlarena.inference.embedded.model import Model
from arlarena.inference.embedded.prefill import PrefillJob, Prompts
from arlarena.inference.embedded.prefix_cache import PrefixCache
from arlarena.inference.embedded.sampler import Drawn, sample
from arlarena.inference.embedded.sequence import FinishReason, Sequence


@dataclass(slots=True)
class Counters:
    """What the engine has done since it started."""

    prompt_tokens: int = 0
    computed_tokens: int = 0
    generated_tokens: int = 0
    prompt_hits: int = 0
    prompt_queries: int = 0
    steps: int = 0
    busy_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Ready:
    """A sequence whose prompt lies in a slot, perhaps beside others. `logits` [V]: after the prompt."""

    sequence: Sequence
    logits: Tensor
    slot: int


class Scheduler:
    """The sequences in flight. `version` labels the weights in service; `news` collects those that finished or grew."""

    def __init__(self, model: Model, slots: Slots, cache: PrefixCache, prefill_tokens: int, version: str) -> None:
        self.model = model
        self.slots = slots
        self.cache = cache
        self.prefill_tokens = prefill_tokens
        self.version = version
        self.counters = Counters()
        self.news: list[Sequence] = []
        self.running: list[Sequence] = []  # the n-th is in slot n
        self._waiting: deque[Sequence] = deque()
        self._filling: PrefillJob | None = None  # the one prompt that is computed in pieces
        self._next_slot = 0  # for the next prompt of this step
        self._prompts = Prompts(model, cache)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot or for their prompt."""
        return len(self._waiting) + (len(self._filling.waiting) if self._filling else 0)

    def add(self, sequences: list[Sequence]) -> None:
        """Queue sequences."""
        self._waiting.extend(sequences)

    def step(self) -> bool:
        """Admit, then one token for each running sequence; whether there was anything to do."""
        worked = self._admit()
        if self.running:
            self._decode()
            return True
        return worked

    def forget_prompts(self) -> None:
        """Drop everything computed for prompts: the weights are others now."""
        self.cache.clear()
        if self._filling is not None:
            self._filling.forget()

    def end_all(self, reason: FinishReason) -> None:
        """End every sequence in flight."""
        for sequence in [*self.running, *self._waiting, *(self._filling.waiting if self._filling else ())]:
            self._end(sequence, reason)
        self.running.clear()
        self._waiting.clear()
        self._filling = None

    def sweep(self, now: float) -> None:
        """End sequences whose client is gone or whose time is up; `now` is in seconds of `time.monotonic`."""
        self._release([row for row, sequence in enumerate(self.running) if self._expired(sequence, now)])
        if self._waiting:
            self._waiting = deque(sequence for sequence in self._waiting if not self._expired(sequence, now))
        if self._filling is not None:
            self._filling.waiting = [s for s in self._filling.waiting if not self._expired(s, now)]
            if not self._filling.waiting:
                self._filling = None

    # --- admission ---

    def _admit(self) -> bool:
        """Compute prompts up to the budget and give their sequences slots; whether anything was done."""
        budget = self.prefill_tokens
        ready: list[Ready] = []
        jobs: dict[bytes, PrefillJob] = {}
        self._next_slot = len(self.running)
        free = self.slots.count - self._next_slot - (len(self._filling.waiting) if self._filling else 0)
        if self._filling is not None:  # half of the budget, so that neither it nor the queue behind it stands still
            budget -= self._advance(budget // 2 if self._waiting else budget, ready)
        while self._waiting and free > 0 and budget > 0:
            sequence = self._waiting[0]
            budget -= self._place(sequence, jobs, ready, budget)
            if self._waiting and self._waiting[0] is sequence:
                break  # it costs more than is left of the budget, or a prompt that is computed in pieces is before it
            free -= 1
        if self._filling is not None and budget > 0:
            self._advance(budget, ready)
        if jobs:
            self.counters.computed_tokens += sum(job.left for job in jobs.values())
            for job, logits in self._prompts.whole(list(jobs.values())):
                assert job.slot is not None
                ready += [Ready(sequence, logits, job.slot) for sequence in job.waiting]
        self._begin_responses(ready)
        return bool(ready) or self._filling is not None

    def _place(self, sequence: Sequence, jobs: dict[bytes, PrefillJob], ready: list[Ready], budget: int) -> int:
        """Find where the first waiting sequence's prompt comes from and take it off the queue. Returns its cost.

        A sequence stays queued if its prompt does not fit into what is left of this step.
        """
        key, size = sequence.key, len(sequence.prompt)
        if sequence.score is not None:
            if budget < min(size, self.prefill_tokens):
                return 0
            slot = self._new_slot()
            logits, sequence.scored = self._prompts.score(sequence.prompt, sequence.score, self.slots[slot])
            ready.append(Ready(self._taken(hit=False), logits, slot))
            self.counters.computed_tokens += size
            return size
        pending = jobs.get(key) or (self._filling if self._filling and self._filling.key == key else None)
        if pending is not None:
            pending.waiting.append(self._taken(hit=True))
            return 0
        if (known := self.cache.prompt(key)) is not None and known.logits is not None:
            slot = self._new_slot()
            self.cache.load(known, size, self.slots[slot])
            ready.append(Ready(self._taken(hit=True), known.logits, slot))
            return 0
        job = self._prompts.plan(key, sequence.prompt)
        if job.left <= budget:
            slot = self._new_slot()
            self._prompts.place(job, self.slots[slot], slot)
            job.waiting.append(self._taken(hit=job.done > 0))
            jobs[key] = job
            return job.left
        if job.left <= self.prefill_tokens or self._filling is not None:
            return 0
        job.waiting.append(self._taken(hit=job.done > 0))
        self._filling = job
        return self._advance(budget, ready)

    def _new_slot(self) -> int:
        """The next one behind the running sequences, for a prompt."""
        self._next_slot += 1
        return self._next_slot - 1

    def _taken(self, *, hit: bool) -> Sequence:
        sequence = self._waiting.popleft()
        self.counters.prompt_queries += 1
        self.counters.prompt_hits += hit
        self.counters.prompt_tokens += len(sequence.prompt)
        return sequence

    def _advance(self, budget: int, ready: list[Ready]) -> int:
        """Compute the next piece of the prompt that is computed in pieces. Returns its tokens."""
        job = self._filling
        assert job is not None
        if job.kv is None:  # not in a slot: others come and go meanwhile
            self._prompts.place(job, KeysValues.zeros(self.model.arch, len(job.ids)))
        assert job.kv is not None
        piece = min(budget, job.left)
        logits = self._prompts.advance(job, piece)
        self.counters.computed_tokens += piece
        if logits is not None:
            slot = self._new_slot()
            self.slots[slot].span(0, len(job.ids)).copy(job.kv)
            ready += [Ready(sequence, logits, slot) for sequence in job.waiting]
            self._filling = None
        return piece

    def _begin_responses(self, ready: list[Ready]) -> None:
        """Sample first tokens; whoever is not finished by that goes on in a slot."""
        if not ready:
            return
        logits = torch.stack([one.logits for one in ready])
        if bad := _not_finite(logits):
            for row in bad:
                self._end(ready[row].sequence, "nonfinite")
                self.slots.clear(ready[row].slot)
            self._begin_responses([one for row, one in enumerate(ready) if row not in bad])
            return
        drawn = sample(logits, [one.sequence.draw for one in ready], [0] * len(ready))
        self._settle([one for row, one in enumerate(ready) if not self._append(one.sequence, drawn, row)])

    def _settle(self, ready: list[Ready]) -> None:
        """Put sequences into the slots behind the running ones, without a gap.

        One of those that share a prompt takes its slot, or moves down into a gap: ascending, so that no prompt is
        overwritten before it has moved. The others copy it.
        """
        homes: dict[int, int] = {}  # the slot in which a prompt was computed -> where it is now
        others = []
        for one in sorted(ready, key=lambda one: one.slot):
            if one.slot in homes:
                others.append(one)
                continue
            homes[one.slot] = len(self.running)
            self._run_in(homes[one.slot], one.slot, one.sequence)
        for one in others:
            self._run_in(len(self.running), homes[one.slot], one.sequence)

    def _run_in(self, slot: int, source: int, sequence: Sequence) -> None:
        if source != slot:
            self.slots.copy(source, slot, len(sequence.prompt))
        self.running.append(sequence)

    # --- decoding ---

    def _decode(self) -> None:
        running = self.running
        positions = [sequence.length for sequence in running]
        newest = torch.tensor([sequence.tokens[-1] for sequence in running])
        logits = self.model.decode(newest, positions, self.slots.kv)
        if bad := _not_finite(logits):
            for row in bad:
                self._end(running[row], "nonfinite")
                self.slots.clear(row)
            self._release(bad)
            return  # the others' step is repeated: it writes the same keys and values once more
        indices = [len(sequence.tokens) for sequence in running]
        drawn = sample(logits, [sequence.draw for sequence in running], indices)
        finished = [row for row, sequence in enumerate(running) if self._append(sequence, drawn, row)]
        for row in finished:
            sequence = running[row]
            if sequence.starts[0][0] == self.version and sequence.score is None:  # else other weights began it
                self._prompts.keep_response(sequence, self.slots[row])
        self._release(finished)

    def _append(self, sequence: Sequence, drawn: Drawn, row: int) -> bool:
        if sequence.draw.top_logprobs and drawn.top is not None:
            count = sequence.draw.top_logprobs
            sequence.top.append((drawn.top[0][row][:count], drawn.top[1][row][:count]))
        finished = sequence.append(drawn.tokens[row], drawn.logprobs[row], drawn.ranks[row], self.version)
        self.counters.generated_tokens += 1
        if finished or sequence.stream:
            self.news.append(sequence)
        return finished

    def _release(self, rows: list[int]) -> None:
        """Free slots; the last running sequences move into the gaps, so that the running ones stay without a gap."""
        for row in reversed(rows):
            last = self.running.pop()
            if row < len(self.running):
                self.slots.copy(len(self.running), row, last.length)
                self.running[row] = last

    # --- endings ---

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        self.news.append(sequence)

    def _expired(self, sequence: Sequence, now: float) -> bool:
        if not sequence.cancelled and now < sequence.deadline:
            return False
        self._end(sequence, "abort" if sequence.cancelled else "deadline")
        return True


def _not_finite(logits: Tensor) -> list[int]:
    """Rows [B, V] -> those that cannot be sampled from, ascending: the policy has diverged."""
    finite = torch.isfinite(logits).all(dim=1)
    return [] if finite.all() else (~finite).nonzero().squeeze(1).tolist()
