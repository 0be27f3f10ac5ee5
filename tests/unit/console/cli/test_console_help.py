"""Every help text of every command is printed whole: brackets, per cent signs and all words."""

import argparse
import sys
from collections.abc import Iterator

import pytest
import typer
from support.console.parsers_support import parser_of, parsers
from typer.core import TyperCommand, TyperGroup

from arlarena.console.cli.app import app

COMMANDS = typer.main.get_command(app)
SERVICES = ("env_server", "inference", "rollout", "trainer")
WIDTHS = ("80", "200")


def squeezed(text: str) -> str:
    """Without white space, which depends on the width."""
    return "".join(text.split())


def walk(command: object, name: str) -> Iterator[tuple[str, TyperCommand | TyperGroup]]:
    assert isinstance(command, TyperCommand | TyperGroup)
    yield name, command
    if isinstance(command, TyperGroup):
        for part, child in command.commands.items():
            yield from walk(child, f"{name} {part}")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize(("name", "command"), list(walk(COMMANDS, "arlarena")))
def test_a_command_prints_its_help_whole(
    name: str,
    command: TyperCommand | TyperGroup,
    width: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("COLUMNS", width)
    help_names = ["--help"]  # also for commands that hand --help on
    with pytest.raises(SystemExit):
        command.main(["--help"], prog_name=name, help_option_names=help_names)
    said = squeezed(capsys.readouterr().out)
    texts = [command.help, *(getattr(parameter, "help", None) for parameter in command.params)]
    for text in filter(None, texts):
        assert squeezed(text) in said
    if isinstance(command, TyperGroup):
        for part, child in command.commands.items():
            assert isinstance(child, TyperCommand | TyperGroup)
            first_sentence = (child.help or "").split("\n\n")[0].split(". ")[0].rstrip(".")
            assert squeezed(f"{part} {first_sentence}") in said


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("service", SERVICES)
def test_a_service_prints_its_help_whole(service: str, width: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", width)
    monkeypatch.setattr(sys, "argv", [service])
    for parser in parsers(parser_of(service, monkeypatch)):
        said = squeezed(parser.format_help())
        assert squeezed(parser.description or "") in said
        for action in parser._actions:
            if action.help == argparse.SUPPRESS:
                continue
            text = (action.help or "") % {"default": action.default, "prog": parser.prog}
            assert squeezed(text) in said
