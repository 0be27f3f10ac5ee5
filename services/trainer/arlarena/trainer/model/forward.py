"""Computes the policy's log-probs of a micro-batch, with sharding and mixed precision."""

from __future__ import annotations

import functools
from typing import Literal

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel

from arlarena.trainer.batching.packing import MicroBatch
from arlarena.trainer.model.attention import hidden_states
from arlarena.trainer.model.logprobs import Entropy, token_log_probs
from arlarena.trainer.model.policy import output_head

Precision = Literal["float32", "bfloat16"]


class Scorer(nn.Module):
    """A causal language model that computes log-probs and entropies of the sampled tokens of a micro-batch.

    With `bfloat16` the layers compute in 16 bits. Weights, optimiser state and output head stay in float32, because the
    rounding error of a bfloat16 log-prob (8 bits of precision) exceeds GSPO's clip range of about 0.003.
    """

    def __init__(
        self, model: PreTrainedModel, chunk_tokens: int | None = None, precision: Precision = "float32"
    ) -> None:
        """Wrap `model`. `chunk_tokens`: see `token_log_probs`. `precision`: the dtype in which the layers compute."""
        super().__init__()
        self.model = model
        self._chunk, self._precision = chunk_tokens, precision
        self._sharded = False

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def forward(
        self, batch: MicroBatch, temperature: float | None = None, entropy: Entropy = "trained", *, exact: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Return the log-probs [N] and entropies [N] of the sampled tokens of all rows, in nats.

        `temperature`: one temperature for all tokens; None: the temperature of each row. `entropy`: "none" returns None
        instead of entropies. `exact`: compute the layers in float32 regardless of the precision. Sharded layers
        ignore `exact`.

        The model runs once over the tokens of the forest. If several rows share a token, the log-prob of the token is
        computed once. In the backward pass, the gradients of these rows are added.
        """
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self._autocast and not exact):
            hidden = hidden_states(self.model.get_decoder(), batch.forest)  # type: ignore[no-untyped-call]
        head = output_head(self.model)
        predicting = hidden.index_select(0, batch.positions).to(head.weight.dtype)
        temperatures = batch.temperature if temperature is None else temperature
        log_probs, entropies = token_log_probs(head, predicting, batch.targets, temperatures, self._chunk, entropy)
        return log_probs[batch.token_index], None if entropies is None else entropies[batch.token_index]

    @property
    def _autocast(self) -> bool:
        return self._precision == "bfloat16" and not self._sharded

    def checkpoint_layers(self) -> None:
        """Switch on activation checkpointing: store each layer's input, and recompute the layer in backward passes."""
        for layer in self._layers():
            layer.forward = functools.partial(checkpoint, layer.forward, use_reentrant=False)

    def shard(self, ranks: int) -> None:
        """Shard parameters, gradients and optimiser state over `ranks` processes (FSDP2).

        After this call, gradients are means over the ranks.
        """
        mesh = init_device_mesh(self.device.type, (ranks,))
        lower = torch.bfloat16 if self._precision == "bfloat16" else None
        for layer in self._layers():
            fully_shard(layer, mesh=mesh, mp_policy=MixedPrecisionPolicy(param_dtype=lower, reduce_dtype=torch.float32))
        fully_shard(self, mesh=mesh)
        self._sharded = True

    def _layers(self) -> nn.ModuleList:
        layers: nn.ModuleList = self.model.get_decoder().layers  # type: ignore[no-untyped-call]
        return layers
