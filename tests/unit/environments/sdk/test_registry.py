"""Names without an environment: each error names the module and the fix, without a stack trace."""

import json
import os
from importlib.metadata import EntryPoint

import pytest
from support.processes import forking_support

from arlarena.environment import registry
from arlarena.proto.config import ConfigError

GUESS = "from arlarena.environments.guess.environment import GuessEnvironment\n"
# (text of a module, expected error)
MODULES = {
    "other_arguments": ("def load(path): ...", "not an environment, because its `load` does not take (where, options)"),
    "no_function": ("load = 3", "not an environment, because its `load` does not take (where, options)"),
    "nothing": ("value = 1", "the module has no function load; installed: "),
    "returns_none": ("def load(where, options): ...", "it returns NoneType, which lacks info, blocking, task, start"),
    "returns_class": (
        GUESS + "def load(where, options): return GuessEnvironment",
        "it returns the class GuessEnvironment: return an instance of the class",
    ),
    "odd_info": (
        "class A:\n  info = blocking = task = start = 0\ndef load(where, options): return A()",
        "the `info` of A is int, not arlarena.proto.env_api.Info",
    ),
    "no_name": (
        "from arlarena.environment.text_game import TextEnvironment\n"
        "class A(TextEnvironment):\n  def game(self, task): ...\ndef load(where, options): return A()",
        "failed: AttributeError: 'A' object has no attribute 'name'",
    ),
    "fails": ("def load(where, options):\n  return 1 / 0", "failed: ZeroDivisionError: division by zero ("),
    "syntax": ("def load(where options): ...", "cannot be imported: SyntaxError: "),
    "value": ("raise ValueError('bad table')", "cannot be imported: ValueError: bad table ("),
    "exits": ("import sys; sys.exit(0)", "cannot be imported: SystemExit: 0"),
    "lacks": ("import not_there", "cannot be imported: ModuleNotFoundError: No module named 'not_there'"),
}


@pytest.mark.parametrize("kind", MODULES)
def test_a_module_that_is_not_an_environment_is_explained(tmp_path, monkeypatch, kind):
    text, said = MODULES[kind]
    name = f"outside_{kind}"
    (tmp_path / f"{name}.py").write_text(text + "\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError) as caught:
        registry.load("run.toml: [environment]", name, {})
    assert str(caught.value).startswith(f"run.toml: [environment] name = '{name}': ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("json", "not an environment, because its `load` does not take (where, options)"),
        ("numpy", "failed: FileNotFoundError: "),
        ("sokobn", "unknown environment; did you mean 'sokoban'?"),
        ("tir-math", "unknown environment; did you mean 'tir_math'?"),
        ("./my_game.py", "unknown environment; installed: "),
        ("no_such_package.game", "unknown environment; installed: "),
        (".game", "unknown environment; installed: "),
    ],
)
def test_an_unknown_name_is_explained(name, said):
    with pytest.raises(ConfigError) as caught:
        registry.load("[environment]", name, {})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("removed_package.game:load", "No module named 'removed_package'"),
        ("arlarena.environments.guess.environment:loader", "has no attribute 'loader'"),
    ],
)
def test_an_entry_point_without_its_function_is_explained(monkeypatch, value, said):
    point = EntryPoint("gone", value, registry.GROUP)
    monkeypatch.setattr(registry, "installed", lambda: {"gone": point})
    with pytest.raises(ConfigError) as caught:
        registry.load("[environment]", "gone", {})
    assert said in str(caught.value)
    assert str(caught.value).endswith(
        f"; the entry point refers to {value}: install the distribution of this entry point again"
    )


def test_a_modules_prints_do_not_reach_stdout(tmp_path):
    (tmp_path / "talkative.py").write_text(
        f"print('imported')\n{GUESS}\ndef load(where, options):\n  print('loaded')\n  return GuessEnvironment()\n"
    )
    (tmp_path / "run.toml").write_text('[environment]\nname = "talkative"\n')
    variables = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = forking_support.run(["arlarena.env_server.describe", "run.toml"], cwd=tmp_path, env=variables)
    assert json.loads(done.stdout)["name"] == "talkative"
    assert done.stderr.split() == ["imported", "loaded"]
