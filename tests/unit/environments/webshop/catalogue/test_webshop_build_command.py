"""The command `python -m arlarena.environments.webshop build`."""

import pytest
from support.environments.webshop_catalogue_support import FakeNouns, entry, write_official

from arlarena.environments.webshop import __main__ as command
from arlarena.environments.webshop.catalogue import open as open_module


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch, tmp_path):
    monkeypatch.delenv("WEBSHOP_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(open_module, "NounFinder", FakeNouns)


def test_the_build_command_prints_folder_and_warnings(tmp_path, capsys):
    data = write_official(tmp_path / "data", [entry(pricing="?"), entry("B2")])
    assert command.main(["build", "--data", str(data), "--index", str(tmp_path / "index"), "--products", "2"]) == 0
    output = capsys.readouterr()
    assert f"{tmp_path / 'index'}: 2 products; goals: " in output.out
    assert "a price that cannot be read" in output.err


def test_the_build_command_names_what_is_missing(tmp_path, capsys):
    assert command.main(["build"]) == 2
    assert "WEBSHOP_DATA" in capsys.readouterr().err
    assert command.main(["build", "--data", str(tmp_path / "none")]) == 2
    assert "no such folder" in capsys.readouterr().err
