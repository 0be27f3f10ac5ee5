"""Collective communication between the ranks (processes) that train one policy. FSDP2 communicates the gradients.

`torchrun --nproc-per-node 4 -m arlarena.trainer train …` starts four ranks, one for each GPU. Only rank 0 communicates
with other services. The other ranks execute the calls of rank 0 (`coordinator.py`). FSDP2 shards the parameters over
all ranks.
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

# The timeout is long, because all ranks wait while rank 0 waits for groups. The setting `no_data_timeout_s` limits the
# wait of rank 0. If a rank dies, its connections close and the collective calls of the other ranks fail at once.
COLLECTIVE_TIMEOUT = timedelta(days=7)


class Ranks:
    """The rank of this process (`index`), the number of ranks (`count`), and collective calls.

    All ranks must make each collective call. If there is only one rank, a call returns at once.
    """

    def __init__(self, index: int = 0, count: int = 1) -> None:
        """Store the arguments, but do not start communication. If there are several ranks, call `from_env` instead."""
        self.index, self.count = index, count

    @classmethod
    def from_env(cls) -> Ranks:
        """Read rank and number of ranks from torchrun's variables. If there are several ranks, start communication."""
        index, count = torchrun_rank()
        if count > 1 and not dist.is_initialized():
            backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
            dist.init_process_group(backend, timeout=COLLECTIVE_TIMEOUT)
        return cls(index, count)

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.index == 0

    def shutdown(self) -> None:
        """Destroy the process group. All ranks must call this method."""
        if self.count > 1:
            dist.destroy_process_group()

    def shard(self, items: Sequence[T]) -> list[T | None]:
        """Return this rank's share of `items`: every `count`-th item, starting at `index`.

        The share is padded with None, so that all ranks get the same number of items.
        """
        rounds = -(-len(items) // self.count)
        mine = list(items[self.index :: self.count])
        return mine + [None] * (rounds - len(mine))

    def all_reduce(self, values: Tensor) -> Tensor:
        """Return the sum of `values` over all ranks, on the CPU in float64."""
        summed = values.detach().to("cpu", torch.float64, copy=True)
        if self.count > 1:
            dist.all_reduce(summed)
        return summed

    def gather(self, value: Any) -> list[Any]:
        """Return the `value` of every rank, in the order of the ranks. `value` must be serialisable as JSON."""
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
        """Return the `data` of rank 0 on every rank. Only rank 0 passes `data`."""
        if self.count == 1:
            return data or b""
        size = torch.tensor([len(data) if data is not None else 0])
        dist.broadcast(size, 0)
        content = bytearray(data) if data is not None else bytearray(int(size))
        if content:
            dist.broadcast(torch.frombuffer(content, dtype=torch.uint8), 0)
        return bytes(content)
