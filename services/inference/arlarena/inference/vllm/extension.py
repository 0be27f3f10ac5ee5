"""A weight transfer engine for vLLM. A weight transfer engine is a plugin that brings new weights into vLLM's model.
Only vLLM's worker processes import this module.

vLLM's own transfer engines need a GPU, and the trainer would need an installation of vLLM. This engine works on any
device. It reads safetensors files from a version directory, or receives tensors that a trainer broadcasts.
`arlarena.proto.versions.directory.Broadcast` describes the messages of a broadcast. The engine uses vLLM's layerwise
reload.

On CPUs, vLLM converts the output head to a packed format when vLLM starts. If the head and the embedding share their
weights (a tied head), a reload does not update the packed head. So `finish_weight_update` packs the head again.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.platforms import current_platform

BACKEND = "safetensors"


@dataclass
class NoInit(WeightTransferInitInfo):
    """The parameters for the start of `VersionsEngine`. This class is empty, because no parameters are needed."""


@dataclass
class Source(WeightTransferUpdateInfo):
    """The source of new weights: either a directory (`path`) or a sender (`host`, `port`). The other fields are set
    only for a sender. `backend`: the backend of torch.distributed, `nccl` or `gloo`. `group`: a unique name for this
    update. `version`: the version's label. `limit_s`: time limit of the transfer in seconds.
    """

    path: str = ""
    host: str = ""
    port: int = 0
    backend: str = ""
    group: str = ""
    version: str = ""
    limit_s: float = 0.0


class VersionsEngine(WeightTransferEngine[NoInit, Source]):
    """Loads all tensors of a version into vLLM's model."""

    init_info_cls = NoInit
    update_info_cls = Source

    def init_transfer_engine(self, init_info: NoInit) -> None:
        """Do nothing. vLLM requires this method."""

    def start_weight_update(self) -> None:
        """Prepare all layers for new weights."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """Load the new weights. (vLLM's own method `update_weights` would also synchronise a GPU.)"""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: Source) -> None:
        """Load all tensors from the source into the model, one after another.

        Raises:
            FileNotFoundError: the directory has no safetensors files.
            RuntimeError: the sender has a different version or has ended.
        """
        if update_info.group:
            self.model.load_weights(self._receive_tensors(update_info))
        else:
            self._load_files(update_info)

    def _receive_tensors(self, source: Source) -> Iterator[tuple[str, torch.Tensor]]:
        """Join a process group with the sender and all workers of this replica. Yields the name and the value of each
        tensor that the sender broadcasts.

        Raises:
            RuntimeError: the sender refuses to send this version, or has ended.
        """
        limit, config = timedelta(seconds=source.limit_s), self.parallel_config
        store = TCPStore(source.host, source.port, is_master=False, wait_for_workers=False, timeout=limit)
        rank = config.data_parallel_index * config.world_size + config.rank  # this worker's rank among all workers
        size = config.data_parallel_size * config.world_size + 1  # all workers, and the sender (rank 0 in the group)
        if rank == 0:
            number = store.add("requests", 1)
            store.set(f"request/{number}", f"{source.group} {size} {source.version}")
        tensors = json.loads(store.get(f"{source.group}/tensors"))
        if isinstance(tensors, str):  # the sender refuses, and this is the reason
            raise RuntimeError(f"no weights from {source.host}:{source.port}: {tensors}")
        members = _process_group(source.backend, PrefixStore(source.group, store), rank + 1, size, limit)
        for name, dtype, shape in tensors:
            tensor = torch.empty(shape, dtype=getattr(torch, dtype), device=self.device)
            members.broadcast(tensor, 0).wait()
            yield name, tensor
        if self.device.type != "cpu":
            torch.accelerator.synchronize(self.device)
        store.set(f"{source.group}/done/{rank + 1}", "")

    def _load_files(self, source: Source) -> None:
        """Load the tensors of all safetensors files in a directory.

        Raises:
            FileNotFoundError: the directory has no safetensors files.
        """
        files = sorted(Path(source.path).glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{source.path} has no safetensors files")
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                self.model.load_weights((name, tensors.get_tensor(name).to(self.device)) for name in names)

    def finish_weight_update(self) -> None:
        """Finish the reload. On a CPU, pack the output head again."""
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Do nothing. vLLM requires this method."""


def _process_group(backend: str, store: PrefixStore, rank: int, size: int, limit: timedelta) -> Any:
    """Returns a new process group that is separate from vLLM's process groups."""
    if backend == "gloo":
        return dist.ProcessGroupGloo(store, rank, size, limit)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = limit
    return dist.ProcessGroupNCCL(store, rank, size, options)


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, VersionsEngine)


class Extension:
    """An empty class. vLLM's option `--worker-extension-cls` names this class, so vLLM imports this module. The import
    registers `VersionsEngine`.
    """
