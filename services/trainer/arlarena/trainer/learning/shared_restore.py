"""Restores a checkpoint on all ranks. Only rank 0 reads the files.

Rank 0 sends the names, dtypes and shapes of all tensors, and the values of the tensors that are not sharded.
`Learner.restore` scatters the sharded tensors from rank 0. The other ranks therefore need no access to the run
directory, and no memory for all tensors. The nodes of a trainer need no common file system.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import torch
from safetensors.torch import load, save
from torch import Tensor

from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.learning.ranks import Ranks

Tensors = Mapping[str, Tensor]
_KINDS = ("weights", "optimizer")


def restore_on_all_ranks(learner: Learner, ranks: Ranks, weights: Tensors, optimizer: Tensors) -> None:
    """Restore the learners of all ranks. Rank 0 calls this function, and the other ranks call `receive_restore`.

    Raises:
        RuntimeError, ValueError, KeyError: the tensors belong to another model.
    """
    if ranks.count > 1:
        tensors = dict(zip(_KINDS, (weights, optimizer), strict=True))
        header = {
            kind: {name: (str(value.dtype).removeprefix("torch."), list(value.shape)) for name, value in given.items()}
            for kind, given in tensors.items()
        }
        ranks.broadcast(json.dumps(header).encode())
        complete = {
            f"{kind}/{name}": value.contiguous().clone()
            for kind, given in tensors.items()
            for name, value in given.items()
            if not learner.is_sharded(kind, name, value)
        }
        ranks.broadcast(save(complete))
    learner.restore(weights, optimizer)


def no_restore(ranks: Ranks) -> None:
    """Tell the other ranks that there is no checkpoint. Rank 0 calls this function."""
    ranks.broadcast(b"")


def receive_restore(learner: Learner, ranks: Ranks) -> None:
    """Restore this rank from the checkpoint that rank 0 sends. If rank 0 has no checkpoint, do nothing.

    All ranks except rank 0 call this function.
    """
    header = ranks.broadcast()
    if not header:
        return
    complete = load(ranks.broadcast())
    # A sharded tensor of this rank has arbitrary values, because only the values of rank 0 are scattered.
    weights, optimizer = (
        {
            name: complete[key]
            if (key := f"{kind}/{name}") in complete
            else torch.empty(shape, dtype=getattr(torch, dtype))
            for name, (dtype, shape) in given.items()
        }
        for kind, given in json.loads(header).items()
    )
    learner.restore(weights, optimizer)
