"""Loads the policy as a Hugging Face causal language model."""

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
    """Load a causal language model from a directory or a hub name, in float32 and in evaluation mode (no dropout).

    Raises:
        ConfigError: the model does not exist, is not a causal language model, or has an unsupported kind of attention.
    """
    # Progress bars would break the JSON log on stderr.
    disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        model = AutoModelForCausalLM.from_pretrained(str(path), dtype=torch.float32)
    except (OSError, ValueError) as error:
        raise ConfigError(f"policy {str(path)!r} cannot be loaded: {error}") from error
    model.eval()  # type: ignore[no-untyped-call]
    return prepare(cast(PreTrainedModel, model))


def frozen_copy(model: PreTrainedModel) -> PreTrainedModel:
    """Return a copy of `model` without gradients. The KL term uses this copy as the reference policy."""
    return copy.deepcopy(model).requires_grad_(False)


def output_head(model: PreTrainedModel) -> nn.Linear:
    """Return the layer that maps hidden states to logits."""
    return cast(nn.Linear, model.get_output_embeddings())  # type: ignore[no-untyped-call]
