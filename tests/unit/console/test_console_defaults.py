"""A key that several services read has one default."""

import argparse

import pytest
from pydantic import BaseModel
from support.console.parsers_support import parser_of, parsers

from arlarena.console import settings as console
from arlarena.env_server.settings import EnvironmentSettings
from arlarena.inference.settings import InferenceSettings
from arlarena.rollout import settings as rollout
from arlarena.trainer import settings as trainer
from arlarena.trainer.policy_settings import PolicySettings

# Who reads a table besides its owner, which is the last one.
READERS: dict[str, tuple[type[BaseModel], ...]] = {
    "run": (trainer.RunIdentity, rollout.RunSeed, console.RunSettings),
    "clone": (console.Demonstrations, trainer.CloneSettings),
    "environment": (console.Subject, trainer.EnvironmentName, EnvironmentSettings),
    "trainer": (console.Subject, console.ChosenPlugins, trainer.TrainerSettings),
    "policy": (console.Subject, rollout.PolicyTokenizer, PolicySettings),
}
# The launcher takes a free port, a service by itself its usual one (docs/how-to/run-on-one-machine.md).
DIFFERENT = {"port"}


@pytest.mark.parametrize("table", READERS)
def test_a_key_has_the_same_default_wherever_it_is_read(table: str) -> None:
    *others, owner = READERS[table]
    compared = 0
    for model in others:
        for key in (model.model_fields.keys() & owner.model_fields.keys()) - DIFFERENT:
            compared += 1
            assert model.model_fields[key].default == owner.model_fields[key].default, f"[{table}] {key} in {model}"
    assert compared > 0


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
