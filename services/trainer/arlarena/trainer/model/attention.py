"""Computes attention over a forest of token spans.

A node of the forest is a span of tokens. A row (training sequence) is the path from a root to a node. The forest
contains a shared span only once: a prompt that eight rows share is computed once.

Each token attends to itself, to the earlier tokens of its node, and to all tokens of the node's ancestors. The result
of a row therefore does not depend on the other rows. The other layers of the model stay unchanged.

One attention call computes several nodes of similar size, padded to the same shape. `prepare` sets up any Hugging Face
model that takes its attention from `AttentionInterface` and its positions from `position_ids`.
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
# Options of Hugging Face's attention functions that go beyond plain causal attention.
UNSUPPORTED_OPTIONS = ("sliding_window", "softcap", "s_aux")
# Padding increases the number of attention scores of a call by at most the factor MAX_PADDING. Calls with at most SMALL
# scores may have more padding.
MAX_PADDING, SMALL = 1.25, 1 << 14

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Node:
    """A span of tokens.

    `depth`: position of the span's first token in its rows, counted from 0. `parent`: index of the parent node; -1 for
    a root.
    """

    tokens: Ids
    depth: int
    parent: int


@dataclass(frozen=True, slots=True)
class AttentionBatch:
    """The nodes of one attention call: B nodes. A node has at most Q tokens, and its ancestors have at most A tokens.

    Attributes:
        shape: (B, Q, A).
        queries: [B·Q] indices of the query tokens; None: the B·Q consecutive tokens from index `start`.
        keys: [B·(A+Q)] indices of the key tokens; None: the query tokens are also the key tokens.
        visible: [B, 1, Q, A+Q] bool, the attention mask; None: causal attention.
        kept: indices of the [B·Q] outputs that are not padding; None: there is no padding.
        start: index of the first token of the first node.
    """

    shape: tuple[int, int, int]
    queries: Tensor | None
    keys: Tensor | None
    visible: Tensor | None
    kept: Tensor | None
    start: int

    def to(self, device: torch.device | str) -> AttentionBatch:
        """Return a copy on `device`."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            queries=moved(self.queries),
            keys=moved(self.keys),
            visible=moved(self.visible),
            kept=moved(self.kept),
        )


@dataclass(frozen=True, slots=True)
class Forest:
    """All T tokens of a micro-batch, in the order of the attention calls.

    Attributes:
        ids: [T] token ids.
        positions: [T] the position of each token in its row.
        paths: for each node that `build_forest` got, the indices of the ancestors' tokens, then the indices of the
            node's own tokens.
        calls: the attention calls.
    """

    ids: Tensor
    positions: Tensor
    calls: list[AttentionBatch]
    paths: list[Ids] = field(repr=False)

    def to(self, device: torch.device | str) -> Forest:
        """Return a copy on `device`. `paths` stays in CPU memory."""
        return Forest(
            self.ids.to(device), self.positions.to(device), [call.to(device) for call in self.calls], self.paths
        )


def build_forest(nodes: Sequence[Node]) -> Forest:
    """Build the forest of `nodes`. In `nodes`, each parent must precede its children.

    In the forest, the tokens of one attention call are consecutive.
    """
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
    """Split the nodes into attention calls. Returns the node indices of each call.

    A call has either only roots or only nodes with a parent. `MAX_PADDING` limits the padding of a call if the call has
    more than `SMALL` attention scores.
    """
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
    # Padding positions get the index of the call's first token, because each index must be valid. `visible` and `kept`
    # remove the padding.
    start = starts[group[0]]
    keys = np.full((size, deep + wide), start, dtype=np.int64)
    for place, number in enumerate(group):
        keys[place, : above[place]] = paths[number][: above[place]]
        keys[place, deep : deep + own[place]] = paths[number][above[place] :]
    unpadded = bool((own == wide).all())
    kept = None if unpadded else torch.from_numpy(np.flatnonzero(np.arange(wide)[None, :] < own[:, None]))
    queries = None if unpadded else torch.from_numpy(keys[:, deep:].reshape(-1))
    if deep == 0:
        return AttentionBatch((size, wide, 0), queries, None, None, kept, start)
    ancestors = np.broadcast_to(np.arange(deep)[None, None, :] < above[:, None, None], (size, wide, deep))
    causal = np.broadcast_to(np.tri(wide, dtype=bool)[None], (size, wide, wide))
    visible = torch.from_numpy(np.concatenate([ancestors, causal], axis=2)[:, None])
    return AttentionBatch((size, wide, deep), queries, torch.from_numpy(keys.reshape(-1)), visible, kept, start)


def forest_attention(
    module: torch.nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, None]:
    """Compute attention [1, T, heads, D] from query [1, heads, T, D], key and value [1, groups, T, D].

    T is the number of tokens, D the size of a head, and `groups` the number of key and value heads. transformers calls
    this function, because it is registered at `AttentionInterface`. If `options` has no `forest`, the function computes
    ordinary attention.

    Raises:
        ConfigError: the model uses one of the options `UNSUPPORTED_OPTIONS`.
    """
    forest: Forest | None = options.pop("forest", None)
    if forest is None:
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)
    if unsupported := sorted(name for name in UNSUPPORTED_OPTIONS if options.get(name) is not None):
        raise ConfigError(
            f"the policy's attention has {', '.join(unsupported)}: only plain causal attention can be trained; "
            f"choose another policy"
        )
    scale = options.get("scaling")
    # With autocast, rotary embeddings return float32. `query` and `key` are therefore cast to the dtype of `value`.
    query, key, value = (tensor[0].transpose(0, 1).to(value.dtype) for tensor in (query, key, value))
    return torch.cat([_attend(call, query, key, value, scale) for call in forest.calls])[None], None


def _attend(call: AttentionBatch, query: Tensor, key: Tensor, value: Tensor, scale: float | None) -> Tensor:
    """Compute the attention of one call. Returns [tokens of the call, heads, D].

    `query`: [T, heads, D]. `key`, `value`: [T, groups, D].
    """
    size, wide, deep = call.shape
    key_indices = call.queries if call.keys is None else call.keys

    def select(tensor: Tensor, indices: Tensor | None, length: int) -> Tensor:
        consecutive = slice(call.start, call.start + size * length)
        tokens = tensor[consecutive] if indices is None else tensor.index_select(0, indices)
        return tokens.view(size, length, *tensor.shape[1:]).transpose(1, 2)

    queries = select(query, call.queries, wide)
    keys, values = (select(tensor, key_indices, deep + wide) for tensor in (key, value))
    heads_per_key = query.shape[1] // key.shape[1]
    if heads_per_key > 1 and not _supports_gqa(call, query):
        keys, values = (tensor.repeat_interleave(heads_per_key, 1) for tensor in (keys, values))
        heads_per_key = 1
    output = scaled_dot_product_attention(
        queries,
        keys,
        values,
        attn_mask=call.visible,
        is_causal=call.visible is None,
        scale=scale,
        enable_gqa=heads_per_key > 1,
    )
    output = output.transpose(1, 2).flatten(0, 1)
    return output if call.kept is None else output.index_select(0, call.kept)


def _supports_gqa(call: AttentionBatch, query: Tensor) -> bool:
    """True if a fused kernel supports grouped-query attention for this call.

    On a CPU the result is always True. On a GPU, only flash attention supports grouped-query attention, and flash
    attention needs a 16-bit dtype and a call without a mask. Without a fused kernel, torch would store all scores
    [B, heads, Q, A+Q].
    """
    return query.device.type == "cpu" or (call.visible is None and query.dtype in (torch.bfloat16, torch.float16))


AttentionInterface.register(NAME, forest_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)


def prepare(model: PreTrainedModel) -> PreTrainedModel:
    """Change `model` in place, so that its decoder accepts a `Forest` as the argument `forest`. Returns `model`.

    Raises:
        ConfigError: the model's attention cannot be replaced, or a layer does not have full attention.
    """
    config = model.config
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    kinds = set(getattr(config, "layer_types", None) or ["sliding_attention" if window else "full_attention"])
    if kinds != {"full_attention"}:
        raise ConfigError(
            f"policy {model.config.model_type!r} has layers of {sorted(kinds)}: only full attention is supported; "
            f"choose another policy"
        )
    try:
        model.set_attn_implementation(NAME)
    except ValueError as error:
        raise ConfigError(f"policy {model.config.model_type!r} cannot be trained: {error}") from error
    return model


def hidden_states(decoder: torch.nn.Module, forest: Forest) -> Tensor:
    """Run `decoder` once. Returns the last hidden states [T, H] of the T tokens of `forest`."""
    # A four-dimensional mask prevents the model from building another mask. `forest_attention` ignores this mask.
    unread = forest.ids.new_zeros((1, 1, 1, 1))
    output = decoder(
        input_ids=forest.ids[None],
        position_ids=forest.positions[None],
        attention_mask=unread,
        use_cache=False,
        forest=forest,
    )
    hidden: Tensor = output.last_hidden_state[0]
    return hidden
