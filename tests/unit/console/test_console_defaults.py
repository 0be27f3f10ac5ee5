"""Defaults of flags are those of the settings."""

import argparse

import pytest
from pydantic import BaseModel
from support.console.parsers_support import parser_of, parsers

from arlarena.env_server.settings import EnvironmentSettings
from arlarena.inference.settings import InferenceSettings
from arlarena.trainer import settings as trainer


@pytest.mark.parametrize(("service", "model"), [("env_server", EnvironmentSettings), ("inference", InferenceSettings)])
def test_defaults_in_help_texts_are_those_of_the_settings(
    service: str, model: type[BaseModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", [service])
    for action in parser_of(service, monkeypatch)._actions:
        if action.help and action.help != argparse.SUPPRESS and "(default " in action.help:
            assert f"(default {model.model_fields[action.dest].default})" in action.help


def test_flags_of_the_recording_have_the_defaults_of_clone(monkeypatch: pytest.MonkeyPatch) -> None:
    (recording,) = (p for p in parsers(parser_of("rollout", monkeypatch)) if p.prog.endswith(" demonstrate"))
    flags = {action.dest: action.default for action in recording._actions}
    fields = trainer.CloneSettings.model_fields
    shared = flags.keys() & fields.keys()
    assert "min_score" in shared
    for key in shared:
        assert flags[key] == fields[key].default, key
