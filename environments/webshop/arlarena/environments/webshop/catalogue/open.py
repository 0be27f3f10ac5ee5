"""Opens the catalogue that the options select. If the catalogue is absent and small, it is built first.

The *generated catalogue* has products and goals that this package makes up. It is used if there are no official files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Protocol

from arlarena.environments.webshop.catalogue import official
from arlarena.environments.webshop.catalogue.build import BuildProgress, CatalogueFacts, Item, Meta, build_folder
from arlarena.environments.webshop.catalogue.cache import ensure_built, folder_of, has_meta, is_built, key_of_files
from arlarena.environments.webshop.catalogue.json_stream import ReadPosition
from arlarena.environments.webshop.catalogue.nouns import NounFinder, NounJournal
from arlarena.environments.webshop.catalogue.problems import DataProblems
from arlarena.environments.webshop.catalogue.store import GoalSource, StoredCatalogue, check_goals
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.settings import webshop_data
from arlarena.environments.webshop.shop.product import Product

# A server builds the index of official files only if they have at most this number of products. With spaCy, this takes
# a minute.
MAX_BUILT_BY_SERVER = 20_000
# Version of the rules by which official files are read. Folders that other rules have built are not used.
READER = 2
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
        """Return the options of the generated catalogue."""
        ...


class Generated(Protocol):
    """The generated catalogue, as `generated.catalogue.generated` returns it.

    `key`: a text that is equal only for equal products and goals. `code`: the hash of the code that makes the products
    and goals.
    """

    key: str
    code: str
    description: str

    def items(self) -> Iterable[Item]:
        """Return the products. The products have instructions only if `goals` returns None."""
        ...

    def goals(self, product: Callable[[int], Product]) -> GoalSource | None:
        """Return the source of the goals. Return None if the goals follow from the instructions of the products.
        `product`: a function that returns a product by its number.
        """
        ...


def open_catalogue(options: CatalogueOptions) -> StoredCatalogue:
    """Return the catalogue of the options.

    If the option `data` or WEBSHOP_DATA names a folder, return the catalogue of the official files in this folder.
    Otherwise, if the folder `index` contains a built catalogue of official files, return this catalogue. Otherwise,
    return the generated catalogue.

    Raises:
        CatalogueError: a file is missing or damaged, or the catalogue is too large to be built by a server.
    """
    data = options.data or webshop_data()
    if data is not None:
        return _official(data, options)
    if options.index and has_meta(index := folder_of(options.index, "")):
        built = StoredCatalogue(index)
        if built.meta.official is not False:
            return _with_goals(built)
    return _generated(options)


def build_official(data: Path, options: CatalogueOptions, limit: int | None = None) -> Path:
    """Build the catalogue of official files if it is not built yet. Return its folder.

    `limit`: if the catalogue would have more products than this, raise an error and do not build it. None: no limit.

    Raises:
        CatalogueError: a file is missing or damaged, the catalogue would have more products than `limit`, or the folder
            cannot be written or has other content.
    """
    files = official.find_files(data.expanduser(), options.goals)
    key = key_of_files(files.all(), READER, options.goals, options.products)
    folder = folder_of(options.index, key)
    if is_built(folder, key):
        return folder
    limited = options.products is not None and limit is not None and options.products <= limit
    if limit is not None and not limited and official.has_more_products(files, limit):
        command = " ".join([BUILD, *_arguments(data, options)])
        raise CatalogueError(
            f"{files.products}: has more than {limit:,} products, so building its index would delay the server's start "
            f"too long. Build the index once, before the start: {command}"
        )
    ensure_built(folder, key, partial(_build, files, key, options))
    return folder


def _build(files: official.OfficialFiles, key: str, options: CatalogueOptions, folder: Path) -> Meta:
    problems = DataProblems()
    position = ReadPosition()
    items = official.read_items(files, options.goals, problems, options.products, position)
    if options.products is None:
        progress = BuildProgress(files.products.stat().st_size, "B", lambda: position.bytes)
    else:
        progress = BuildProgress(options.products)
    described = official.description(files, options.goals)
    facts = CatalogueFacts(key, described, official.is_official(files), "official")
    # spaCy takes most of the time. If this build is killed, the next build reads the nouns from the journal.
    with NounJournal(folder.with_name(f".{folder.name}.nouns"), NounFinder()) as nouns:
        return build_folder(folder, items, facts, problems=problems, nouns=nouns, progress=progress)


def _official(data: Path, options: CatalogueOptions) -> StoredCatalogue:
    return _with_goals(StoredCatalogue(build_official(data, options, MAX_BUILT_BY_SERVER)))


def _with_goals(catalogue: StoredCatalogue) -> StoredCatalogue:
    check_goals(
        catalogue,
        'the asins of products must occur in items_ins_v2*.json for goals = "synthetic", '
        'and in items_human_ins.json for goals = "human"',
    )
    return catalogue


def _generated(options: CatalogueOptions) -> StoredCatalogue:
    # Imported only when needed, because the module's word lists take memory.
    from arlarena.environments.webshop.generated.catalogue import generated

    return open_generated(generated(options.generated()), options.index)


def open_generated(source: Generated, index: Path | None) -> StoredCatalogue:
    """Return the generated catalogue. If it is absent, it is built.

    Raises:
        CatalogueError: `index` has another catalogue, or cannot be written.
    """
    key = key_of_files((), source.key, source.code)
    folder = folder_of(index, key)
    facts = CatalogueFacts(key, source.description, False, "hash")
    ensure_built(folder, key, lambda target: build_folder(target, source.items(), facts))
    return StoredCatalogue(folder, source.goals, source.key)


def _arguments(data: Path, options: CatalogueOptions) -> list[str]:
    given = {"--data": data, "--index": options.index, "--products": options.products, "--goals": options.goals}
    return [f"{flag} {value}" for flag, value in given.items() if value is not None]
