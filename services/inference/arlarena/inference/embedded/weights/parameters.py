"""A model's weights in the layout that the engine uses: fused matrices that already contain scales and gains of norms.

Fusing replaces many operations by fewer and larger operations. In exact arithmetic, the results are the same. In
float32, they differ by less than 1e-5. E is the hidden size, D the size of a head.
- Matrices are stored as [inputs, outputs]. Products with few rows are then 1.4 to 2 times as fast.
- The query, key and value projections are one matrix. The gate and up projections are another matrix.
- The projection after a norm is multiplied by the norm's gain and by sqrt(E). So the norm only divides a vector by its
  length. In the same way, the gains of the query and key norms are multiplied by sqrt(D).
- The gain of the query norm is also multiplied by 1/sqrt(D), the scale of attention. If there is no query norm, the
  query projection is multiplied by 1/sqrt(D).
- A rotary rotation combines pairs of numbers from the first and the second half of a head. The columns of query and key
  heads are reordered so that the two numbers of a pair are neighbours. The rotation is then one complex multiplication.
  Attention scores do not change, because queries and keys are reordered in the same way.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from arlarena.inference.embedded.architecture import Architecture


class WeightsError(ValueError):
    """Weights cannot be read or do not fit the model. The message names the tensor or the file."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer. Letters in shapes: H is the number of query heads, K the number of key heads, D the size of a
    head, E the hidden size, F the size of the feed-forward layer.
    """

    qkv: Tensor  # [E, (H + 2K) D]
    qkv_bias: Tensor | None  # [(H + 2K) D]
    qk_gain: Tensor | None  # [H + K, D]
    out: Tensor  # [H D, E]
    gate_up: Tensor  # [E, 2 F]
    down: Tensor  # [F, E]


@dataclass(frozen=True, slots=True)
class Parameters:
    """All weights, float32 and contiguous. Letters in shapes: V is the size of the vocabulary, E the hidden size."""

    embedding: Tensor  # [V, E]
    layers: tuple[Layer, ...]
    head: Tensor  # [E, V], including the gain of the final norm


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Returns all tensors of a directory as float32, by name. Reads the files that `model.safetensors.index.json`
    lists. If there is no such index, reads `model.safetensors`.

    Raises:
        WeightsError: a file is missing, truncated or not safetensors.
    """
    index = directory / "model.safetensors.index.json"
    files = ["model.safetensors"]
    if index.is_file():
        try:
            files = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise WeightsError(f"{index} cannot be read: {error!r}") from error
    tensors: dict[str, Tensor] = {}
    for name in files:
        path = directory / name
        if not path.is_file():
            raise WeightsError(f"{path} does not exist: the engine reads safetensors only")
        try:
            with safe_open(path, framework="pt") as file:
                tensors.update({key: file.get_tensor(key).to(torch.float32) for key in file.keys()})  # noqa: SIM118
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"{path} cannot be read: {error}") from error
    return tensors


def expected_shapes(arch: Architecture) -> dict[str, tuple[int, ...]]:
    """Returns the names and shapes of all tensors that a model of this architecture must have."""
    e, d, f, v = arch.hidden, arch.head_dim, arch.ffn, arch.vocab_size
    q, kv = arch.heads * d, arch.kv_heads * d
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (v, e), "model.norm.weight": (e,)}
    if not arch.tied:
        shapes["lm_head.weight"] = (v, e)
    for i in range(arch.layers):
        layer = f"model.layers.{i}."
        shapes |= {layer + "input_layernorm.weight": (e,), layer + "post_attention_layernorm.weight": (e,)}
        for name, rows in (("q", q), ("k", kv), ("v", kv)):
            shapes[f"{layer}self_attn.{name}_proj.weight"] = (rows, e)
            if arch.qkv_bias:
                shapes[f"{layer}self_attn.{name}_proj.bias"] = (rows,)
        if arch.qk_norm:
            shapes |= {layer + "self_attn.q_norm.weight": (d,), layer + "self_attn.k_norm.weight": (d,)}
        shapes[layer + "self_attn.o_proj.weight"] = (e, q)
        shapes |= {
            layer + "mlp.gate_proj.weight": (f, e),
            layer + "mlp.up_proj.weight": (f, e),
            layer + "mlp.down_proj.weight": (e, f),
        }
    return shapes


def check_tensors(tensors: Mapping[str, Tensor], arch: Architecture) -> None:
    """Compare the names and shapes of tensors with the architecture, and check that all values are finite.

    Raises:
        WeightsError: a tensor is missing or unknown, has a wrong shape, or contains values that are not finite.
    """
    expected = expected_shapes(arch)
    ignored = {"lm_head.weight"} if arch.tied else set()
    missing, unknown = sorted(expected.keys() - tensors.keys()), sorted(tensors.keys() - expected.keys() - ignored)
    if missing:
        raise WeightsError(f"{len(missing)} tensors are missing, the first is {missing[0]}")
    if unknown:
        raise WeightsError(f"{len(unknown)} tensors do not belong to this model, the first is {unknown[0]}")
    for name, shape in expected.items():
        if tuple(tensors[name].shape) != shape:
            raise WeightsError(f"{name} has shape {list(tensors[name].shape)}, the model needs {list(shape)}")
        if not torch.isfinite(tensors[name].sum()):
            raise WeightsError(f"{name} contains values that are not finite, or their sum overflows")


def _interleave(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head. In the result, row i of the first half of a head is followed by row i of the
    second half. Then comes row i + 1 of the first half. `rows`: shape [heads D, ...]. Returns the same shape.
    """
    per_head = rows.view(heads, 2, rows.shape[0] // heads // 2, -1)
    return per_head.transpose(1, 2).reshape(rows.shape)


def _fuse_matrices(*matrices: Tensor, gain: Tensor | None = None) -> Tensor:
    """Transpose matrices [outputs, inputs], and concatenate them to one matrix [inputs, sum of outputs]. `gain`
    [inputs]: row i of the result is multiplied by `gain[i]`.
    """
    fused = torch.empty(matrices[0].shape[1], sum(len(matrix) for matrix in matrices))
    begin = 0
    for matrix in matrices:
        part = fused[:, begin : begin + len(matrix)]
        begin += len(matrix)
        if gain is None:
            part.copy_(matrix.t())
        else:
            torch.mul(matrix.t(), gain.unsqueeze(1), out=part)
    return fused


def _fuse_layer(t: Mapping[str, Tensor], layer: str, arch: Architecture) -> Layer:
    scale, sqrt_hidden, sqrt_head = arch.head_dim**-0.5, arch.hidden**0.5, arch.head_dim**0.5

    def projections(kind: str) -> tuple[Tensor, Tensor, Tensor]:
        q = _interleave(t[f"{layer}self_attn.q_proj.{kind}"], arch.heads)
        k = _interleave(t[f"{layer}self_attn.k_proj.{kind}"], arch.kv_heads)
        return q if arch.qk_norm else q * scale, k, t[f"{layer}self_attn.v_proj.{kind}"]

    qk_gain = None
    if arch.qk_norm:
        q_gain = _interleave(t[layer + "self_attn.q_norm.weight"], 1) * (scale * sqrt_head)
        k_gain = _interleave(t[layer + "self_attn.k_norm.weight"], 1) * sqrt_head
        qk_gain = torch.cat((q_gain.expand(arch.heads, -1), k_gain.expand(arch.kv_heads, -1))).contiguous()
    before, after = (t[f"{layer}{norm}_layernorm.weight"] * sqrt_hidden for norm in ("input", "post_attention"))
    return Layer(
        qkv=_fuse_matrices(*projections("weight"), gain=before),
        qkv_bias=torch.cat(projections("bias")) if arch.qkv_bias else None,
        qk_gain=qk_gain,
        out=_fuse_matrices(t[layer + "self_attn.o_proj.weight"]),
        gate_up=_fuse_matrices(t[layer + "mlp.gate_proj.weight"], t[layer + "mlp.up_proj.weight"], gain=after),
        down=_fuse_matrices(t[layer + "mlp.down_proj.weight"]),
    )


def fuse(tensors: Mapping[str, Tensor], arch: Architecture) -> Parameters:
    """Check and fuse the tensors of a Hugging Face model.

    Raises:
        WeightsError: a tensor is missing or unknown, has a wrong shape, or contains values that are not finite.
    """
    check_tensors(tensors, arch)
    with torch.inference_mode():
        embedding = tensors["model.embed_tokens.weight"].contiguous()
        head = embedding if arch.tied else tensors["lm_head.weight"]
        layers = tuple(_fuse_layer(tensors, f"model.layers.{i}.", arch) for i in range(arch.layers))
        gain = tensors["model.norm.weight"] * arch.hidden**0.5
        return Parameters(embedding, layers, _fuse_matrices(head, gain=gain))


def load_parameters(directory: Path, arch: Architecture) -> Parameters:
    """Read and fuse the weights in a directory.

    Raises:
        WeightsError: the files cannot be read or do not fit `arch`, or a tensor contains values that are not finite.
    """
    return fuse(read_tensors(directory), arch)
