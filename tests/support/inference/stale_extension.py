"""A vLLM extension with the same fault as vLLM's own reload on CPUs: the tied output head keeps the old weights."""

from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload

from arlarena.inference.vllm.extension import VersionsEngine


class Stale(VersionsEngine):
    def finish_weight_update(self):
        finalize_layerwise_reload(self.model, self.model_config)


if "stale" not in WeightTransferEngineFactory._registry:
    WeightTransferEngineFactory.register_engine("stale", Stale)


class Extension:
    """An empty class that vLLM adds to its worker class."""
