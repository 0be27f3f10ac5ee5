"""Opens the catalogue of a table of options, and builds it if it is small."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

from arlarena.environments.webshop.catalogue import official
from arlarena.environments.webshop.catalogue.build import CatalogueFacts, Item, Meta, build_folder
from arlarena.environments.webshop.catalogue.cache import ensure_built, folder_of, is_built, key_of_files
from arlarena.environments.webshop.catalogue.nouns import NounFinder
from arlarena.environments.webshop.catalogue.problems import DataProblems
from arlarena.environments.webshop.catalogue.protocol import Catalogue
from arlarena.environments.webshop.catalogue.store import GoalSource, StoredCatalogue, check_goals
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.settings import webshop_data
from arlarena.environments.webshop.shop.product import Product

MOST_BUILT_BY_SERVER = 20_000  # products of official files: a minute with spaCy
BUILD = "python -m arlarena.environments.webshop build"


class CatalogueOptions(Protocol):
    """The options that decide which catalogue is opened; see `options.WebShopOptions`."""

    @property
    def data(self) -> Path | None: ...  # noqa: D102
    @property
    def index(self) -> Path | None: ...  # noqa: D102
    @property
    def products(self) -> int | None: ...  # noqa: D102
    @property
    def goals(self) -> official.GoalKind: ...  # noqa: D102

    def generated(self) -> GeneratedOptions:
        """Return the options of our own catalogue."""
        ...


class Generated(Protocol):
    """Our own catalogue, as `generated.catalogue.generated` returns it.

    `key`: text that is equal only for equal products and goals. `code`: hash of the code that makes them.
    """

    key: str
    code: str
    description: str

    def items(self) -> Iterable[Item]:
        """Return the products, with instructions if `goals` returns None."""
        ...

    def goals(self, product: Callable[[int], Product]) -> GoalSource | None:
        """Return the goals, given access to products by number. None: the goals are those of the instructions."""
        ...


def open_catalogue(options: CatalogueOptions) -> Catalogue:
    """Return the catalogue of the options.

    Official files are those of the option `data`, or of WEBSHOP_DATA. Without files, but with an `index`, what was
    built there is opened. Without both, our own catalogue is used.

    Raises:
        CatalogueError: a file is missing or damaged, or the catalogue is too large to be built by a server.
    """
    data = options.data or webshop_data()
    if data is not None:
        return _official(data, options)
    if options.index and (options.index.expanduser() / "meta.json").is_file():
        built = StoredCatalogue(options.index.expanduser())
        if built.meta.official is not False:
            return _with_goals(built)
    return _generated(options)


def build_official(data: Path, options: CatalogueOptions, most: int | None = None) -> Path:
    """Build the catalogue of official files unless it is built. Returns its folder.

    `most`: refuse to build a catalogue of more products.

    Raises:
        CatalogueError: see `open_catalogue`.
    """
    files = official.find_files(data.expanduser(), options.goals)
    key = key_of_files(files.all(), options.goals, options.products)
    folder = folder_of(options.index, key)
    if is_built(folder, key):
        return folder
    limited = options.products is not None and most is not None and options.products <= most
    if most is not None and not limited and official.has_more_products(files, most):
        command = " ".join([BUILD, *_arguments(data, options)])
        raise CatalogueError(
            f"{files.products}: has more than {most:,} products, so that building its index takes too long for a "
            f"server's start. Build it once: {command}"
        )
    ensure_built(folder, key, partial(_build, files, key, options))
    return folder


def _build(files: official.OfficialFiles, key: str, options: CatalogueOptions, folder: Path) -> Meta:
    problems = DataProblems()
    items = official.read_items(files, options.goals, problems, options.products)
    described = official.description(files, options.goals)
    facts = CatalogueFacts(key, described, official.is_official(files), "official")
    return build_folder(folder, items, facts, problems=problems, nouns=NounFinder(), total=options.products)


def _official(data: Path, options: CatalogueOptions) -> StoredCatalogue:
    return _with_goals(StoredCatalogue(build_official(data, options, MOST_BUILT_BY_SERVER)))


def _with_goals(catalogue: StoredCatalogue) -> StoredCatalogue:
    check_goals(
        catalogue,
        'their asins must occur in items_ins_v2*.json for goals = "synthetic", '
        'and in items_human_ins.json for goals = "human"',
    )
    return catalogue


def _generated(options: CatalogueOptions) -> StoredCatalogue:
    from arlarena.environments.webshop.generated.catalogue import generated  # imported here: word lists take memory

    return open_generated(generated(options.generated()), options.index)


def open_generated(source: Generated, index: Path | None) -> StoredCatalogue:
    """Return our own catalogue. It is built if it is absent.

    Raises:
        CatalogueError: `index` is of another catalogue, or cannot be written.
    """
    key = key_of_files((), source.key, source.code)
    folder = folder_of(index, key)
    facts = CatalogueFacts(key, source.description, False, "hash")
    ensure_built(folder, key, lambda target: build_folder(target, source.items(), facts))
    return StoredCatalogue(folder, source.goals, source.key)


def _arguments(data: Path, options: CatalogueOptions) -> list[str]:
    given = {"--data": data, "--index": options.index, "--products": options.products, "--goals": options.goals}
    return [f"{flag} {value}" for flag, value in given.items() if value is not None]
