"""An environment says the same as ever while it keeps its version."""

import importlib.util
import json
from pathlib import Path

import pytest

from arlarena.environment.registry import installed, load

_spec = importlib.util.spec_from_file_location("golden_transcripts", Path(__file__).parent / "golden_transcripts.py")
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)


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
