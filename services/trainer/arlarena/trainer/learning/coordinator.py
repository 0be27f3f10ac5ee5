"""A learner on several ranks, called as if it were one: rank 0 says what is to be done, and all do it."""

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
from arlarena.trainer.objectives import Recipe


class Order(msgspec.Struct, array_like=True):
    """What all ranks do next: a method of the learner and its arguments."""

    method: str
    arguments: msgspec.Raw


def _pack(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [value.dtype.str, value.tobytes()]
    raise TypeError(f"{type(value).__name__} cannot be sent to the other ranks")


def _unpack(kind: type, value: Any) -> Any:
    if kind is np.ndarray or getattr(kind, "__origin__", None) is np.ndarray:
        return np.frombuffer(value[1], dtype=value[0])
    raise TypeError(f"{kind} cannot be received")


# What each order's arguments are.
_ARGUMENTS: dict[str, Any] = {
    "update": tuple[list[list[TrainingSample]], float],
    "mean_entropies": tuple[list[TrainingSample]],
    "log_probs": tuple[list[int], list[int]],
    "weights": tuple[()],
    "optimizer_state": tuple[()],
    "stop": tuple[()],
}


class Coordinator:
    """Rank 0's learner: each call is carried out by all ranks."""

    def __init__(self, learner: Learner) -> None:
        """The others `worker_loop`."""
        self._learner, self._ranks = learner, learner.ranks
        self._busy = False

    @property
    def recipe(self) -> Recipe:
        """The method."""
        return self._learner.recipe

    @property
    def policy(self) -> PreTrainedModel:
        """The model being trained; its parameters may be sharded."""
        return self._learner.policy

    @property
    def skipped(self) -> list[int]:
        """Numbers of the minibatches that the last `update` skipped, see `Learner.update`."""
        return self._learner.skipped

    def update(self, minibatches: Sequence[Sequence[TrainingSample]], rate: float) -> dict[str, float]:
        """See `Learner.update`."""
        found: dict[str, float] = self._together("update", [list(rows) for rows in minibatches], rate)
        return found

    def mean_entropies(self, rows: Sequence[TrainingSample]) -> list[float]:
        """See `Learner.mean_entropies`."""
        found: list[float] = self._together("mean_entropies", list(rows))
        return found

    def log_probs(self, prompt: Sequence[int], response: Sequence[int]) -> list[float]:
        """See `Learner.log_probs`."""
        found: list[float] = self._together("log_probs", list(prompt), list(response))
        return found

    def weights(self) -> dict[str, Tensor]:
        """See `Learner.weights`."""
        found: dict[str, Tensor] = self._together("weights")
        return found

    def optimizer_state(self) -> dict[str, Tensor]:
        """See `Learner.optimizer_state`."""
        found: dict[str, Tensor] = self._together("optimizer_state")
        return found

    def stop(self) -> None:
        """Let the others go. After a call that failed they are somewhere else, and end with this process."""
        if not self._busy:
            self._order("stop")

    def _together(self, method: str, *arguments: Any) -> Any:
        self._busy = True
        self._order(method, *arguments)
        found = getattr(self._learner, method)(*arguments)
        self._busy = False
        return found

    def _order(self, method: str, *arguments: Any) -> None:
        if self._ranks.count > 1:
            raw = msgspec.Raw(msgspec.msgpack.encode(arguments, enc_hook=_pack))
            self._ranks.broadcast(msgspec.msgpack.encode(Order(method, raw)))


def worker_loop(learner: Learner, ranks: Ranks) -> None:
    """Do what rank 0 does, until it says stop."""
    while True:
        order = msgspec.msgpack.decode(ranks.broadcast(), type=Order)
        if order.method == "stop":
            return
        kind = _ARGUMENTS[order.method]
        arguments = msgspec.msgpack.decode(order.arguments, type=kind, dec_hook=_unpack)
        getattr(learner, order.method)(*cast(Sequence[Any], arguments))
