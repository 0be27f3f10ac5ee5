"""The policy as a Hugging Face causal model."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import cast

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.utils.logging import disable_progress_bar

from arlarena.proto.config import ConfigError
from arlarena.trainer.model.attention import prepare


def load_policy(path: str | Path) -> PreTrainedModel:
    """A causal language model from a directory or a hub name, in float32 and in evaluation mode (dropout off).

    Raises:
        ConfigError: there is no such model, or it is no causal language model.
    """
    # Bars of loading and of saving would be among the lines of JSON.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy {str(path)!r} cannot be loaded: {error}") from error
    model.eval()  # type: ignore[no-untyped-call]
    return prepare(cast(PreTrainedModel, model))


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """The same weights, never trained: the reference of the KL term."""
    return copy.deepcopy(model).requires_grad_(False)


def output_head(model: PreTrainedModel) -> nn.Linear:
    """The projection from hidden states to logits."""
    return cast(nn.Linear, model.get_output_embeddings())  # type: ignore[no-untyped-call]
