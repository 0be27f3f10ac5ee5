"""Attention over a forest of tokens: rows are laid end to end without padding, and what they share is there once.

A forest's nodes are spans of tokens. The tokens of a node attend to all tokens of its ancestors and, causally, to their
own node: exactly what they would see if each row stood alone, so the model's other layers need not know, and a prompt
that eight siblings share is computed once. Inside attention, nodes of about the same size are padded to one call.

Any Hugging Face model that takes its attention from `AttentionInterface` and its positions from `position_ids` can run
so; `prepare` sets it up.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import AttentionMaskInterface, sdpa_mask

from arlarena.proto.config import ConfigError

NAME = "arlarena_forest"
# What models ask for beyond causal attention, by the names of Hugging Face's options.
SPECIAL = ("sliding_window", "softcap", "s_aux")
# A call may be padded to at most this many times the work of its nodes; a small one may be anyway.
MAX_PADDING, SMALL = 1.25, 1 << 14

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Node:
    """A span of tokens: `tokens`, at positions from `depth` on, below `parent` (-1 for a root)."""

    tokens: Ids
    depth: int
    parent: int


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """Nodes that one attention call serves. B nodes, at most Q own tokens and A ancestors' tokens each.

    Attributes:
        shape: (B, Q, A).
        queries: [B·Q] which tokens ask; None where they are the tokens from `start` on, as they lie.
        keys: [B·(A+Q)] which tokens are asked; None where they are the queries.
        visible: [B, 1, Q, A+Q] bool; None for plain causality, which padding on the right does not disturb.
        kept: which of the [B·Q] answers are no padding; None for all.
        start: first token of the first node.
    """

    shape: tuple[int, int, int]
    queries: Tensor | None
    keys: Tensor | None
    visible: Tensor | None
    kept: Tensor | None
    start: int

    def to(self, device: torch.device | str) -> AttentionBatch:
        """The same on another device."""

        def moved(one: Tensor | None) -> Tensor | None:
            return None if one is None else one.to(device)

        return replace(
            self,
            queries=moved(self.queries),
            keys=moved(self.keys),
            visible=moved(self.visible),
            kept=moved(self.kept),
        )


@dataclass(frozen=True, slots=True)
class Forest:
    """All tokens of a micro-batch, in the order of the calls that serve them.

    Attributes:
        ids: [T] the tokens.
        positions: [T] their positions in their rows.
        paths: for each node, as `lay_out` was given them, the places in [T] of its ancestors' tokens and its own.
        calls: how attention is carried out.
    """

    ids: Tensor
    positions: Tensor
    calls: list[AttentionBatch]
    paths: list[Ids] = field(repr=False)

    def to(self, device: torch.device | str) -> Forest:
        """The same on another device."""
        return Forest(
            self.ids.to(device), self.positions.to(device), [call.to(device) for call in self.calls], self.paths
        )


def lay_out(nodes: Sequence[Node]) -> Forest:
    """Order the tokens of `nodes` so that each call's are together. A parent has a smaller number than its children."""
    groups = _group(nodes)
    starts: dict[int, int] = {}
    total = 0
    for group in groups:
        for number in group:
            starts[number] = total
            total += len(nodes[number].tokens)
    paths: list[Ids] = []
    for number, node in enumerate(nodes):
        own = np.arange(starts[number], starts[number] + len(node.tokens))
        paths.append(own if node.parent < 0 else np.concatenate([paths[node.parent], own]))
    order = [number for group in groups for number in group]
    ids = np.concatenate([nodes[number].tokens for number in order])
    positions = np.concatenate([nodes[number].depth + np.arange(len(nodes[number].tokens)) for number in order])
    calls = [_call(group, nodes, paths, starts) for group in groups]
    return Forest(torch.from_numpy(ids), torch.from_numpy(positions), calls, paths)


def _group(nodes: Sequence[Node]) -> list[list[int]]:
    """Nodes that go into one call: all roots or none, and as different in size as the limit on padding allows."""
    groups: list[list[int]] = []
    work, widest, deepest = 0, 0, 0
    order = sorted(range(len(nodes)), key=lambda i: (nodes[i].depth > 0, len(nodes[i].tokens), nodes[i].depth))
    for number in order:
        own, above = len(nodes[number].tokens), nodes[number].depth
        wide, deep = max(widest, own), max(deepest, above)
        padded = wide * (wide + deep) * (len(groups[-1]) + 1 if groups else 1)
        alike = groups and (nodes[groups[-1][0]].depth > 0) == (above > 0)
        if alike and padded <= max(MAX_PADDING * (work + own * (own + above)), SMALL):
            groups[-1].append(number)
            work, widest, deepest = work + own * (own + above), wide, deep
        else:
            groups.append([number])
            work, widest, deepest = own * (own + above), own, above
    return groups


def _call(group: Sequence[int], nodes: Sequence[Node], paths: Sequence[Ids], starts: dict[int, int]) -> AttentionBatch:
    own = np.array([len(nodes[number].tokens) for number in group])
    above = np.array([nodes[number].depth for number in group])
    size, wide, deep = len(group), int(own.max()), int(above.max())
    # Padding points at the call's first token: it has to be some token, and nobody looks at it.
    start = starts[group[0]]
    keys = np.full((size, deep + wide), start, dtype=np.int64)
    for place, number in enumerate(group):
        keys[place, : above[place]] = paths[number][: above[place]]
        keys[place, deep : deep + own[place]] = paths[number][above[place] :]
    whole = bool((own == wide).all())
    kept = None if whole else torch.from_numpy(np.flatnonzero(np.arange(wide)[None, :] < own[:, None]))
    queries = None if whole else torch.from_numpy(keys[:, deep:].reshape(-1))
    if deep == 0:
        return AttentionBatch((size, wide, 0), queries, None, None, kept, start)
    ancestors = np.broadcast_to(np.arange(deep)[None, None, :] < above[:, None, None], (size, wide, deep))
    causal = np.broadcast_to(np.tri(wide, dtype=bool)[None], (size, wide, wide))
    visible = torch.from_numpy(np.concatenate([ancestors, causal], axis=2)[:, None])
    return AttentionBatch((size, wide, deep), queries, torch.from_numpy(keys.reshape(-1)), visible, kept, start)


def forest_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """What `AttentionInterface` asks for: [1, T, heads, D] from query [1, heads, T, D], key and value [1, groups, T,
    D].

    Without a `forest` among the options it is ordinary attention.
    """
    forest: Forest | None = options.pop("forest", None)
    if forest is not None and (special := sorted(name for name in SPECIAL if options.get(name) is not None)):
        raise ConfigError(
            f"the policy's attention has {', '.join(special)}: only plain causal attention can be trained"
        )
    if forest is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    scale = options.get("scaling")
    # Under autocast positions are turned in float32, and attention rounds them to what the values are in.
    query, key, value = (each[0].transpose(0, 1).to(value.dtype) for each in (query, key, value))
    return torch.cat([_answer(call, query, key, value, scale) for call in forest.calls])[None], None


def _answer(call: AttentionBatch, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """[tokens of the call, heads, D] from [T, heads, D] and twice [T, groups, D]."""
    size, wide, deep = call.shape
    asked = call.queries if call.keys is None else call.keys

    def taken(tensor: Tensor, places: Tensor | None, length: int) -> Tensor:
        lies = slice(call.start, call.start + size * length)
        some = tensor[lies] if places is None else tensor.index_select(0, places)
        return some.view(size, length, *tensor.shape[1:]).transpose(1, 2)

    queries = taken(query, call.queries, wide)
    keys, values = (taken(each, asked, deep + wide) for each in (key, value))
    sharing = query.shape[1] // key.shape[1]
    if sharing > 1 and not _heads_may_share(call, query):
        keys, values, sharing = keys.repeat_interleave(sharing, 1), values.repeat_interleave(sharing, 1), 1
    answer = scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=call.visible,
        is_causal=call.visible is None,
        scale=scale,
        enable_gqa=sharing > 1,
    )
    answer = answer.transpose(1, 2).flatten(0, 1)
    return answer if call.kept is None else answer.index_select(0, call.kept)


def _heads_may_share(call: AttentionBatch, query: Tensor) -> bool:
    """Whether a fused kernel lets several heads share a key. On every GPU that is flash attention alone, which takes
    16 bits and no mask; without such a kernel torch would keep all scores, [B, heads, Q, A+Q].
    """
    return query.device.type == "cpu" or (call.visible is None and query.dtype in (torch.bfloat16, torch.float16))


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Let `model` take a `forest`.

    Raises:
        ConfigError: its attention cannot be exchanged, or is not plain causal attention.
    """
    config = model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"policy {model.config.model_type!r} has layers of {sorted(kinds)}: only full attention is known"
        )
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        raise ConfigError(f"policy {model.config.model_type!r} cannot be trained: {error}") from error
    return model


def forest_hidden(decoder: torch.nn.Module, forest: Forest) -> Tensor:
    """[T, H] the last hidden states of all tokens."""
    # A mask of four dimensions is handed on as it is, so the model builds none; nobody reads it.
    unread = forest.ids.new_zeros((1, 1, 1, 1))
    found = decoder(
        input_ids=forest.ids[None],
        position_ids=forest.positions[None],
        attention_mask=unread,
        use_cache=False,
        forest=forest,
    )
    hidden: Tensor = found.last_hidden_state[0]
    return hidden
