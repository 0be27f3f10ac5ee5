"""Computing prompts: each distinct one once, the long ones in pieces, the shared beginnings from the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from arlarena.inference.embedded.kv_slots import KeysValues
from arlarena.inference.embedded.model import Model, Piece
from arlarena.inference.embedded.prefix_cache import MIN_SHARED, CachedPrefix, PrefixCache
from arlarena.inference.embedded.sequence import Score, Sequence, pack_key

HEAD_ROWS = 512  # positions whose logits are held at once while a prompt is scored: bounds memory at a large vocabulary


@dataclass(slots=True)
class PrefillJob:
    """A prompt that is not computed yet, and who waits for it. `done` of its tokens are: in `kv`, or in `source`."""

    key: bytes
    ids: list[int]
    waiting: list[Sequence] = field(default_factory=list)
    source: CachedPrefix | None = None
    kv: KeysValues | None = None
    slot: int | None = None  # whose `kv` is, if it is one
    done: int = 0

    @property
    def left(self) -> int:
        """Tokens still to compute."""
        return len(self.ids) - self.done

    def forget(self) -> None:
        """Begin anew: the weights are others now."""
        self.source, self.kv, self.done = None, None, 0


class Prompts:
    """Computes prompts: their keys, values and the logits after the last token."""

    def __init__(self, model: Model, cache: PrefixCache) -> None:
        self.model = model
        self.cache = cache

    def plan(self, key: bytes, ids: list[int]) -> PrefillJob:
        """What there is to compute, beside what a cached text has."""
        fill = PrefillJob(key, ids)
        shared = self.cache.longest(key)
        if shared is not None:
            fill.source, fill.done = shared
        return fill

    def place(self, fill: PrefillJob, kv: KeysValues, slot: int | None = None) -> None:
        """Compute it in `kv`, which has room for all of it. At once: what it begins with may be dropped any time."""
        fill.kv, fill.slot = kv, slot
        if fill.source is not None:
            self.cache.load(fill.source, fill.done, kv)
            fill.source = None

    def whole(self, fills: list[PrefillJob]) -> list[tuple[PrefillJob, Tensor]]:
        """Compute placed prompts to their ends: the fresh ones together, and those that are continued together."""
        fresh, continued = ([fill for fill in fills if bool(fill.done) is begun] for begun in (False, True))
        return [*(self._fresh(fresh) if fresh else ()), *(self._continued(continued) if continued else ())]

    def _fresh(self, fills: list[PrefillJob]) -> list[tuple[PrefillJob, Tensor]]:
        fills.sort(key=lambda fill: len(fill.ids))
        lengths = [len(fill.ids) for fill in fills]
        ids = torch.tensor([token for fill in fills for token in fill.ids])
        logits, kv = self.model.prefill(ids, lengths)
        for fill, packed in zip(fills, torch.split(kv, lengths, dim=2), strict=True):
            keys, values = packed.unbind(1)  # [layers, P, K, D] each
            assert fill.kv is not None
            fill.kv.span(0, len(fill.ids)).copy(KeysValues(keys.permute(0, 2, 3, 1), values.transpose(1, 2)))
        return self._kept(fills, logits)

    def _continued(self, fills: list[PrefillJob]) -> list[tuple[PrefillJob, Tensor]]:
        ids = torch.tensor([token for fill in fills for token in fill.ids[fill.done :]])
        return self._kept(fills, self.model.continue_(ids, [_rest(fill, fill.left) for fill in fills]))

    def keep_response(self, sequence: Sequence, kv: KeysValues) -> None:
        """Keep a prompt with its response, whose keys and values a slot still holds."""
        if sequence.length >= MIN_SHARED:
            self.cache.put(sequence.key + pack_key(sequence.tokens[:-1]), kv, None)  # the newest was not computed

    def advance(self, fill: PrefillJob, tokens: int) -> Tensor | None:
        """Compute up to `tokens` more of one placed prompt; the logits once it is complete."""
        piece = _rest(fill, min(tokens, fill.left))
        x = self.model.extend(torch.tensor(fill.ids[piece.start : piece.stop]), piece)
        fill.done = piece.stop
        if fill.left:
            return None
        return self._kept([fill], self.model.logits(x[-1:]))[0][1]

    def score(self, ids: list[int], top: int, kv: KeysValues) -> tuple[Tensor, Score]:
        """The logits after a prompt and the log-prob of each of its tokens; reads no cache and leaves nothing in it."""
        x = self.model.extend(torch.tensor(ids), Piece(0, len(ids), kv))
        return self.model.logits(x[-1:])[0], score(self.model, x, ids, top)

    def _kept(self, fills: list[PrefillJob], logits: Tensor) -> list[tuple[PrefillJob, Tensor]]:
        """Computed prompts with their logits [V], kept for others."""
        found = [(fill, row.clone()) for fill, row in zip(fills, logits, strict=True)]
        for fill, row in found:
            assert fill.kv is not None
            self.cache.put(fill.key, fill.kv, row)
        return found


def _rest(fill: PrefillJob, tokens: int) -> Piece:
    assert fill.kv is not None
    return Piece(fill.done, tokens, fill.kv)


def log_probs(model: Model, ids: list[int]) -> list[float]:
    """Log-probs of ids 1 … P-1 given those before, at temperature 1."""
    x = model.extend(torch.tensor(ids), Piece(0, len(ids), KeysValues.zeros(model.arch, len(ids))))
    return score(model, x, ids, 0).logprobs


def score(model: Model, x: Tensor, ids: list[int], top: int) -> Score:
    """Scores of a prompt's tokens, from the last layer's output `x` [P, E]."""
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
            values, likeliest = table.topk(min(top, table.shape[1]), dim=-1)
            top_ids += likeliest.tolist()
            top_values += values.tolist()
    return Score(logprobs, ranks, (top_ids, top_values) if top else None)
