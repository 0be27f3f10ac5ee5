"""From scored groups to rows, and from rows to micro-batches in which each distinct row is computed once.

Members of a group often stand in the same state and say the same thing. Their rows differ in advantage and trajectory
alone, so the model runs over the distinct (prompt, response) pairs and every row reads its log-probs from there:
exact for any loss.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from arlarena.proto.trajectory import FloatArray, IdArray, MaskArray


@dataclass(frozen=True, slots=True)
class Row:
    """One turn as the loss sees it. `trajectory` numbers the episodes of one optimiser step from 0."""

    prompt: IdArray
    response: IdArray
    behaviour: FloatArray
    mask: MaskArray
    advantage: float
    trajectory: int
    fresh: bool = True

    @property
    def key(self) -> bytes:
        """Equal for rows that the model cannot tell apart."""
        return len(self.prompt).to_bytes(4, "little") + self.prompt.tobytes() + self.response.tobytes()


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model together. Sizes: U distinct rows of length L, M of their response tokens, N
    tokens of all rows.

    Attributes:
        ids: [U, L] prompt and response, padded on the right.
        positions: [M] where, in the flattened grid, the hidden state that predicts each response token is.
        targets: [M] the response tokens.
        token_index: [N] for each token of each row, its place among the M.
        row_of_token: [N] in [0, R).
        trajectory_of_row: [R].
        behaviour: [N] the sampler's log-probs.
        mask: [N] bool.
        fresh: [N] bool, sampled by the weights that this step starts from.
        advantages: [R].
    """

    ids: Tensor
    positions: Tensor
    targets: Tensor
    token_index: Tensor
    row_of_token: Tensor
    trajectory_of_row: Tensor
    behaviour: Tensor
    mask: Tensor
    fresh: Tensor
    advantages: Tensor


def _by_key(rows: Sequence[Row]) -> list[list[Row]]:
    """Rows that are equal to the model, together; shorter ones first, so that a micro-batch has little padding."""
    found: dict[bytes, list[Row]] = {}
    for row in rows:
        found.setdefault(row.key, []).append(row)
    return sorted(found.values(), key=lambda same: len(same[0].prompt) + len(same[0].response))


def micro_batches(rows: Sequence[Row], max_tokens: int, pad_id: int = 0) -> Iterator[MicroBatch]:
    """Cut `rows` into micro-batches of at most `max_tokens` padded tokens (a single longer row makes one of its
    own).
    """
    pending: list[list[Row]] = []
    for same in _by_key(rows):
        length = len(same[0].prompt) + len(same[0].response)
        if pending and length * (len(pending) + 1) > max_tokens:
            yield _build(pending, pad_id)
            pending = []
        pending.append(same)
    if pending:
        yield _build(pending, pad_id)


def _build(distinct: Sequence[Sequence[Row]], pad_id: int) -> MicroBatch:
    length = max(len(same[0].prompt) + len(same[0].response) for same in distinct)
    ids = np.full((len(distinct), length), pad_id, dtype=np.int64)
    positions, targets, token_index = [], [], []
    rows: list[Row] = []
    offset = 0
    for i, same in enumerate(distinct):
        prompt, response = same[0].prompt, same[0].response
        ids[i, : len(prompt)] = prompt
        ids[i, len(prompt) : len(prompt) + len(response)] = response
        positions.append(i * length + len(prompt) - 1 + np.arange(len(response)))
        targets.append(response)
        token_index.extend([offset + np.arange(len(response))] * len(same))
        rows.extend(same)
        offset += len(response)
    sizes = [len(row.response) for row in rows]
    return MicroBatch(
        ids=torch.from_numpy(ids),
        positions=_int64(positions),
        targets=_int64(targets),
        token_index=_int64(token_index),
        row_of_token=torch.from_numpy(np.repeat(np.arange(len(rows)), sizes)),
        trajectory_of_row=torch.tensor([row.trajectory for row in rows], dtype=torch.int64),
        behaviour=torch.from_numpy(np.concatenate([row.behaviour for row in rows]).astype(np.float32)),
        mask=torch.from_numpy(np.concatenate([row.mask for row in rows]).astype(bool)),
        fresh=torch.from_numpy(np.repeat([row.fresh for row in rows], sizes)),
        advantages=torch.tensor([row.advantage for row in rows], dtype=torch.float32),
    )


def _int64(parts: Sequence[npt.NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64))
