"""An environment's texts do not change while its version stays the same."""

import json

import pytest
from support.environments import golden_transcripts as golden

from arlarena.environment.registry import installed, load


@pytest.mark.parametrize("name", installed())
def test_transcripts_equal_the_recorded_ones(name):
    environment = load("test", name, {})
    path = golden.path_of(environment)
    assert path.exists(), f"{path.name} is missing: run {golden.__file__}"
    assert_as_recorded(golden.transcripts(environment), json.loads(path.read_text()))


def assert_as_recorded(found, recorded, where=""):
    """Whether two messages are equal, except for fields added later, which must have neutral values."""
    if isinstance(recorded, dict):
        assert not any(value for key, value in found.items() if key not in recorded), where
        for key, value in recorded.items():
            assert_as_recorded(found[key], value, f"{where}/{key}")
    elif isinstance(recorded, list):
        assert len(found) == len(recorded), where
        for number, value in enumerate(recorded):
            assert_as_recorded(found[number], value, f"{where}/{number}")
    else:
        assert found == recorded, where
