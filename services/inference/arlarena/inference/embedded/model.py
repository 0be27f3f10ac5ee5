"""The forward pass of the model. It computes new prompts, continues partly computed prompts, and computes one token for
every running sequence.

Letters in shapes: T is the number of tokens of all prompts together, P the number of tokens of one prompt or piece. N
is the number of prompts, B the number of running sequences. H is the number of query heads, K the number of key heads.
S is the number of slots, L the number of positions in a slot. E is the hidden size, D the size of a head, F the size of
the feed-forward layer, V the size of the vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
import torch.nn.functional as F
from torch import Tensor

from arlarena.inference.embedded.architecture import Architecture
from arlarena.inference.embedded.kv_slots import KeysValues
from arlarena.inference.embedded.weights.parameters import Layer, Parameters

QUERIES = 64  # `_attend` computes the scores of at most this many queries at a time


@dataclass(frozen=True, slots=True)
class Piece:
    """A piece of a prompt: the next `length` tokens that must be computed. `start`: the number of prompt tokens before
    the piece. They are already computed. `kv`: memory that contains the keys and values of the tokens before the piece,
    and has room for the piece.
    """

    start: int
    length: int
    kv: KeysValues

    @property
    def stop(self) -> int:
        """The number of tokens from the start of the prompt to the end of the piece."""
        return self.start + self.length


class Model:
    """A decoder model. A weight update sets `parameters` between two calls. `max_length`: maximum number of tokens of a
    sequence.
    """

    def __init__(self, arch: Architecture, parameters: Parameters, max_length: int) -> None:
        self.arch = arch
        self.parameters = parameters
        self.max_length = max_length
        exponents = torch.arange(0, arch.head_dim, 2, dtype=torch.float32) / arch.head_dim
        angles = torch.outer(torch.arange(max_length, dtype=torch.float32), 1.0 / arch.rope_theta**exponents)
        self._rotations = torch.polar(torch.ones_like(angles), angles).unsqueeze(1)  # [max_length, 1, D / 2]
        self._causal_mask = torch.full((QUERIES, QUERIES), float("-inf")).triu_(1)  # -inf for positions after a query

    @torch.inference_mode()
    def prefill(self, ids: Tensor, lengths: list[int]) -> tuple[Tensor, Tensor]:
        """Compute N new prompts.

        In the last layer, queries and the feed-forward part are computed only for the last position of each prompt.

        Args:
            ids: token ids of all prompts, concatenated without padding, int64 [T]
            lengths: the number of tokens of each prompt. Neighbouring prompts of equal length share one call of
                attention, so the function is fastest if the lengths are sorted.

        Returns:
            logits after each prompt's last token, float32 [N, V]; keys and values, float32 [layers, 2, T, K, D]
        """
        a = self.arch
        groups = [(length, len(list(same))) for length, same in groupby(lengths)]
        rotations = self._rotations[torch.cat([torch.arange(length) for length in lengths])]
        x = self.parameters.embedding[ids]
        kv = torch.empty(a.layers, 2, ids.shape[0], a.kv_heads, a.head_dim)
        for index, layer in enumerate(self.parameters.layers[:-1]):
            q, k, v = self._project(layer, x, rotations)
            kv[index, 0], kv[index, 1] = k, v
            x = self._feed_forward(layer, torch.addmm(x, self._attend_packed(q, k, v, groups), layer.out))
        layer = self.parameters.layers[-1]
        last = torch.tensor(list(accumulate(lengths))) - 1
        q, k, v = self._project_last(layer, x, rotations, last)
        kv[-1, 0], kv[-1, 1] = k, v
        attended = self._attend_last(q, k, v, groups)
        return self.logits(self._feed_forward(layer, torch.addmm(x[last], attended, layer.out))), kv

    @torch.inference_mode()
    def extend(self, ids: Tensor, piece: Piece) -> Tensor:
        """Compute a piece of one prompt and write the piece's keys and values into `piece.kv`.

        Args:
            ids: token ids of the piece, int64 [P]
            piece: the positions of these tokens, and the memory for keys and values

        Returns:
            the last layer's output at the P positions, float32 [P, E]
        """
        rotations = self._rotations[piece.start : piece.stop]
        x = self.parameters.embedding[ids]
        for index, layer in enumerate(self.parameters.layers):
            q, k, v = self._project(layer, x, rotations)
            attended = self._attend(q, *_write(piece, index, k, v))
            x = self._feed_forward(layer, torch.addmm(x, attended, layer.out))
        return x

    @torch.inference_mode()
    def continue_(self, ids: Tensor, pieces: list[Piece]) -> Tensor:
        """Compute the remaining tokens of N partly computed prompts. Write the keys and values of each piece into the
        piece's `kv`.

        In the last layer, queries and the feed-forward part are computed only for the last position of each prompt.

        Args:
            ids: token ids of all pieces, concatenated without padding, int64 [T]
            pieces: the remaining tokens of each prompt, in the order of `ids`

        Returns:
            logits after each prompt's last token, float32 [N, V]
        """
        ends = list(accumulate(piece.length for piece in pieces))
        spans = list(zip([0, *ends[:-1]], ends, pieces, strict=True))
        rotations = self._rotations[torch.cat([torch.arange(piece.start, piece.stop) for piece in pieces])]
        x = self.parameters.embedding[ids]
        for index, layer in enumerate(self.parameters.layers[:-1]):
            q, k, v = self._project(layer, x, rotations)
            attended = torch.empty(x.shape[0], q.shape[1] * q.shape[2])
            for begin, end, piece in spans:
                keys, values = _write(piece, index, k[begin:end], v[begin:end])
                attended[begin:end] = self._attend(q[begin:end], keys, values)
            x = self._feed_forward(layer, torch.addmm(x, attended, layer.out))
        layer, last = self.parameters.layers[-1], torch.tensor(ends) - 1
        q, k, v = self._project_last(layer, x, rotations, last)
        rows = [
            self._attend(q[row : row + 1], *_write(piece, -1, k[begin:end], v[begin:end]))
            for row, (begin, end, piece) in enumerate(spans)
        ]
        return self.logits(self._feed_forward(layer, torch.addmm(x[last], torch.cat(rows), layer.out)))

    @torch.inference_mode()
    def decode(self, ids: Tensor, positions: list[int], kv: KeysValues) -> Tensor:
        """Compute the newest token of each of the B running sequences. The sequences are in the first B slots.

        Args:
            ids: the newest token of each sequence, int64 [B]
            positions: the position of the newest token of each sequence
            kv: keys [layers, S, K, D, L] and values [layers, S, K, L, D] of all slots. The method writes the keys and
                values of sequence b to position `positions[b]` of slot b.

        Returns:
            logits after the newest tokens, float32 [B, V]
        """
        a, b, live = self.arch, ids.shape[0], max(positions) + 1  # attention reads the first `live` positions
        rows, at = torch.arange(b), torch.tensor(positions)
        rotations = self._rotations[at]
        bias = None
        if min(positions) + 1 < live:
            masked = torch.arange(live) > at.unsqueeze(1)
            bias = torch.zeros(b, 1, live).masked_fill_(masked.unsqueeze(1), float("-inf"))
        x = self.parameters.embedding[ids]
        for layer, keys, values in zip(self.parameters.layers, kv.keys, kv.values, strict=True):
            q, k, v = self._project(layer, x, rotations)
            keys[rows, :, :, at], values[rows, :, at] = k, v
            grouped = q.reshape(b * a.kv_heads, a.group, a.head_dim)
            scores = torch.bmm(grouped, keys[:b, ..., :live].flatten(0, 1))
            if bias is not None:
                scores.view(b, a.heads, live).add_(bias)
            attended = torch.bmm(torch.softmax(scores, dim=-1), values[:b, :, :live].flatten(0, 1))
            x = self._feed_forward(layer, torch.addmm(x, attended.view(b, -1), layer.out))
        return self.logits(x)

    @torch.inference_mode()
    def logits(self, x: Tensor) -> Tensor:
        """Apply the final norm and the output head to x [N, E]. Returns logits [N, V]."""
        return torch.mm(self._normed(x), self.parameters.head)

    def _normed(self, x: Tensor) -> Tensor:
        """Divide each vector by its length. This is the RMS norm without its gain and without the factor sqrt(E). The
        matrix after the norm contains both (see `weights/parameters.py`).
        """
        return x / _vector_length(x, self.arch.norm_eps)

    def _project(self, layer: Layer, x: Tensor, rotations: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries [T, H, D], keys [T, K, D] and values [T, K, D]. Rotary positions are applied to queries and
        keys.
        """
        a = self.arch
        qkv = _linear(self._normed(x), layer.qkv, layer.qkv_bias).view(x.shape[0], -1, a.head_dim)
        self._rotate(layer.qk_gain, qkv[:, : a.heads + a.kv_heads], rotations)
        return qkv[:, : a.heads], qkv[:, a.heads : a.heads + a.kv_heads], qkv[:, a.heads + a.kv_heads :]

    def _project_last(self, layer: Layer, x: Tensor, rotations: Tensor, last: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Returns queries [N, H, D] of the positions `last` [N], and keys and values [T, K, D] of all positions."""
        a = self.arch
        cut, gain, bias = a.heads * a.head_dim, layer.qk_gain, layer.qkv_bias
        normed = self._normed(x)
        kv = _linear(normed, layer.qkv[:, cut:], None if bias is None else bias[cut:]).view(x.shape[0], -1, a.head_dim)
        q = _linear(normed[last], layer.qkv[:, :cut], None if bias is None else bias[:cut]).view(
            -1, a.heads, a.head_dim
        )
        self._rotate(None if gain is None else gain[a.heads :], kv[:, : a.kv_heads], rotations)
        self._rotate(None if gain is None else gain[: a.heads], q, rotations[last])
        return q, kv[:, : a.kv_heads], kv[:, a.kv_heads :]

    def _rotate(self, gain: Tensor | None, heads: Tensor, rotations: Tensor) -> None:
        """Apply rotary positions to `heads` in place: queries or keys [T, number of heads, D]. If `gain` is given,
        first normalise the vectors and multiply them by `gain`.
        """
        if gain is not None:
            heads.div_(_vector_length(heads, self.arch.norm_eps)).mul_(gain)
        torch.view_as_complex(heads.view(*heads.shape[:-1], -1, 2)).mul_(rotations)

    def _attend_packed(self, q: Tensor, k: Tensor, v: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """Compute causal attention within each prompt, for queries [T, H, D], keys and values [T, K, D].
        `groups`: one pair (length, number of prompts) for each series of neighbouring prompts of equal length. Returns
        [T, H D].
        """
        a = self.arch
        merged = torch.empty(q.shape[0], q.shape[1] * q.shape[2])
        begin = 0
        for length, count in groups:
            end = begin + length * count
            q_, k_, v_ = (t[begin:end].view(count, length, -1, a.head_dim).transpose(1, 2) for t in (q, k, v))
            out = F.scaled_dot_product_attention(q_, k_, v_, is_causal=True, scale=1.0, enable_gqa=True)
            merged[begin:end].view(count, length, *q.shape[1:]).copy_(out.transpose(1, 2))
            begin = end
        return merged

    def _attend_last(self, q: Tensor, k: Tensor, v: Tensor, groups: list[tuple[int, int]]) -> Tensor:
        """Compute the attention of each prompt's last query to all positions of the prompt, for queries [N, H, D], keys
        and values [T, K, D]. Returns [N, H D]. `groups`: as in `_attend_packed`.
        """
        a = self.arch
        out = []
        begin = row = 0
        for length, count in groups:
            end = begin + length * count
            k_, v_ = (t[begin:end].view(count, length, -1, a.head_dim).transpose(1, 2) for t in (k, v))
            q_ = q[row : row + count].view(count, self.arch.kv_heads, self.arch.group, -1)
            weights = torch.softmax(q_ @ k_.transpose(2, 3), dim=-1)
            out.append((weights @ v_).view(count, -1))
            begin, row = end, row + count
        return torch.cat(out)

    def _attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """Compute causal attention for a piece of P positions, given the keys and values of all L positions up to the
        end of the piece. `q`: [P, H, D]. `keys`: [K, D, L]. `values`: [K, L, D]. Returns [P, H D].

        The scores of at most `QUERIES` queries are computed at a time, because the scores of more queries would not fit
        into the CPU cache.
        """
        count, a = q.shape[0], self.arch
        heads = q.view(count, a.kv_heads, a.group, a.head_dim).permute(1, 2, 0, 3)  # [K, H / K, P, D]
        merged = torch.empty(count, a.kv_heads, a.group, a.head_dim)
        for begin in range(0, count, QUERIES):
            end = min(begin + QUERIES, count)
            n, seen = end - begin, keys.shape[2] - count + end
            scores = torch.bmm(heads[:, :, begin:end].reshape(a.kv_heads, -1, a.head_dim), keys[..., :seen])
            if n > 1:
                scores.view(a.kv_heads, a.group, n, seen)[..., -n:].add_(self._causal_mask[:n, :n])
            out = torch.bmm(torch.softmax(scores, dim=-1), values[:, :seen])
            merged[begin:end] = out.view(a.kv_heads, a.group, n, a.head_dim).permute(2, 0, 1, 3)
        return merged.view(count, -1)

    def _feed_forward(self, layer: Layer, x: Tensor) -> Tensor:
        """Apply the norm and the SwiGLU feed-forward layer to x [T, E], and add x. Returns [T, E]."""
        gate, up = torch.mm(self._normed(x), layer.gate_up).chunk(2, dim=-1)
        return torch.addmm(x, F.silu(gate).mul_(up), layer.down)


def _vector_length(x: Tensor, eps: float) -> Tensor:
    """Returns sqrt(sum(x^2) + n eps) over the last dimension. n is the size of this dimension. The result is sqrt(n)
    times the root mean square with eps.
    """
    norm: Tensor = torch.linalg.vector_norm(x, dim=-1, keepdim=True)
    return norm.hypot_(torch.tensor((x.shape[-1] * eps) ** 0.5))


def _linear(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return torch.mm(x, weight) if bias is None else torch.addmm(bias, x, weight)


def _write(piece: Piece, index: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    """Write a piece's keys and values [P, K, D] of layer `index` into `piece.kv`. Returns the keys [K, D, stop] and
    values [K, stop, D] of the prompt's first `piece.stop` positions in this layer.
    """
    keys, values = piece.kv.keys[index, ..., : piece.stop], piece.kv.values[index, :, : piece.stop]
    keys[..., piece.start :], values[:, piece.start :] = k.permute(1, 2, 0), v.transpose(0, 1)
    return keys, values
