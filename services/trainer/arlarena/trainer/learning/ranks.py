"""Several processes that train one policy: communication beside the gradients.

`torchrun --nproc-per-node 4 -m arlarena.trainer train …` starts as many of these as there are GPUs. Rank 0 alone talks
to other services; the others follow its orders (`coordinator.py`). Parameters are sharded over all ranks by FSDP2.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from arlarena.trainer.settings import torchrun_rank

T = TypeVar("T")

# Rank 0 may wait for groups as long as its own limits allow; the others wait for it. A rank that dies closes its
# connections, so this is no way to hang.
PATIENCE = timedelta(days=7)


class Ranks:
    """The rank of this process and collective communication. A single process communicates with nobody."""

    def __init__(self, index: int = 0, count: int = 1) -> None:
        """Use `from_env` where there may be several."""
        self.index, self.count = index, count

    @classmethod
    def from_env(cls) -> Ranks:
        """The rank and world size of the variables that torchrun sets."""
        index, count = torchrun_rank()
        if count > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=PATIENCE)
        return cls(index, count)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.index == 0

    def shutdown(self) -> None:
        """Destroy the process group. All ranks have to call it."""
        if self.count > 1:
            dist.destroy_process_group()

    def shard(self, items: Sequence[T]) -> list[T | None]:
        """Every `count`-th of `items`, from `index` on, padded with None to the same length on every rank."""
        rounds = -(-len(items) // self.count)
        mine = list(items[self.index :: self.count])
        return mine + [None] * (rounds - len(mine))

    def all_reduce(self, values: Tensor) -> Tensor:
        """The sum of all ranks' `values`, on the CPU in float64."""
        summed = values.detach().to("cpu", torch.float64, copy=True)
        if self.count > 1:
            dist.all_reduce(summed)
        return summed

    def gather(self, value: Any) -> list[Any]:
        """Every rank's `value`, which must be JSON, in the order of the ranks."""
        if self.count == 1:
            return [value]
        mine = json.dumps(value).encode()
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.count)]
        dist.all_gather(sizes, torch.tensor([len(mine)]))
        longest = max(int(size) for size in sizes)
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
        dist.all_gather(parts, torch.frombuffer(bytearray(mine.ljust(longest)), dtype=torch.uint8))
        return [json.loads(bytes(part[: int(size)].numpy())) for part, size in zip(parts, sizes, strict=True)]

    def broadcast(self, data: bytes | None = None) -> bytes:
        """The data of rank 0, on every rank."""
        if self.count == 1:
            return data or b""
        size = torch.tensor([len(data) if data is not None else 0])
        dist.broadcast(size, 0)
        content = bytearray(data) if data is not None else bytearray(int(size))
        if content:
            dist.broadcast(torch.frombuffer(content, dtype=torch.uint8), 0)
        return bytes(content)
