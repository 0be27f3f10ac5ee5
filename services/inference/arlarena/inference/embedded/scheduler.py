"""Schedules sequences: first come, first served, with a budget of prompt tokens per step.

A step computes at most `prefill_tokens` prompt tokens, so a queue of prompts delays running sequences only a little.
There is one exception: if the log-probs of a prompt are requested, one step computes all tokens of the prompt.
Identical prompts are computed only once, except prompts with requested log-probs. The scheduler is not thread-safe:
only the engine's thread may use it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from arlarena.inference.embedded.kv_slots import KeysValues, Slots
from arlarena.inference.embedded.model import Model
from arlarena.inference.embedded.prefill import Prefiller, PrefillJob
from arlarena.inference.embedded.prefix_cache import PrefixCache
from arlarena.inference.embedded.sampler import SampledTokens, sample
from arlarena.inference.embedded.sequence import FinishReason, Sequence


@dataclass(slots=True)
class Counters:
    """Total numbers since the engine started."""

    prompt_tokens: int = 0  # prompt tokens of admitted sequences
    computed_tokens: int = 0  # prompt tokens that were computed; the other prompt tokens were reused
    generated_tokens: int = 0
    prompt_hits: int = 0  # admitted sequences with a prompt or a prefix that was already computed
    prompt_queries: int = 0  # admitted sequences
    steps: int = 0
    busy_s: float = 0.0  # seconds spent in steps


@dataclass(frozen=True, slots=True)
class ReadySequence:
    """A sequence with a computed prompt. `logits` [V]: the logits after the prompt. `slot`: the slot that contains the
    prompt's keys and values. Sequences with equal prompts can have the same `slot` (see `_assign_slots`).
    """

    sequence: Sequence
    logits: Tensor
    slot: int


class Scheduler:
    """Schedules all unfinished sequences. `version`: the label of the weights in service. `updated`: the sequences that
    the engine must deliver. These are finished sequences, and streamed sequences with new tokens.
    """

    def __init__(self, model: Model, slots: Slots, cache: PrefixCache, prefill_tokens: int, version: str) -> None:
        self.model = model
        self.slots = slots
        self.cache = cache
        self.prefill_tokens = prefill_tokens
        self.version = version
        self.counters = Counters()
        self.updated: list[Sequence] = []
        self.running: list[Sequence] = []  # the n-th sequence is in slot n
        self._waiting: deque[Sequence] = deque()
        self._chunked: PrefillJob | None = None  # the only prompt that is computed in pieces
        self._next_slot = 0  # the slot of the next prompt in this step
        self._prefiller = Prefiller(model, cache)

    @property
    def waiting(self) -> int:
        """The number of sequences that wait for a slot or for the computation of their prompt."""
        return len(self._waiting) + (len(self._chunked.waiting) if self._chunked else 0)

    def add(self, sequences: list[Sequence]) -> None:
        """Queue sequences."""
        self._waiting.extend(sequences)

    def step(self) -> bool:
        """Compute prompts, then sample one token for each running sequence. Returns True if there was work."""
        worked = self._admit()
        if self.running:
            self._decode()
            return True
        return worked

    def forget_prompts(self) -> None:
        """Empty the prefix cache. If a prompt is partly computed, it is computed again from its first token. Called
        after a weight update.
        """
        self.cache.clear()
        if self._chunked is not None:
            self._chunked.forget()

    def end_all(self, reason: FinishReason) -> None:
        """End all unfinished sequences. `reason`: their `finish_reason`."""
        for sequence in [*self.running, *self._waiting, *(self._chunked.waiting if self._chunked else ())]:
            self._end(sequence, reason)
        self.running.clear()
        self._waiting.clear()
        self._chunked = None

    def sweep(self, now: float) -> None:
        """End sequences that are cancelled or whose deadline has passed. `now`: in seconds of `time.monotonic`."""
        self._release([row for row, sequence in enumerate(self.running) if self._end_if_expired(sequence, now)])
        if self._waiting:
            self._waiting = deque(sequence for sequence in self._waiting if not self._end_if_expired(sequence, now))
        if self._chunked is not None:
            self._chunked.waiting = [s for s in self._chunked.waiting if not self._end_if_expired(s, now)]
            if not self._chunked.waiting:
                self._chunked = None

    # --- admission ---

    def _admit(self) -> bool:
        """Compute waiting prompts within the step's budget of `prefill_tokens` prompt tokens. Each sequence with a
        complete prompt gets its first token. If the sequence is not finished, it also gets a slot. Returns True if
        there was work.
        """
        budget = self.prefill_tokens
        ready: list[ReadySequence] = []
        jobs: dict[bytes, PrefillJob] = {}
        self._next_slot = len(self.running)
        # One slot is reserved for each sequence that waits for the chunked prompt.
        free = self.slots.count - self._next_slot - (len(self._chunked.waiting) if self._chunked else 0)
        if self._chunked is not None:  # if other prompts wait, they get half of the budget
            budget -= self._advance(budget // 2 if self._waiting else budget, ready)
        while self._waiting and free > 0 and budget > 0:
            sequence = self._waiting[0]
            budget -= self._place(sequence, jobs, ready, budget)
            if self._waiting and self._waiting[0] is sequence:
                break  # this sequence exceeds the remaining budget or must wait for the chunked prompt
            free -= 1
        if self._chunked is not None and budget > 0:
            self._advance(budget, ready)
        if jobs:
            self.counters.computed_tokens += sum(job.left for job in jobs.values())
            for job, logits in self._prefiller.complete(list(jobs.values())):
                assert job.slot is not None
                ready += [ReadySequence(sequence, logits, job.slot) for sequence in job.waiting]
        self._begin_responses(ready)
        return bool(ready) or self._chunked is not None

    def _place(self, sequence: Sequence, jobs: dict[bytes, PrefillJob], ready: list[ReadySequence], budget: int) -> int:
        """Try to take `sequence`, the first sequence in the queue, out of the queue. Returns how many of its prompt
        tokens this step computes. `budget`: how many prompt tokens this step can still compute.

        - If the prompt's log-probs are requested (`score`), the prompt is computed at once, without the cache.
        - If an equal prompt is being computed or is in the cache, the sequence uses this prompt.
        - If the tokens to compute fit into `budget`, the sequence gets a new job in `jobs`.
        - If the tokens to compute exceed the budget of a complete step, the prompt becomes the chunked prompt. Several
          steps compute the chunked prompt in pieces. There is at most one chunked prompt.
        - In all other cases, the sequence stays in the queue.
        """
        key, size = sequence.key, len(sequence.prompt)
        if sequence.score is not None:
            if budget < min(size, self.prefill_tokens):
                return 0
            slot = self._new_slot()
            logits, sequence.scored = self._prefiller.score(sequence.prompt, sequence.score, self.slots[slot])
            ready.append(ReadySequence(self._dequeue(hit=False), logits, slot))
            self.counters.computed_tokens += size
            return size
        pending = jobs.get(key) or (self._chunked if self._chunked and self._chunked.key == key else None)
        if pending is not None:
            pending.waiting.append(self._dequeue(hit=True))
            return 0
        if (known := self.cache.find_prompt(key)) is not None and known.logits is not None:
            slot = self._new_slot()
            self.cache.load(known, size, self.slots[slot])
            ready.append(ReadySequence(self._dequeue(hit=True), known.logits, slot))
            return 0
        job = self._prefiller.plan(key, sequence.prompt)
        if job.left <= budget:
            slot = self._new_slot()
            self._prefiller.place(job, self.slots[slot], slot)
            job.waiting.append(self._dequeue(hit=job.done > 0))
            jobs[key] = job
            return job.left
        if job.left <= self.prefill_tokens or self._chunked is not None:
            return 0
        job.waiting.append(self._dequeue(hit=job.done > 0))
        self._chunked = job
        return self._advance(budget, ready)

    def _new_slot(self) -> int:
        """Reserve the next slot for a prompt of this step. Returns the number of the slot. The slots with lower numbers
        belong to running sequences and to earlier prompts of this step.
        """
        self._next_slot += 1
        return self._next_slot - 1

    def _dequeue(self, *, hit: bool) -> Sequence:
        sequence = self._waiting.popleft()
        self.counters.prompt_queries += 1
        self.counters.prompt_hits += hit
        self.counters.prompt_tokens += len(sequence.prompt)
        return sequence

    def _advance(self, budget: int, ready: list[ReadySequence]) -> int:
        """Compute the next piece of the chunked prompt, which is the prompt that several steps compute. `budget`:
        maximum number of tokens of the piece. Returns the number of tokens of the piece. If the prompt is now complete,
        appends its sequences to `ready`.
        """
        job = self._chunked
        assert job is not None
        if job.kv is None:  # a chunked prompt has its own memory, because free slots are reassigned between steps
            self._prefiller.place(job, KeysValues.zeros(self.model.arch, len(job.ids)))
        assert job.kv is not None
        piece = min(budget, job.left)
        logits = self._prefiller.advance(job, piece)
        self.counters.computed_tokens += piece
        if logits is not None:
            slot = self._new_slot()
            self.slots[slot].span(0, len(job.ids)).copy(job.kv)
            ready += [ReadySequence(sequence, logits, slot) for sequence in job.waiting]
            self._chunked = None
        return piece

    def _begin_responses(self, ready: list[ReadySequence]) -> None:
        """Sample the first response token of each sequence in `ready`. Each sequence that is not finished afterwards
        gets a slot. Sequences whose logits are not finite end without a token.
        """
        if not ready:
            return
        logits = torch.stack([item.logits for item in ready])
        if bad := _nonfinite_rows(logits):
            for row in bad:
                self._end(ready[row].sequence, "nonfinite")
                self.slots.clear(ready[row].slot)
            self._begin_responses([item for row, item in enumerate(ready) if row not in bad])
            return
        drawn = sample(logits, [item.sequence.sampling for item in ready], [0] * len(ready))
        self._assign_slots([item for row, item in enumerate(ready) if not self._append(item.sequence, drawn, row)])

    def _assign_slots(self, ready: list[ReadySequence]) -> None:
        """Put sequences into the slots after the running sequences, without gaps.

        The prompts are processed in ascending order of their slots. The first sequence of each prompt keeps the
        prompt's slot, or copies the prompt into a lower free slot. So no prompt is overwritten before it is copied.
        Afterwards the other sequences copy their prompts from the first sequences.
        """
        moved: dict[int, int] = {}  # slot in which a prompt was computed -> slot of the first sequence of this prompt
        others = []
        for item in sorted(ready, key=lambda item: item.slot):
            if item.slot in moved:
                others.append(item)
                continue
            moved[item.slot] = len(self.running)
            self._start_in_slot(moved[item.slot], item.slot, item.sequence)
        for item in others:
            self._start_in_slot(len(self.running), moved[item.slot], item.sequence)

    def _start_in_slot(self, slot: int, source: int, sequence: Sequence) -> None:
        if source != slot:
            self.slots.copy(source, slot, len(sequence.prompt))
        self.running.append(sequence)

    # --- decoding ---

    def _decode(self) -> None:
        running = self.running
        positions = [sequence.length for sequence in running]
        newest = torch.tensor([sequence.tokens[-1] for sequence in running])
        logits = self.model.decode(newest, positions, self.slots.kv)
        if bad := _nonfinite_rows(logits):
            for row in bad:
                self._end(running[row], "nonfinite")
                self.slots.clear(row)
            self._release(bad)
            return  # the next step repeats this step for the other sequences
        indices = [len(sequence.tokens) for sequence in running]
        drawn = sample(logits, [sequence.sampling for sequence in running], indices)
        finished = [row for row, sequence in enumerate(running) if self._append(sequence, drawn, row)]
        for row in finished:
            sequence = running[row]
            # A sequence may be cached only if the weights in service have computed all its keys and values.
            if sequence.starts[0][0] == self.version and sequence.score is None:
                self._prefiller.cache_response(sequence, self.slots[row])
        self._release(finished)

    def _append(self, sequence: Sequence, drawn: SampledTokens, row: int) -> bool:
        """Append the token `drawn.tokens[row]` to a sequence. Returns True if the response is now complete."""
        if sequence.sampling.top_logprobs and drawn.top is not None:
            count = sequence.sampling.top_logprobs
            sequence.top.append((drawn.top[0][row][:count], drawn.top[1][row][:count]))
        finished = sequence.append(drawn.tokens[row], drawn.logprobs[row], drawn.ranks[row], self.version)
        self.counters.generated_tokens += 1
        if finished or sequence.stream:
            self.updated.append(sequence)
        return finished

    def _release(self, rows: list[int]) -> None:
        """Remove the running sequences with the slots `rows` (in ascending order). The sequences in the last slots move
        into the gaps.
        """
        for row in reversed(rows):
            last = self.running.pop()
            if row < len(self.running):
                self.slots.copy(len(self.running), row, last.length)
                self.running[row] = last

    # --- endings ---

    def _end(self, sequence: Sequence, reason: FinishReason) -> None:
        sequence.finish_reason = reason
        self.updated.append(sequence)

    def _end_if_expired(self, sequence: Sequence, now: float) -> bool:
        if not sequence.cancelled and now < sequence.deadline:
            return False
        self._end(sequence, "abort" if sequence.cancelled else "deadline")
        return True


def _nonfinite_rows(logits: Tensor) -> list[int]:
    """Returns the indices of all rows of `logits` [B, V] with NaN or infinity, in ascending order. Such numbers occur
    if the weights have diverged.
    """
    finite = torch.isfinite(logits).all(dim=1)
    return [] if finite.all() else (~finite).nonzero().squeeze(1).tolist()
