"""Reads a Hugging Face `config.json` and refuses models that the embedded engine does not support."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arlarena.proto.text.files import read_text

# For each model_type: (`Architecture.qk_norm`, `Architecture.qkv_bias`).
FAMILIES = {"qwen3": (True, False), "qwen2": (False, True), "llama": (False, False)}


class UnsupportedModelError(ValueError):
    """The embedded engine does not support this model. The message contains the reason."""


@dataclass(frozen=True, slots=True)
class Architecture:
    """The sizes and variants of a decoder with grouped-query attention, rotary positions, RMS norms and SwiGLU layers.

    `hidden`: the size of the hidden state. `ffn`: the size of the feed-forward layer. `max_positions`: the maximum
    number of tokens of a sequence. `tied`: whether the embedding matrix is also the output head. `qk_norm`: whether
    queries and keys are normalised. `qkv_bias`: whether the projections of queries, keys and values have a bias.
    """

    model_type: str
    vocab_size: int
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    norm_eps: float
    rope_theta: float
    max_positions: int
    tied: bool
    qk_norm: bool
    qkv_bias: bool

    @property
    def group(self) -> int:
        """The number of query heads that share one key head."""
        return self.heads // self.kv_heads


def read_architecture(directory: Path) -> Architecture:
    """Returns the architecture that `config.json` in `directory` describes.

    Raises:
        UnsupportedModelError: the file is missing or malformed, or the embedded engine does not support the model.
    """
    path = directory / "config.json"
    try:
        config = json.loads(read_text(path))
    except FileNotFoundError as error:
        raise UnsupportedModelError(f"{directory} is not a Hugging Face directory: it has no config.json") from error
    except (OSError, ValueError) as error:
        raise UnsupportedModelError(f"{path} cannot be read: {error}") from error
    family = FAMILIES.get(config.get("model_type"))
    if family is None:
        known = ", ".join(FAMILIES)
        raise UnsupportedModelError(
            f"{path}: the embedded engine does not support model type {config.get('model_type')!r} (only {known}); "
            "use vLLM"
        )
    _refuse_variants(path, config)
    try:
        return _from_config(config, *family)
    except (KeyError, TypeError) as error:
        raise UnsupportedModelError(f"{path}: missing or malformed key: {error}") from error


def _from_config(config: dict[str, Any], qk_norm: bool, qkv_bias: bool) -> Architecture:
    heads = config["num_attention_heads"]
    rope = _rope(config)
    return Architecture(
        model_type=config["model_type"],
        vocab_size=config["vocab_size"],
        hidden=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_dim=config.get("head_dim") or config["hidden_size"] // heads,
        ffn=config["intermediate_size"],
        norm_eps=config.get("rms_norm_eps", 1e-6),
        rope_theta=float(rope.get("rope_theta") or config.get("rope_theta") or 10_000.0),
        max_positions=config.get("max_position_embeddings", 2048),
        tied=bool(config.get("tie_word_embeddings", False)),
        qk_norm=qk_norm,
        qkv_bias=qkv_bias or bool(config.get("attention_bias", False)),
    )


def _rope(config: dict[str, Any]) -> dict[str, Any]:
    """Returns the rotary settings of a `config.json`, or {} if it has none. transformers 5 writes them under the key
    `rope_parameters`. Older versions write them under the key `rope_scaling`.
    """
    return config.get("rope_parameters") or config.get("rope_scaling") or {}


def _refuse_variants(path: Path, config: dict[str, Any]) -> None:
    """Refuse models for which the embedded engine would compute wrong results. `path`: the path of `config.json` for
    error messages. `config`: the content of this file.

    Raises:
        UnsupportedModelError: the embedded engine does not support a property of the model.
    """
    rope = _rope(config)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    heads, kv_heads = config.get("num_attention_heads", 1), config.get("num_key_value_heads") or 1
    windowed = config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or [])
    problems = {
        f"rope type {kind!r}": kind != "default",
        f"activation {config.get('hidden_act')!r}": config.get("hidden_act", "silu") != "silu",
        "sliding-window attention": bool(windowed),
        "a bias in the feed-forward layer": bool(config.get("mlp_bias", False)),
        "a bias in every attention projection": bool(config.get("attention_bias")) and config["model_type"] == "llama",
        "quantised weights": "quantization_config" in config,
        f"{heads} query heads over {kv_heads} key heads": heads % kv_heads != 0,
    }
    for variant, present in problems.items():
        if present:
            raise UnsupportedModelError(f"{path}: the embedded engine does not support {variant}; use vLLM")
