"""What runs inside vLLM: a weight transfer engine that reads version directories. Imported by vLLM's workers alone.

VLLM's engines for weight updates need a GPU; this one reads safetensors from a directory, on any device, by vLLM's own
steps (layerwise reload). Its CPU backend packs the output head once, and where that is tied to the embedding no reload
reaches it: `finish_weight_update` packs it again, else a push answers 200 and the old head stays in use.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import safe_open
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
class DirectoryInit(WeightTransferInitInfo):
    """Nothing has to be agreed on."""


@dataclass
class Directory(WeightTransferUpdateInfo):
    """Where the new weights are."""

    path: str


class SafetensorsEngine(WeightTransferEngine[DirectoryInit, Directory]):
    """Loads all tensors of a directory's safetensors files."""

    init_info_cls = DirectoryInit
    update_info_cls = Directory

    def init_transfer_engine(self, init_info: DirectoryInit) -> None:
        """Nothing to do."""

    def start_weight_update(self) -> None:
        """Let layers collect what comes."""
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        """As vLLM's, without waiting for a device that a CPU does not have."""
        self.receive_weights(self.parse_update_info(update_info))

    def receive_weights(self, update_info: Directory) -> None:
        """Read the files one after another.

        Raises:
            FileNotFoundError: the directory holds none.
        """
        files = sorted(Path(update_info.path).glob("*.safetensors"))
        if not files:
            raise FileNotFoundError(f"{update_info.path} holds no safetensors file")
        for file in files:
            with safe_open(file, framework="pt") as tensors:
                names = tensors.keys()
                self.model.load_weights((name, tensors.get_tensor(name).to(self.device)) for name in names)

    def finish_weight_update(self) -> None:
        """Put the layers back together, and pack tied heads again."""
        finalize_layerwise_reload(self.model, self.model_config)
        if current_platform.is_cpu():
            for module in self.model.modules():
                if isinstance(module, ParallelLMHead):
                    module.quant_method.process_weights_after_loading(module)

    def shutdown(self) -> None:
        """Nothing is held."""


if BACKEND not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine(BACKEND, SafetensorsEngine)


class Extension:
    """What vLLM mixes into its worker class; importing this module was all there was to do."""
