"""The prefill: computes the keys, values and logits of prompts. If the prefix cache contains a prefix of a prompt, only
the tokens after this prefix are computed. A long prompt is computed in pieces.

To score a prompt means to compute the log-probs and ranks of its tokens.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from arlarena.inference.embedded.kv_slots import KeysValues
from arlarena.inference.embedded.model import Model, Piece
from arlarena.inference.embedded.prefix_cache import MIN_SHARED, CachedPrefix, PrefixCache
from arlarena.inference.embedded.sequence import Score, Sequence, pack_key

HEAD_ROWS = 512  # maximum number of positions that are scored at a time; this limits the memory for logits


@dataclass(slots=True)
class PrefillJob:
    """A prompt to compute, and the sequences that wait for this prompt (`waiting`). The first `done` tokens are already
    computed. Their keys and values are in `kv`. If `kv` is None, they are in the cached sequence `source`.
    """

    key: bytes
    ids: list[int]
    waiting: list[Sequence] = field(default_factory=list)
    source: CachedPrefix | None = None
    kv: KeysValues | None = None
    slot: int | None = None  # the slot that `kv` belongs to; None if `kv` is not in a slot
    done: int = 0

    @property
    def left(self) -> int:
        """The number of tokens that remain to be computed."""
        return len(self.ids) - self.done

    def forget(self) -> None:
        """Discard all computed tokens. Called after a weight update."""
        self.source, self.kv, self.done = None, None, 0


class Prefiller:
    """Computes the keys and values of prompts, and the logits after their last tokens."""

    def __init__(self, model: Model, cache: PrefixCache) -> None:
        self.model = model
        self.cache = cache

    def plan(self, key: bytes, ids: list[int]) -> PrefillJob:
        """Returns a job that computes a prompt. If the cache contains a prefix of the prompt, the job computes only the
        tokens after this prefix. `ids`: the prompt's token ids. `key`: the token ids as packed int32.
        """
        job = PrefillJob(key, ids)
        shared = self.cache.find_longest(key)
        if shared is not None:
            job.source, job.done = shared
        return job

    def place(self, job: PrefillJob, kv: KeysValues, slot: int | None = None) -> None:
        """Set the memory for the keys and values of a job's prompt, and copy the job's cached prefix into this memory.
        `kv`: the memory, with room for all positions of the prompt. `slot`: the slot that contains `kv`; None if `kv`
        is not in a slot.
        """
        job.kv, job.slot = kv, slot
        if job.source is not None:
            self.cache.load(job.source, job.done, kv)
            job.source = None

    def complete(self, jobs: list[PrefillJob]) -> list[tuple[PrefillJob, Tensor]]:
        """Compute all remaining prompt tokens of the jobs. Each job must have memory (see `place`). New prompts form
        one batch. Partly computed prompts form another batch. Returns each job with the logits [V] after its prompt.
        """
        new, partial = ([job for job in jobs if bool(job.done) is started] for started in (False, True))
        return [*(self._compute_new(new) if new else ()), *(self._compute_rest(partial) if partial else ())]

    def _compute_new(self, jobs: list[PrefillJob]) -> list[tuple[PrefillJob, Tensor]]:
        jobs.sort(key=lambda job: len(job.ids))
        lengths = [len(job.ids) for job in jobs]
        ids = torch.tensor([token for job in jobs for token in job.ids])
        logits, kv = self.model.prefill(ids, lengths)
        for job, packed in zip(jobs, torch.split(kv, lengths, dim=2), strict=True):
            keys, values = packed.unbind(1)  # [layers, P, K, D] each
            assert job.kv is not None
            job.kv.span(0, len(job.ids)).copy(KeysValues(keys.permute(0, 2, 3, 1), values.transpose(1, 2)))
        return self._put_into_cache(jobs, logits)

    def _compute_rest(self, jobs: list[PrefillJob]) -> list[tuple[PrefillJob, Tensor]]:
        ids = torch.tensor([token for job in jobs for token in job.ids[job.done :]])
        return self._put_into_cache(jobs, self.model.continue_(ids, [_next_piece(job, job.left) for job in jobs]))

    def cache_response(self, sequence: Sequence, kv: KeysValues) -> None:
        """Put a sequence's prompt and response into the cache. Does nothing if the sequence has fewer than `MIN_SHARED`
        tokens with keys and values. `kv`: the sequence's keys and values.
        """
        if sequence.length >= MIN_SHARED:
            self.cache.put(sequence.key + pack_key(sequence.tokens[:-1]), kv, None)  # the last token has no keys yet

    def advance(self, job: PrefillJob, tokens: int) -> Tensor | None:
        """Compute at most `tokens` further tokens of a job's prompt. The job must have memory (see `place`). If the
        prompt is now complete, returns the logits [V] after the prompt. Otherwise returns None.
        """
        piece = _next_piece(job, min(tokens, job.left))
        x = self.model.extend(torch.tensor(job.ids[piece.start : piece.stop]), piece)
        job.done = piece.stop
        if job.left:
            return None
        return self._put_into_cache([job], self.model.logits(x[-1:]))[0][1]

    def score(self, ids: list[int], top: int, kv: KeysValues) -> tuple[Tensor, Score]:
        """Compute a prompt without the cache. Returns the logits [V] after the prompt, and the log-probs and ranks of
        the prompt's tokens. `top`: how many of the most likely tokens are reported for each position. `kv`: memory for
        the prompt's keys and values.
        """
        x = self.model.extend(torch.tensor(ids), Piece(0, len(ids), kv))
        return self.model.logits(x[-1:])[0], score(self.model, x, ids, top)

    def _put_into_cache(self, jobs: list[PrefillJob], logits: Tensor) -> list[tuple[PrefillJob, Tensor]]:
        """Put computed prompts into the cache. Returns each job with the logits [V] after its prompt."""
        computed = [(job, row.clone()) for job, row in zip(jobs, logits, strict=True)]
        for job, row in computed:
            assert job.kv is not None
            self.cache.put(job.key, job.kv, row)
        return computed


def _next_piece(job: PrefillJob, tokens: int) -> Piece:
    assert job.kv is not None
    return Piece(job.done, tokens, job.kv)


def log_probs(model: Model, ids: list[int]) -> list[float]:
    """Returns the log-probs of the tokens 1 … P-1 at temperature 1. P is the number of tokens. The log-prob of a token
    is conditional on all tokens before it.
    """
    x = model.extend(torch.tensor(ids), Piece(0, len(ids), KeysValues.zeros(model.arch, len(ids))))
    return score(model, x, ids, 0).logprobs


def score(model: Model, x: Tensor, ids: list[int], top: int) -> Score:
    """Returns the log-probs and ranks of a prompt's tokens 1 … P-1. `x` [P, hidden size]: the last layer's output for
    the P tokens. `top`: how many of the most likely tokens are reported for each position.
    """
    logprobs: list[float] = []
    ranks: list[int] = []
    top_ids: list[list[int]] = []
    top_values: list[list[float]] = []
    targets = torch.tensor(ids[1:]).unsqueeze(1)
    for begin in range(0, len(ids) - 1, HEAD_ROWS):
        end = min(begin + HEAD_ROWS, len(ids) - 1)
        table = torch.log_softmax(model.logits(x[begin:end]), dim=-1)
        chosen = table.gather(1, targets[begin:end])
        logprobs += chosen.squeeze(1).tolist()
        ranks += ((table > chosen).sum(dim=1) + 1).tolist()
        if top:
            values, most_likely = table.topk(min(top, table.shape[1]), dim=-1)
            top_ids += most_likely.tolist()
            top_values += values.tolist()
    return Score(logprobs, ranks, (top_ids, top_values) if top else None)
