"""Runs the learner's methods on several ranks: rank 0 broadcasts each call, and every rank executes it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import msgspec
import numpy as np
from torch import Tensor
from transformers import PreTrainedModel

from arlarena.trainer.batching.packing import TrainingSample
from arlarena.trainer.learning.learner import Learner
from arlarena.trainer.learning.ranks import Ranks
from arlarena.trainer.learning.row_figures import RowFigures
from arlarena.trainer.objectives import Recipe


class RankCall(msgspec.Struct, array_like=True):
    """A call that all ranks execute: a method of the learner, and the arguments in MessagePack."""

    method: str
    arguments: msgspec.Raw


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.tobytes()]
    raise TypeError(f"{type(value).__name__} cannot be sent to the other ranks")


def _unpack(kind: type, value: Any) -> Any:
    if kind is np.ndarray or getattr(kind, "__origin__", None) is np.ndarray:
        return np.frombuffer(value[1], dtype=value[0])
    raise TypeError(f"{kind} cannot be decoded from a message of rank 0")


# The argument types of the learner's methods. "stop" ends `worker_loop`.
_ARGUMENTS: dict[str, Any] = {
    "update": tuple[list[list[TrainingSample]], float, list[list[int]]],
    "mean_entropies": tuple[list[TrainingSample]],
    "log_probs": tuple[list[int], list[int]],
    "weights": tuple[()],
    "optimizer_state": tuple[()],
    "stop": tuple[()],
}


class Coordinator:
    """Wraps the learner of rank 0. All ranks execute each call together."""

    def __init__(self, learner: Learner) -> None:
        """Wrap the learner of rank 0. All other ranks must run `worker_loop`."""
        self._learner, self._ranks = learner, learner.ranks
        self._busy = False

    @property
    def recipe(self) -> Recipe:
        """The method of the run."""
        return self._learner.recipe

    @property
    def policy(self) -> PreTrainedModel:
        """The model that is trained. The parameters may be sharded."""
        return self._learner.policy

    @property
    def skipped_minibatches(self) -> list[int]:
        """The indices of the minibatches that the newest `update` skipped (loss or gradient not finite)."""
        return self._learner.skipped_minibatches

    @property
    def row_figures(self) -> list[dict[int, RowFigures]]:
        """The figures that the newest `update` recorded: for each minibatch, figures by `TrainingSample.number`."""
        return self._learner.row_figures

    def update(
        self, minibatches: Sequence[Sequence[TrainingSample]], rate: float, recorded: Sequence[Sequence[int]] = ()
    ) -> dict[str, float]:
        """Call `Learner.update` on all ranks."""
        rows, chosen = [list(rows) for rows in minibatches], [list(each) for each in recorded]
        result: dict[str, float] = self._call_all("update", rows, rate, chosen)
        return result

    def mean_entropies(self, rows: Sequence[TrainingSample]) -> list[float]:
        """Call `Learner.mean_entropies` on all ranks."""
        result: list[float] = self._call_all("mean_entropies", list(rows))
        return result

    def log_probs(self, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """Call `Learner.log_probs` on all ranks."""
        result: list[float] = self._call_all("log_probs", list(prompt), list(response))
        return result

    def weights(self) -> dict[str, Tensor]:
        """Call `Learner.weights` on all ranks."""
        result: dict[str, Tensor] = self._call_all("weights")
        return result

    def optimizer_state(self) -> dict[str, Tensor]:
        """Call `Learner.optimizer_state` on all ranks."""
        result: dict[str, Tensor] = self._call_all("optimizer_state")
        return result

    def stop(self) -> None:
        """End `worker_loop` on the other ranks.

        If a call has failed on this rank, nothing is sent, because the other ranks are still executing that call. The
        other ranks then end together with this process.
        """
        if not self._busy:
            self._send("stop")

    def _call_all(self, method: str, *arguments: Any) -> Any:
        self._busy = True
        self._send(method, *arguments)
        result = getattr(self._learner, method)(*arguments)
        self._busy = False
        return result

    def _send(self, method: str, *arguments: Any) -> None:
        if self._ranks.count > 1:
            raw = msgspec.Raw(msgspec.msgpack.encode(arguments, enc_hook=_pack))
            self._ranks.broadcast(msgspec.msgpack.encode(RankCall(method, raw)))


def worker_loop(learner: Learner, ranks: Ranks) -> None:
    """Execute the calls of rank 0 until rank 0 sends "stop"."""
    while True:
        call = msgspec.msgpack.decode(ranks.broadcast(), type=RankCall)
        if call.method == "stop":
            return
        kind = _ARGUMENTS[call.method]
        arguments = msgspec.msgpack.decode(call.arguments, type=kind, dec_hook=_unpack)
        getattr(learner, call.method)(*cast(Sequence[Any], arguments))
