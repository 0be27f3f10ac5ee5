"""Turns with random tokens, for benchmarks. Random token ids do not affect the speed."""

from __future__ import annotations

from typing import Any

import numpy as np

from arlarena.proto.trajectory import PolicyVersion, Turn, VersionSpan, pack_floats, pack_ids


def random_turn(
    numbers: np.random.Generator, version: PolicyVersion, prompt: int, response: int, /, **fields: Any
) -> Turn:
    """Returns a valid turn with `prompt` new prompt tokens and `response` sampled tokens.

    Args:
        numbers: source of the random values.
        version: the policy version that sampled the response.
        prompt: number of new prompt tokens.
        response: number of sampled tokens.
        fields: values of further fields, for example `observation`. They replace the default values of this function.
    """
    given: dict[str, Any] = {
        "new_prompt_ids": pack_ids(numbers.integers(0, 150_000, prompt)),
        "response_ids": pack_ids(numbers.integers(0, 150_000, response)),
        "logprobs": pack_floats(-numbers.random(response)),
        "loss_mask": b"\1" * response,
        "spans": (VersionSpan(0, response, version),),
        "reward": 0.0,
        "state_key": numbers.bytes(16).hex(),
        "observation_key": numbers.bytes(16).hex(),
        "action_valid": True,
        "format_valid": True,
        "finish_reason": "stop",
    }
    return Turn(**given | fields)
