"""`python -m arlarena.environments.webshop build`: build the index of the official files.

`python -m arlarena.environments.webshop human`: serve the shop to people; see `human.command`.

Exit codes of `build`: 0 if the index was built, now or earlier; 2 if the files are missing or invalid.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from arlarena.environments.webshop.catalogue.open import build_official
from arlarena.environments.webshop.catalogue.store import StoredCatalogue
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.human.command import add_parser, run_human
from arlarena.environments.webshop.options import read_options
from arlarena.environments.webshop.settings import webshop_data
from arlarena.proto.config import ConfigError, exit_on_config_error
from arlarena.proto.text.usage_name import program


def parse_arguments(argv: list[str] | None = None) -> argparse.Namespace:
    """Return the parsed command line."""
    parser = argparse.ArgumentParser(prog=program("arlarena.environments.webshop"), description="Tools of WebShop.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the index of the official files; all servers can share it")
    build.add_argument("--data", type=Path, help="folder of the official files; default: WEBSHOP_DATA")
    build.add_argument("--index", type=Path, help="folder to write; default: a folder in ~/.cache/arlarena/webshop")
    build.add_argument("--products", type=int, help="number of products to use, in the order of the file; default: all")
    build.add_argument("--goals", choices=("synthetic", "human"), help="goals to build (default synthetic)")
    add_parser(commands)
    return parser.parse_args(argv)


def build_index(arguments: argparse.Namespace) -> int:
    """Build the index, and print its folder, its sizes and the warnings.

    Raises:
        ConfigError: the files are missing or invalid.
    """
    names = ("data", "index", "products", "goals")
    given = {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
    options = read_options("build", given)
    data = options.data or webshop_data()
    if data is None:
        raise ConfigError("name the folder of the official files with --data or with WEBSHOP_DATA")
    try:
        folder = build_official(data, options)
        catalogue = StoredCatalogue(folder)
    except CatalogueError as error:
        raise ConfigError(str(error)) from error
    for warning in catalogue.warnings:
        print(f"warning: {warning}", file=sys.stderr)
    sizes = ", ".join(f"{size:,} {name}" for name, size in catalogue.sizes().items())
    print(f"{folder}: {len(catalogue):,} products; goals: {sizes}")
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run a command. Returns the exit code."""
    arguments = parse_arguments(argv)
    return exit_on_config_error(lambda: (run_human if arguments.command == "human" else build_index)(arguments))


if __name__ == "__main__":
    sys.exit(main())
