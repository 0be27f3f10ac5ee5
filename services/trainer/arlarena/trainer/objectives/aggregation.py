"""Loss aggregation: the weight of each token's loss. Dimension one of ARLArena (arXiv 2602.21534).

`token_mean` is the rule of DAPO (arXiv 2503.14476), `seq_mean_token_mean` the rule of GRPO (arXiv 2402.03300), and
`seq_mean_token_sum_norm` the rule of Dr. GRPO (arXiv 2503.20783).

A rule returns a weight for each token. The loss of a micro-batch is Σ_t weight_t · loss_t. The denominators of the
weights are counts over all micro-batches and ranks of the optimiser step. The caller counts tokens and rows before the
first micro-batch. The gradient therefore does not depend on how the rows (training sequences) are split into
micro-batches. T_i is the number of sampled tokens of row i. L_max is the constant `length_norm` of the recipe.

| name                      | weight of token t in row i |
|---------------------------|----------------------------|
| `token_mean`              | 1 / Σ_i T_i                |
| `seq_mean_token_mean`     | 1 / (T_i · number of rows with T_i > 0) |
| `seq_mean_token_sum`      | 1 / number of rows         |
| `seq_mean_token_sum_norm` | 1 / (number of rows · L_max) |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from torch import Tensor

from arlarena.trainer.objectives.batch import Batch, segment_sum
from arlarena.trainer.objectives.registry import Registry


@dataclass(frozen=True, slots=True)
class Denominators:
    """Counts over one optimiser step. Add the counts of all micro-batches, and all-reduce `as_tuple()` over ranks.

    Attributes:
        tokens: Σ T_i, the number of sampled tokens.
        rows: the number of all rows, including rows without sampled tokens.
        live_rows: the number of rows with at least one sampled token.
    """

    tokens: float
    rows: float
    live_rows: float

    @classmethod
    def count(cls, batches: Iterable[Batch]) -> Denominators:
        """Count the tokens and rows of `batches`.

        Rows that the sequence mask later drops are also counted, because the mask is known only after the forward pass.
        """
        tokens = rows = live_rows = 0
        for batch in batches:
            tokens += batch.n_tokens
            rows += batch.n_rows
            live_rows += int(batch.row_of_token.bincount().count_nonzero())
        return cls(tokens, rows, live_rows)

    def as_tuple(self) -> tuple[float, float, float]:
        """Return (tokens, rows, live_rows), in the order of the constructor."""
        return self.tokens, self.rows, self.live_rows

    def __add__(self, other: Denominators) -> Denominators:
        """Return the sums of the counts."""
        mine, theirs = self.as_tuple(), other.as_tuple()
        return Denominators(*(a + b for a, b in zip(mine, theirs, strict=True)))


# Maps a micro-batch, the counts of the step and the recipe's `length_norm` to the weight of each token, [N].
AGGREGATIONS: Registry[Callable[[Batch, Denominators, float], Tensor]] = Registry("aggregation")
register_aggregation = AGGREGATIONS.register


@register_aggregation("token_mean")
def token_mean(batch: Batch, counts: Denominators, _length: float) -> Tensor:
    """Return weights [N]: all sampled tokens of the step have the same weight, so a long row weighs more."""
    return batch.token_ones() / _or_one(counts.tokens)


@register_aggregation("seq_mean_token_mean")
def seq_mean_token_mean(batch: Batch, counts: Denominators, _length: float) -> Tensor:
    """Return weights [N]: all rows have the same weight, so a token of a long row weighs less."""
    ones = batch.token_ones()
    row_tokens = segment_sum(ones, batch.row_of_token, batch.n_rows)
    return ones / (row_tokens[batch.row_of_token] * _or_one(counts.live_rows))


@register_aggregation("seq_mean_token_sum")
def seq_mean_token_sum(batch: Batch, counts: Denominators, _length: float) -> Tensor:
    """Return weights [N]: the losses of a row's tokens are summed, and the sums are averaged over rows."""
    return batch.token_ones() / _or_one(counts.rows)


@register_aggregation("seq_mean_token_sum_norm")
def seq_mean_token_sum_norm(batch: Batch, counts: Denominators, length: float) -> Tensor:
    """Return weights [N]: the weights of `seq_mean_token_sum`, divided by the constant `length` (Dr.GRPO)."""
    return batch.token_ones() / (_or_one(counts.rows) * length)


def _or_one(count: float) -> float:
    """Return `count`, or 1 if `count` is 0, so that a step without tokens does not divide by 0."""
    return count if count > 0 else 1.0
