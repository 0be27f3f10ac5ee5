"""Broadcasts the tensors of a version to the workers of policy servers. Each request gets its own process group.

A version is the weights of one training step. A replica (one engine of a policy server) requests a version to load it,
and requests the version again after a restart. A thread of the trainer polls a TCPStore (torch's key-value server) for
requests. `arlarena.proto.versions.directory.Broadcast` describes the keys. The tensors are read from the version
directory, because later optimiser steps do not change this directory.

Requests are not authenticated. Only trainers and policy servers must be able to reach the port of the TCPStore.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import Any, Literal

import msgspec
import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor
from torch.distributed import TCPStore  # type: ignore[attr-defined]
from torch.distributed.distributed_c10d import PrefixStore

from arlarena.proto.telemetry import Logger
from arlarena.proto.versions.directory import MANIFEST_FILE, Broadcast, Manifest, push_limit_s

_POLL_S = 0.01  # time between two checks for a request, in seconds


class Broadcaster:
    """Sends the two newest versions on request.

    A replica is one engine of a policy server. A replica that restarts may still request the second newest version.
    """

    def __init__(self, host: str, backend: Literal["nccl", "gloo"], device: torch.device, log: Logger) -> None:
        """Start the thread and the TCPStore. `host`: address of this trainer. `device`: must be a GPU for nccl."""
        self._host, self._backend, self._device, self._log = host, backend, device, log
        self._store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._offered: deque[tuple[Manifest, Path]] = deque(maxlen=2)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="broadcaster", daemon=True)
        self._thread.start()

    def offer(self, directory: Path) -> Broadcast:
        """Start answering requests for the version in `directory`.

        Returns the message that tells a policy server how to request the version.
        """
        manifest = msgspec.json.decode((directory / MANIFEST_FILE).read_bytes(), type=Manifest)
        self._offered.append((manifest, directory))
        return Broadcast(manifest, self._host, self._store.port, self._backend)

    def close(self) -> None:
        """Stop answering requests."""
        self._closed.set()
        self._thread.join()

    def _run(self) -> None:
        for number in count(1):
            key = f"request/{number}"
            while not self._store.check([key]):
                if self._closed.wait(_POLL_S):
                    return
            try:
                self._answer(*self._store.get(key).decode().split(" "))
            except Exception as error:  # the replica's server reports the error; this thread must answer other requests
                self._log.error("broadcast_failed", request=number, error=repr(error))

    def _answer(self, group: str, size: str, label: str) -> None:
        offered = {manifest.label: (manifest, directory) for manifest, directory in list(self._offered)}
        if label not in offered:
            self._store.set(
                f"{group}/tensors", json.dumps(f"version {label} is not offered; offered: {', '.join(offered)}")
            )
            return
        manifest, directory = offered[label]
        tensors = {
            name: tensor
            for file in sorted(manifest.files)
            if file.endswith(".safetensors")
            for name, tensor in load_file(directory / file).items()
        }
        described = [(name, str(t.dtype).removeprefix("torch."), list(t.shape)) for name, t in tensors.items()]
        self._store.set(f"{group}/tensors", json.dumps(described))
        self._send(tensors, group, int(size), push_limit_s(manifest.bytes))
        self._log.info("broadcast", version=label, receivers=int(size) - 1)

    def _send(self, tensors: dict[str, Tensor], group: str, size: int, limit_s: float) -> None:
        limit = timedelta(seconds=limit_s)
        members = create_process_group(self._backend, PrefixStore(group, self._store), size, limit)
        for tensor in tensors.values():
            members.broadcast(tensor.to(self._device).contiguous(), 0).wait()
        self._store.wait([f"{group}/done/{rank}" for rank in range(1, size)], limit)


def create_process_group(backend: str, store: PrefixStore, size: int, limit: timedelta) -> Any:
    """Create a process group with this process as rank 0, separate from torch's global group of the trainer's ranks."""
    if backend == "gloo":
        return dist.ProcessGroupGloo(store, 0, size, limit)
    options = dist.ProcessGroupNCCL.Options()
    options._timeout = limit
    return dist.ProcessGroupNCCL(store, 0, size, options)
