"""Dimension one of ARLArena (arXiv 2602.21534), loss aggregation: how much each token's loss weighs.

`token_mean` is DAPO's (arXiv 2503.14476), `seq_mean_token_mean` GRPO's (arXiv 2402.03300), `seq_mean_token_sum_norm`
Dr. GRPO's (arXiv 2503.20783).

Every rule is a table of weights, and a micro-batch's loss is Σ_t weight_t · loss_t. Denominators are those of the whole
optimiser step, over all micro-batches and ranks, counted before the first of them: so any split of the rows gives the
same gradient, and a rank that holds nothing adds zero. T_i is the number of sampled tokens of row i.

| name                      | weight of token t in row i |
|---------------------------|----------------------------|
| `token_mean`              | 1 / Σ_i T_i                |
| `seq_mean_token_mean`     | 1 / (T_i · rows with T_i > 0) |
| `seq_mean_token_sum`      | 1 / rows                   |
| `seq_mean_token_sum_norm` | 1 / (rows · L_max)         |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from arlarena.trainer.objectives.batch import Batch, segment_sum
from arlarena.trainer.objectives.registry import Registry


@dataclass(frozen=True, slots=True)
class Denominators:
    """Counts over one whole optimiser step. Add them over micro-batches, and all-reduce `as_tuple()` over ranks.

    Attributes:
        tokens: Σ T_i, sampled tokens.
        rows: all rows, those without a sampled token included.
        live_rows: rows with at least one sampled token.
    """

    tokens: float
    rows: float
    live_rows: float

    @classmethod
    def count(cls, batches: Iterable[Batch]) -> Denominators:
        """Count `batches`.

        Rows that the sequence mask drops later still count: the mask depends on π_θ, the denominators must not.
        """
        tokens = rows = live_rows = 0
        for batch in batches:
            tokens += batch.n_tokens
            rows += batch.n_rows
            live_rows += int(batch.row_of_token.bincount().count_nonzero())
        return cls(tokens, rows, live_rows)

    def as_tuple(self) -> tuple[float, float, float]:
        """(tokens, rows, live_rows), the order of the constructor."""
        return self.tokens, self.rows, self.live_rows

    def __add__(self, other: Denominators) -> Denominators:
        """Counts of both parts of a step."""
        mine, theirs = self.as_tuple(), other.as_tuple()
        return Denominators(*(a + b for a, b in zip(mine, theirs, strict=True)))


# A rule gets a micro-batch, the step's counts and the recipe's `length_norm`, and gives each token's weight, [N].
AGGREGATIONS: Registry[Callable[[Batch, Denominators, float], Tensor]] = Registry("aggregation")
register_aggregation = AGGREGATIONS.register


@register_aggregation("token_mean")
def token_mean(batch: Batch, of: Denominators, _length: float) -> Tensor:
    """[N] each sampled token of the step weighs the same: long responses weigh more."""
    return batch.token_ones() / _or_one(of.tokens)


@register_aggregation("seq_mean_token_mean")
def seq_mean_token_mean(batch: Batch, of: Denominators, _length: float) -> Tensor:
    """[N] each row weighs the same, shared among its tokens: a long row's tokens weigh less (GRPO_ST)."""
    ones = batch.token_ones()
    row_tokens = segment_sum(ones, batch.row_of_token, batch.n_rows)
    return ones / (row_tokens[batch.row_of_token] * _or_one(of.live_rows))


@register_aggregation("seq_mean_token_sum")
def seq_mean_token_sum(batch: Batch, of: Denominators, _length: float) -> Tensor:
    """[N] the sum over a row's tokens, averaged over rows."""
    return batch.token_ones() / _or_one(of.rows)


@register_aggregation("seq_mean_token_sum_norm")
def seq_mean_token_sum_norm(batch: Batch, of: Denominators, length: float) -> Tensor:
    """[N] as `seq_mean_token_sum`, over a constant length: no row is favoured for being short (Dr.GRPO)."""
    return batch.token_ones() / (_or_one(of.rows) * length)


def _or_one(count: float) -> float:
    """A step without a single token has weights 0 / 1, not 0 / 0."""
    return count if count > 0 else 1.0
