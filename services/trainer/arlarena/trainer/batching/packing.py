"""From scored groups to rows, and from rows to micro-batches in which every token that rows share is computed once.

Members of a group often stand in the same state: their rows begin with the same prompt, and often are the same
altogether. And all prompts of an environment begin with the same words. So rows become a forest of token spans
(`attention.py`), and each row reads its log-probs from there: exact for any loss.
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
from arlarena.trainer.model.attention import Forest, Ids, Node, lay_out

# Prompts that are not the same throughout share their beginning in steps of so many tokens: finer ones would make more
# spans than they save.
SHARED_STEP = 32


@dataclass(frozen=True, slots=True)
class TrainingSample:
    """One sequence as the loss sees it: a turn, or a whole episode where the context only grows.

    Attributes:
        prompt: what precedes the first sampled token.
        response: what follows, with tokens that the policy did not sample (tool output) among them where it grows.
        behaviour: the sampler's log-probs, one a response token; not read where `mask` is False.
        mask: True on sampled tokens.
        turns: (response tokens, advantage) of each turn, in order.
        trajectory: numbers the episodes of one optimiser step from 0.
        fresh: whether the weights that this step starts from sampled all of it.
        temperature: at which the response was sampled; its log-probs and entropies are computed at the same.
    """

    prompt: IdArray
    response: IdArray
    behaviour: FloatArray
    mask: MaskArray
    turns: tuple[tuple[int, float], ...]
    trajectory: int = 0
    fresh: bool = True
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check what the forest takes for granted."""
        if not len(self.prompt):
            raise ValueError(
                "a row needs a prompt of at least one token: something has to predict its first response token"
            )
        if sum(tokens for tokens, _ in self.turns) != len(self.response):
            tokens = counted(len(self.response), "token")
            raise ValueError(f"turns {self.turns} do not add up to a response of {tokens}")

    @property
    def key(self) -> bytes:
        """Equal for rows whose log-probs are the same, and in the order of their tokens."""
        tokens = b"".join(np.asarray(part, ">u4").tobytes() for part in (self.prompt, self.response))
        return tokens + struct.pack(">Id", len(self.prompt), self.temperature)


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows that go through the model together. Sizes: T tokens of the forest, M sampled tokens of distinct rows, N of
    all rows, R rows, U turns.

    Attributes:
        forest: [T] the tokens.
        positions: [M] where in the forest the hidden state that predicts each sampled token is.
        targets: [M] the sampled tokens.
        temperature: at which all of them were sampled, or [M] float64 where rows differ in it.
        token_index: [N] for each sampled token of each row, its place among the M.
        row_of_token: [N] in [0, R).
        turn_of_token: [N] in [0, U).
        trajectory_of_row: [R].
        behaviour: [N] the sampler's log-probs.
        fresh: [N] bool, sampled by the weights that this step starts from.
        advantages: [U].
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

    def to(self, device: torch.device) -> MicroBatch:
        """The same on another device."""
        if device.type == "cpu":
            return self
        ours: dict[str, Any] = {field.name: getattr(self, field.name) for field in fields(self)}
        return MicroBatch(**{name: value.to(device) if hasattr(value, "to") else value for name, value in ours.items()})


def nothing() -> MicroBatch:
    """A micro-batch of no row: one token goes through the model, and the loss is a zero that depends on all weights.

    A rank that has run out of rows takes it, for the others wait for its part in every collective.
    """
    none = torch.zeros(0, dtype=torch.int64)
    forest = lay_out([Node(np.zeros(1, dtype=np.int64), 0, -1)])
    floats = torch.zeros(0)
    return MicroBatch(forest, none, none, 1.0, none, none, none, none, floats, torch.zeros(0, dtype=torch.bool), floats)


def micro_batches(rows: Sequence[TrainingSample], max_tokens: int) -> Iterator[MicroBatch]:
    """Cut `rows` into micro-batches of at most `max_tokens` tokens, shared ones counted once (a single longer row makes
    one of its own). Rows that share much come together; within a micro-batch, equal rows are adjacent.
    """
    pending: list[list[TrainingSample]] = []
    tokens = 0
    for same in _distinct(rows):
        row = same[0]
        shared = _shared(pending[-1][0].prompt, row.prompt) if pending else 0
        more = len(row.prompt) + len(row.response) - shared
        if pending and tokens + more > max_tokens:
            yield build(pending)
            pending, tokens, more = [], 0, len(row.prompt) + len(row.response)
        pending.append(same)
        tokens += more
    if pending:
        yield build(pending)


def _distinct(rows: Sequence[TrainingSample]) -> list[list[TrainingSample]]:
    """Rows whose log-probs are the same, together; in the order of their tokens, so that neighbours share most."""
    found: dict[bytes, list[TrainingSample]] = {}
    for row in rows:
        found.setdefault(row.key, []).append(row)
    return [found[key] for key in sorted(found)]


def _shared(one: IdArray, other: IdArray) -> int:
    """How many tokens of two prompts are worth sharing."""
    size = min(len(one), len(other))
    differ = np.flatnonzero(one[:size] != other[:size])
    same = int(differ[0]) if len(differ) else size
    return same if same == len(one) == len(other) else same - same % SHARED_STEP


def build(distinct: Sequence[Sequence[TrainingSample]]) -> MicroBatch:
    """The micro-batch of these rows, equal ones given together, in the order of their tokens."""
    nodes, leaves = _nodes([same[0] for same in distinct])
    forest = lay_out(nodes)
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
    )


def _temperature(temperatures: Sequence[float], sizes: Sequence[int]) -> float | Tensor:
    """The one temperature of all rows, or that of each of their tokens."""
    if len(set(temperatures)) == 1:
        return temperatures[0]
    return torch.from_numpy(np.repeat(np.asarray(temperatures, dtype=np.float64), sizes))


def _turns(rows: Sequence[TrainingSample], sampled_by: Sequence[Ids]) -> tuple[Tensor, Tensor]:
    """(turn of each sampled token, advantage of each turn)."""
    advantages = torch.tensor([advantage for row in rows for _, advantage in row.turns], dtype=torch.float32)
    parts, first = [], 0
    for row, sampled in zip(rows, sampled_by, strict=True):
        ends = np.cumsum([tokens for tokens, _ in row.turns])
        parts.append(first + np.searchsorted(ends, sampled, side="right"))
        first += len(ends)
    return _int64(parts), advantages


def _nodes(rows: Sequence[TrainingSample]) -> tuple[list[Node], list[int]]:
    """The forest of `rows`, which are in the order of their tokens, and the node that each of them ends in."""
    shared = [_shared(one.prompt, other.prompt) for one, other in itertools.pairwise(rows)]
    nodes: list[Node] = []
    leaves = [-1] * len(rows)
    # (first row, last row, tokens above, node above), all rows of a block alike in the tokens above
    blocks = [(first, last, 0, -1) for first, last in _blocks(shared, 0, len(rows) - 1, 0)]
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
        blocks += [(*block, depth, parent) for block in _blocks(shared, first, last, depth)]
    return nodes, leaves


def _blocks(shared: Sequence[int], first: int, last: int, depth: int) -> list[tuple[int, int]]:
    """Cut rows `first` to `last` where neighbours share no more than `depth` tokens."""
    cuts = [number for number in range(first, last) if shared[number] <= depth]
    return list(zip([first, *(cut + 1 for cut in cuts)], [*cuts, last], strict=True))


def _int64(parts: Sequence[npt.NDArray[Any]]) -> Tensor:
    return torch.from_numpy(np.concatenate(parts).astype(np.int64)) if parts else torch.zeros(0, dtype=torch.int64)
