"""An environment says the same as ever while it keeps its version."""

import json

import pytest
from support.environments import golden_transcripts as golden

from arlarena.environment.registry import installed, load


@pytest.mark.parametrize("name", installed())
def test_transcripts_are_those_of_this_version(name):
    environment = load("test", name, {})
    path = golden.path_of(environment)
    assert path.exists(), f"{path.name} is missing: run {golden.__file__}"
    assert_as_recorded(golden.transcripts(environment), json.loads(path.read_text()))


def assert_as_recorded(found, recorded, where=""):
    """The same, but for fields that the wire has gained since: those must say nothing."""
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
