"""Every field of a result that the contract constrains is checked and named."""

import numpy as np
import pytest

from arlarena.env_server.errors import ApiError
from arlarena.env_server.sessions.result_check import check_result
from arlarena.proto.env_api import Metadata, Observation, StepResult


def result(**changes):
    made = StepResult(Observation("text", "prompt", 1, 2), 0.5, False, Metadata("t/train/0", "s", "o"))
    for path, value in changes.items():
        *parents, name = path.split("__")
        owner = made
        for parent in parents:
            owner = getattr(owner, parent)
        setattr(owner, name, value)
    return made


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"observation__text": None}, "observation.text must be a str, but is None"),
        ({"observation__text": b"bytes"}, "observation.text must be a str, but is b'bytes'"),
        ({"observation__prompt": 3}, "observation.prompt must be a str, but is 3 (int)"),
        ({"observation__terminated": np.bool_(True)}, "observation.terminated must be a bool"),
        ({"observation__truncated": None}, "observation.truncated must be a bool"),
        ({"done": 1}, "done must be a bool, but is 1 (int)"),
        ({"metadata__score": -0.1}, "score must be a number from 0 to 1, but is -0.1"),
        ({"metadata__score": None}, "score must be a number from 0 to 1, but is None"),
        ({"metadata__success": None}, "success must be a bool, but is None"),
        ({"reward": "x" * 500}, "reward must be a finite number, but is 'xxx"),
        ({"reward": float("-inf")}, "reward must be a finite number, but is -inf (float)"),
    ],
)
def test_a_field_against_the_contract_is_named(changes, named):
    with pytest.raises(ApiError) as caught:
        check_result("odd/train/0", result(**changes), stepped=True)
    error = caught.value
    assert f"odd/train/0: the environment's {named}" in error.message
    assert (error.status, error.code, error.blame, error.retryable) == (500, "invalid_result", "infra", False)
    assert len(error.message) < 200


def test_a_reset_needs_no_reward_but_a_step_does():
    assert check_result("t", result(reward=None), stepped=False).reward is None
    with pytest.raises(ApiError, match="reward must be a finite number, but is None"):
        check_result("t", result(reward=None), stepped=True)


def test_numbers_of_numpy_become_floats_that_can_be_sent():
    checked = check_result("t", result(reward=np.float32(0.25), metadata__score=np.float64(1)), stepped=True)
    assert [type(value) for value in (checked.reward, checked.metadata.score)] == [float, float]
    assert (checked.reward, checked.metadata.score) == (0.25, 1.0)


def test_a_result_without_metadata_is_the_environments_choice():
    assert check_result("t", result(metadata=None), stepped=True).metadata is None
