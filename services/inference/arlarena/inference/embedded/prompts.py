"""Computing prompts: each distinct one once, the long ones in pieces, the shared beginnings from the cache."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from arlarena.inference.embedded.cache import MIN_SHARED, Prefix, PrefixCache
from arlarena.inference.embedded.model import Model, Piece
from arlarena.inference.embedded.sequence import Score, Sequence, pack_key

HEAD_ROWS = 512  # positions whose logits are held at once while a prompt is scored: bounds memory at a large vocabulary


@dataclass(slots=True)
class Fill:
    """A prompt that is not computed yet, and who waits for it.

    `done` of its tokens are: in `kv` [layers, 2, K, P, D] once that is there, else in `source`.
    """

    key: bytes
    ids: list[int]
    waiting: list[Sequence] = field(default_factory=list)
    source: Prefix | None = None
    kv: Tensor | None = None
    done: int = 0

    @property
    def left(self) -> int:
        """Tokens still to compute."""
        return len(self.ids) - self.done


class Prompts:
    """Turns prompts into prefixes (keys, values and the logits after the last token)."""

    def __init__(self, model: Model, cache: PrefixCache) -> None:
        self.model = model
        self.cache = cache

    def begin(self, fill: Fill) -> None:
        """Start from a cached text with the same beginning, where there is one."""
        shared = self.cache.longest(fill.key)
        if shared is not None:
            fill.source, fill.done = shared

    def whole(self, fills: list[Fill]) -> list[tuple[Fill, Prefix]]:
        """Compute prompts to their ends: the fresh ones together, and those that are continued together."""
        fresh, continued = ([fill for fill in fills if bool(fill.done) is begun] for begun in (False, True))
        return [*(self._fresh(fresh) if fresh else ()), *(self._continued(continued) if continued else ())]

    def _fresh(self, fills: list[Fill]) -> list[tuple[Fill, Prefix]]:
        fills.sort(key=lambda fill: len(fill.ids))
        lengths = [len(fill.ids) for fill in fills]
        ids = torch.tensor([token for fill in fills for token in fill.ids])
        logits, kv = self.model.prefill(ids, lengths)
        prefixes = []
        begin = 0
        for row, fill in enumerate(fills):
            end = begin + lengths[row]
            own = kv[:, :, begin:end].transpose(2, 3).contiguous()
            prefixes.append((fill, self._keep(Prefix(fill.key, own, logits[row].clone()))))
            begin = end
        return prefixes

    def _continued(self, fills: list[Fill]) -> list[tuple[Fill, Prefix]]:
        pieces = [Piece(fill.done, fill.left, self._room(fill)) for fill in fills]
        ids = torch.tensor([token for fill in fills for token in fill.ids[fill.done :]])
        logits = self.model.continue_(ids, pieces)
        return [
            (fill, self._keep(Prefix(fill.key, piece.kv, logits[row].clone())))
            for row, (fill, piece) in enumerate(zip(fills, pieces, strict=True))
        ]

    def keep_response(self, sequence: Sequence, kv: Tensor) -> None:
        """Keep a prompt with its response, whose keys and values `kv` [layers, 2, K, L, D] a slot still holds."""
        if sequence.length >= MIN_SHARED and self.cache.capacity:
            key = sequence.key + pack_key(sequence.tokens[:-1])  # the newest token has not been computed
            self._keep(Prefix(key, kv[:, :, :, : sequence.length].clone(), None))

    def advance(self, fill: Fill, tokens: int) -> Prefix | None:
        """Compute up to `tokens` more of one prompt; the prefix once it is complete."""
        kv = self._room(fill)
        piece = fill.ids[fill.done : fill.done + tokens]
        x = self.model.extend(torch.tensor(piece), fill.done, kv)
        fill.done += len(piece)
        if fill.left:
            return None
        return self._keep(Prefix(fill.key, kv, self.model.logits(x[-1:])[0]))

    def score(self, ids: list[int], top: int) -> tuple[Prefix, Score]:
        """Compute a prompt and the log-prob of each of its tokens; reads no cache and leaves nothing in it."""
        kv = buffer(self.model, len(ids))
        x = self.model.extend(torch.tensor(ids), 0, kv)
        return Prefix(b"", kv, self.model.logits(x[-1:])[0]), score(self.model, x, ids, top)

    def _keep(self, prefix: Prefix) -> Prefix:
        self.cache.put(prefix)
        return prefix

    def _room(self, fill: Fill) -> Tensor:
        """The fill's keys and values, begun with those of its source."""
        if fill.kv is None:
            fill.kv = buffer(self.model, len(fill.ids))
            if fill.source is not None:
                fill.kv[:, :, :, : fill.done] = fill.source.kv[:, :, :, : fill.done]
                fill.source = None
        return fill.kv


def buffer(model: Model, length: int) -> Tensor:
    """Room for the keys and values of one prompt: [layers, 2, K, P, D]."""
    a = model.arch
    return torch.empty(a.layers, 2, a.kv_heads, length, a.head_dim)


def log_probs(model: Model, ids: list[int]) -> list[float]:
    """Log-probs of ids 1 … P-1 given those before, at temperature 1."""
    x = model.extend(torch.tensor(ids), 0, buffer(model, len(ids)))
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
