"""Packs training samples (rows) into micro-batches. Tokens that rows share are computed once.

Episodes of a group often visit the same state. The rows of these episodes then have the same prompt, or are equal. All
prompts of an environment also begin with the same instructions. Rows are therefore packed into a forest: trees of token
spans (`model/attention.py`). The log-probs of each row are read from the forest, and do not depend on the other rows.
Packing therefore works with any loss.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from arlarena.proto.text.wording import counted
from arlarena.proto.trajectory import FloatArray, IdArray, MaskArray
from arlarena.trainer.model.attention import Forest, Ids, Node, build_forest

# The length of the shared prefix of two different prompts is rounded down to a multiple of this number. A smaller
# number would give more spans, and the additional spans would cost more time than they save.
SHARED_STEP = 32


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """One training sequence: one turn, or consecutive turns of an episode with a growing context.

    Attributes:
        prompt: the tokens before the first sampled token.
        response: the tokens after the prompt, including the tool output between turns.
        behaviour: the sampler's log-prob of each response token; ignored for tokens with mask 0.
        mask: 1 for sampled tokens, 0 for other tokens, such as tool output.
        turns: for each turn in order, (number of tokens of `response` including tool output, advantage).
        trajectory: index of the episode within the optimiser step.
        fresh: whether all tokens were sampled with the weights at the start of this training step.
        temperature: sampling temperature. Log-probs and entropies are computed at this temperature.
        number: index of the row within the optimiser step.

    Raises:
        ValueError: the prompt is empty, or the token counts in `turns` do not add up to the length of `response`.
    """

    prompt: IdArray
    response: IdArray
    behaviour: FloatArray
    mask: MaskArray
    turns: tuple[tuple[int, float], ...]
    trajectory: int = 0
    fresh: bool = True
    temperature: float = 1.0
    number: int = 0

    def __post_init__(self) -> None:
        """Check the prompt and the lengths."""
        if not len(self.prompt):
            raise ValueError("the prompt is empty; it needs a token that predicts the first token of the response")
        if sum(tokens for tokens, _ in self.turns) != len(self.response):
            tokens = counted(len(self.response), "token")
            raise ValueError(f"the token counts of turns {self.turns} do not add up to a response of {tokens}")

    @property
    def key(self) -> bytes:
        """The tokens, the prompt length and the temperature of the row, as bytes.

        Rows with equal keys have equal log-probs. Sorting by key puts rows with a common token prefix together.
        """
        tokens = b"".join(np.asarray(part, ">u4").tobytes() for part in (self.prompt, self.response))
        return tokens + struct.pack(">Id", len(self.prompt), self.temperature)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """The rows of one forward pass.

    Sizes: T tokens of the forest, M sampled tokens of distinct rows, N sampled tokens of all rows, R rows, U turns.

    Attributes:
        forest: the tokens, [T].
        positions: [M] for each sampled token, the index (in the forest) of the preceding token. The hidden state at
            this index predicts the sampled token.
        targets: [M] the sampled tokens.
        temperature: the sampling temperature; [M] float64 if the rows have different temperatures.
        token_index: [N] for each sampled token of all rows, the index of this token in `targets`, in [0, M).
        row_of_token: [N] the row of each token, in [0, R).
        turn_of_token: [N] the turn of each token, in [0, U).
        trajectory_of_row: [R] index of the episode within the optimiser step.
        behaviour: [N] the sampler's log-probs.
        fresh: [N] bool, `TrainingSample.fresh` of each token's row.
        advantages: [U] advantage of each turn.
        number_of_row: [R] `TrainingSample.number` of each row.
    """

    forest: Forest
    positions: Tensor
    targets: Tensor
    temperature: float | Tensor
    token_index: Tensor
    row_of_token: Tensor
    turn_of_token: Tensor
    trajectory_of_row: Tensor
    behaviour: Tensor
    fresh: Tensor
    advantages: Tensor
    number_of_row: Tensor

    def to(self, device: torch.device) -> MicroBatch:
        """Return the micro-batch on `device`."""
        if device.type == "cpu":
            return self
        values: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        moved = {name: value.to(device) if hasattr(value, "to") else value for name, value in values.items()}
        return MicroBatch(**moved)


def empty_micro_batch() -> MicroBatch:
    """Return a micro-batch without rows.

    A rank (trainer process) without rows needs such a micro-batch, because all ranks must make the same collective
    calls. The model runs on one token. The loss is 0 and has a gradient of 0 for all weights.
    """
    none = torch.zeros(0, dtype=torch.int64)
    forest = build_forest([Node(np.zeros(1, dtype=np.int64), 0, -1)])
    floats = torch.zeros(0)
    bools = torch.zeros(0, dtype=torch.bool)
    return MicroBatch(forest, none, none, 1.0, none, none, none, none, floats, bools, floats, none)


def micro_batches(rows: Sequence[TrainingSample], max_tokens: int) -> Iterator[MicroBatch]:
    """Yield micro-batches of `rows` with at most `max_tokens` tokens each. Shared tokens count once.

    A row with more than `max_tokens` tokens is alone in its micro-batch. Rows are sorted by `TrainingSample.key`, so
    that rows with a shared prefix are neighbours.
    """
    pending: list[list[TrainingSample]] = []
    tokens = 0
    for same in _group_equal_rows(rows):
        row = same[0]
        shared = _common_prefix(pending[-1][0].prompt, row.prompt) if pending else 0
        added = len(row.prompt) + len(row.response) - shared
        if pending and tokens + added > max_tokens:
            yield build(pending)
            pending, tokens, added = [], 0, len(row.prompt) + len(row.response)
        pending.append(same)
        tokens += added
    if pending:
        yield build(pending)


def _group_equal_rows(rows: Sequence[TrainingSample]) -> list[list[TrainingSample]]:
    """Return lists of rows with equal `TrainingSample.key`, sorted by key, so that neighbours share long prefixes."""
    by_key: dict[bytes, list[TrainingSample]] = {}
    for row in rows:
        by_key.setdefault(row.key, []).append(row)
    return [by_key[key] for key in sorted(by_key)]


def _common_prefix(first: IdArray, second: IdArray) -> int:
    """Return the length of the common prefix of two prompts.

    If the prompts differ, the length is rounded down to a multiple of `SHARED_STEP`.
    """
    size = min(len(first), len(second))
    differ = np.flatnonzero(first[:size] != second[:size])
    same = int(differ[0]) if len(differ) else size
    return same if same == len(first) == len(second) else same - same % SHARED_STEP


def build(distinct: Sequence[Sequence[TrainingSample]]) -> MicroBatch:
    """Build a micro-batch. All rows of one list in `distinct` have the same key, and the lists are sorted by key.

    The key is `TrainingSample.key`.
    """
    nodes, leaves = _build_nodes([same[0] for same in distinct])
    forest = build_forest(nodes)
    positions, targets, token_index = [], [], []
    rows: list[TrainingSample] = []
    offset = 0
    for same, leaf in zip(distinct, leaves, strict=True):
        prompt, response = same[0].prompt, same[0].response
        sampled = np.flatnonzero(np.logical_or.reduce([row.mask.astype(bool) for row in same]))
        positions.append(forest.paths[leaf][len(prompt) - 1 + sampled])
        targets.append(response[sampled])
        token_index += [offset + np.flatnonzero(row.mask.astype(bool)[sampled]) for row in same]
        rows += same
        offset += len(sampled)
    sampled_by = [np.flatnonzero(row.mask.astype(bool)) for row in rows]
    sizes = [len(each) for each in sampled_by]
    turn_of_token, advantages = _turns(rows, sampled_by)
    behaviour = np.concatenate([row.behaviour[each] for row, each in zip(rows, sampled_by, strict=True)])
    return MicroBatch(
        forest=forest,
        positions=_int64(positions),
        targets=_int64(targets),
        temperature=_temperature([same[0].temperature for same in distinct], [len(each) for each in targets]),
        token_index=_int64(token_index),
        row_of_token=torch.from_numpy(np.repeat(np.arange(len(rows)), sizes)),
        turn_of_token=turn_of_token,
        trajectory_of_row=torch.tensor([row.trajectory for row in rows], dtype=torch.int64),
        behaviour=torch.from_numpy(behaviour.astype(np.float32)),
        fresh=torch.from_numpy(np.repeat([row.fresh for row in rows], sizes)),
        advantages=advantages,
        number_of_row=torch.tensor([row.number for row in rows], dtype=torch.int64),
    )


def _temperature(temperatures: Sequence[float], sizes: Sequence[int]) -> float | Tensor:
    """Return one number if all temperatures are equal, else the temperature of each token [M].

    `temperatures` and `sizes`: the temperature and the number of tokens of each distinct row.
    """
    if len(set(temperatures)) == 1:
        return temperatures[0]
    return torch.from_numpy(np.repeat(np.asarray(temperatures, dtype=np.float64), sizes))


def _turns(rows: Sequence[TrainingSample], sampled_by: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """Return (index of each sampled token's turn [N], advantage of each turn [U]).

    `sampled_by`: for each row, the indices of the sampled tokens in the response.
    """
    advantages = torch.tensor([advantage for row in rows for _, advantage in row.turns], dtype=torch.float32)
    parts, first = [], 0
    for row, sampled in zip(rows, sampled_by, strict=True):
        ends = np.cumsum([tokens for tokens, _ in row.turns])
        parts.append(first + np.searchsorted(ends, sampled, side="right"))
        first += len(ends)
    return _int64(parts), advantages


def _build_nodes(rows: Sequence[TrainingSample]) -> tuple[list[Node], list[int]]:
    """Return (nodes of the forest, index of the last node of each row). `rows` must be sorted by key."""
    shared = [_common_prefix(row.prompt, following.prompt) for row, following in itertools.pairwise(rows)]
    nodes: list[Node] = []
    leaves = [-1] * len(rows)
    # (first row, last row, depth, parent node); the first `depth` tokens of all rows of a block are equal
    blocks = [(first, last, 0, -1) for first, last in _split_at_divergence(shared, 0, len(rows) - 1, 0)]
    while blocks:
        first, last, depth, parent = blocks.pop()
        if first == last:
            tokens = np.concatenate([rows[first].prompt[depth:], rows[first].response]).astype(np.int64)
            if len(tokens):
                nodes.append(Node(tokens, depth, parent))
                parent = len(nodes) - 1
            leaves[first] = parent
            continue
        common = min(shared[first:last])
        if common > depth:
            nodes.append(Node(rows[first].prompt[depth:common].astype(np.int64), depth, parent))
            depth, parent = common, len(nodes) - 1
        blocks += [(*block, depth, parent) for block in _split_at_divergence(shared, first, last, depth)]
    return nodes, leaves


def _split_at_divergence(shared: Sequence[int], first: int, last: int, depth: int) -> list[tuple[int, int]]:
    """Split the rows `first` to `last` into parts. Two neighbours are separated if they share at most `depth` tokens.

    `shared`: the number of tokens that each row shares with the next row. Returns (first row, last row) of each part.
    """
    cuts = [number for number in range(first, last) if shared[number] <= depth]
    return list(zip([first, *(cut + 1 for cut in cuts)], [*cuts, last], strict=True))


def _int64(parts: Sequence[npt.NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)) if parts else torch.zeros(0, dtype=torch.int64)
