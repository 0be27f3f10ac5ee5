"""Which sequence does what in a step: first come, first served, within a budget of prompt tokens.

A step computes at most `prefill_tokens` tokens of prompts, so that running sequences never wait long behind a queue
of prompts, and identical prompts are computed once. Not thread-safe: the engine's thread owns it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import torch
from torch import Tensor

from arlarena.inference.embedded.cache import Prefix, PrefixCache, Slots
from arlarena.inference.embedded.model import Model
from arlarena.inference.embedded.prompts import Fill, Prompts
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
        self._filling: Fill | None = None  # the one prompt that is computed in pieces
        self._prompts = Prompts(model, cache)

    @property
    def waiting(self) -> int:
        """Sequences that wait for a slot or for their prompt."""
        return len(self._waiting) + (len(self._filling.waiting) if self._filling else 0)

    def add(self, sequences: list[Sequence]) -> None:
        """Queue sequences."""
        self._waiting.extend(sequences)

    def step(self, *, admitting: bool) -> bool:
        """Admit (if told so), then one token for each running sequence; whether there was anything to do."""
        worked = admitting and self._admit()
        if self.running:
            self._decode()
            return True
        return worked

    def forget_prompts(self) -> None:
        """Drop everything computed for prompts: the weights are others now."""
        self.cache.clear()
        if self._filling is not None:
            self._filling.source, self._filling.kv, self._filling.done = None, None, 0

    def end_all(self, reason: FinishReason) -> int:
        """End every sequence in flight. Returns how many."""
        sequences = [*self.running, *self._waiting, *(self._filling.waiting if self._filling else ())]
        for sequence in sequences:
            self._end(sequence, reason)
        self.running.clear()
        self._waiting.clear()
        self._filling = None
        return len(sequences)

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
        ready: list[tuple[Sequence, Prefix]] = []
        fills: dict[bytes, Fill] = {}
        free = self.slots.count - len(self.running) - (len(self._filling.waiting) if self._filling else 0)
        if self._filling is not None:  # half of the budget, so that neither it nor the queue behind it stands still
            budget -= self._advance(budget // 2 if self._waiting else budget, ready)
        while self._waiting and free > 0 and budget > 0:
            sequence = self._waiting[0]
            budget -= self._place(sequence, fills, ready, budget)
            if self._waiting and self._waiting[0] is sequence:
                break  # it costs more than is left of the budget, or a prompt that is computed in pieces is before it
            free -= 1
        if self._filling is not None and budget > 0:
            self._advance(budget, ready)
        if fills:
            self.counters.computed_tokens += sum(fill.left for fill in fills.values())
            for fill, prefix in self._prompts.whole(list(fills.values())):
                ready += [(sequence, prefix) for sequence in fill.waiting]
        self._begin_responses(ready)
        return bool(ready) or self._filling is not None

    def _place(
        self, sequence: Sequence, fills: dict[bytes, Fill], ready: list[tuple[Sequence, Prefix]], budget: int
    ) -> int:
        """Find where the first waiting sequence's prompt comes from and take it off the queue. Returns its cost.

        A sequence stays queued if its prompt does not fit into what is left of this step.
        """
        key, size = sequence.key, len(sequence.prompt)
        if sequence.score is not None:
            if budget < min(size, self.prefill_tokens):
                return 0
            prefix, sequence.scored = self._prompts.score(sequence.prompt, sequence.score)
            ready.append((self._taken(hit=False), prefix))
            self.counters.computed_tokens += size
            return size
        if (cached := self.cache.get(key)) is not None:
            ready.append((self._taken(hit=True), cached))
            return 0
        pending = fills.get(key) or (self._filling if self._filling and self._filling.key == key else None)
        if pending is not None:
            pending.waiting.append(self._taken(hit=True))
            return 0
        fill = Fill(key, sequence.prompt)
        self._prompts.begin(fill)
        if fill.left <= budget:
            fill.waiting.append(self._taken(hit=fill.done > 0))
            fills[key] = fill
            return fill.left
        if fill.left <= self.prefill_tokens or self._filling is not None:
            return 0
        fill.waiting.append(self._taken(hit=fill.done > 0))
        self._filling = fill
        return self._advance(budget, ready)

    def _taken(self, *, hit: bool) -> Sequence:
        sequence = self._waiting.popleft()
        self.counters.prompt_queries += 1
        self.counters.prompt_hits += hit
        self.counters.prompt_tokens += len(sequence.prompt)
        return sequence

    def _advance(self, budget: int, ready: list[tuple[Sequence, Prefix]]) -> int:
        """Compute the next piece of the prompt that is computed in pieces. Returns its tokens."""
        fill = self._filling
        assert fill is not None
        piece = min(budget, fill.left)
        prefix = self._prompts.advance(fill, piece)
        self.counters.computed_tokens += piece
        if prefix is not None:
            ready += [(sequence, prefix) for sequence in fill.waiting]
            self._filling = None
        return piece

    def _begin_responses(self, ready: list[tuple[Sequence, Prefix]]) -> None:
        """Sample first tokens; whoever is not finished by that gets a slot."""
        if not ready:
            return
        sequences = [sequence for sequence, _ in ready]
        logits = torch.stack([prefix.logits for _, prefix in ready if prefix.logits is not None])
        if bad := _not_finite(logits):
            for row in bad:
                self._end(sequences[row], "nonfinite")
            self._begin_responses([pair for row, pair in enumerate(ready) if row not in bad])
            return
        drawn = sample(logits, [sequence.draw for sequence in sequences], [0] * len(sequences))
        for row, (sequence, prefix) in enumerate(ready):
            if not self._append(sequence, drawn, row):
                self.slots.load(len(self.running), prefix.kv)
                self.running.append(sequence)

    # --- decoding ---

    def _decode(self) -> None:
        running = self.running
        positions = [sequence.length for sequence in running]
        newest = torch.tensor([sequence.tokens[-1] for sequence in running])
        logits = self.model.decode(newest, torch.tensor(positions), self.slots.kv, max(positions) + 1)
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
                self._prompts.keep_response(sequence, self.slots.kv[:, :, row])
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
                self.slots.move(len(self.running), row, last.length)
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
