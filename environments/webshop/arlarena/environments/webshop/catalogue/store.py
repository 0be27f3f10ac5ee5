"""A built catalogue in a folder. Opening takes milliseconds, and processes share the mapped files."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np

from arlarena.environment.hashing import digest
from arlarena.environments.webshop.catalogue.build import FORMAT, Meta
from arlarena.environments.webshop.catalogue.goals import StoredInstruction, goal
from arlarena.environments.webshop.catalogue.splits import NAMES
from arlarena.environments.webshop.catalogue.tables import RecordTable, SortedTexts, damaged, open_array
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.search.index import Index
from arlarena.environments.webshop.shop.goal import Goal
from arlarena.environments.webshop.shop.product import Listing, Product
from arlarena.proto.env_api import DataSource

CACHED_PRODUCTS = 1024  # maximum number of decoded products in memory, about 10 MB


class _Format(msgspec.Struct):
    """The field of meta.json that all formats have."""

    format: int


def read_meta(folder: Path) -> Meta:
    """Return the content of meta.json.

    Raises:
        CatalogueError: the file is missing, damaged, or of another format.
    """
    path = folder / "meta.json"
    try:
        content = path.read_bytes()
        found = msgspec.json.decode(content, type=_Format).format
        if found != FORMAT:  # before the other fields are read, because another format may have other fields
            raise damaged(path, f"has format {found}, and this version reads format {FORMAT}")
        return msgspec.json.decode(content, type=Meta)
    except OSError as error:
        raise damaged(path, error.strerror or "cannot be read") from error
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise damaged(path, f"is damaged ({error})") from error


class GoalSource(Protocol):
    """Goals that are computed and not stored."""

    def sizes(self) -> dict[str, int]:
        """Return the number of goals of each split."""
        ...

    def goal(self, split: str, index: int) -> Goal:
        """Return a goal. Raises IndexError if the split has fewer goals."""
        ...


class StoredCatalogue:
    """The catalogue of a folder. Implements `protocol.Catalogue`."""

    def __init__(
        self,
        folder: Path,
        goals: Callable[[Callable[[int], Product]], GoalSource | None] | None = None,
        goals_key: str = "",
    ) -> None:
        """Open the folder.

        Args:
            folder: a folder that `build.build_folder` has written.
            goals: returns the source of computed goals. It gets a function that returns a product by its number. If
                `goals` is None or returns None, the goals in the folder are used.
            goals_key: a text that is equal only for equal computed goals.

        Raises:
            CatalogueError: a file is missing or damaged. The message names the file.
        """
        self.folder, self.meta = folder, read_meta(folder)
        # The hash of the content does not cover computed goals, but `goals_key` does.
        self.version = digest(self.meta.content + goals_key) if goals else self.meta.content
        self.warnings = self.meta.warnings
        self._products = RecordTable(folder, "products", Product)
        self._listings = msgspec.msgpack.Decoder(Listing)  # skips the other fields of a product
        self._instructions = RecordTable(folder, "instructions", StoredInstruction)
        self._asins = SortedTexts(folder, "asins")
        self._asin_numbers = open_array(folder, "asin_numbers", np.int32)
        self._goals = open_array(folder, "goals", np.int64, dimensions=2)
        self._splits = {name: open_array(folder, name, np.int64) for name in NAMES}
        self._index = Index(folder)
        self._check_sizes()
        self._product = lru_cache(maxsize=CACHED_PRODUCTS)(self._products.__getitem__)
        self._computed = goals(self.product) if goals else None

    def _check_sizes(self) -> None:
        count = self.meta.products
        sizes = {
            "products.bin": len(self._products),
            "asins.bin": len(self._asins),
            "asin_numbers.npy": len(self._asin_numbers),
            "rows.npy": self._index.documents,
        }
        for name, size in sizes.items():
            if size != count:
                raise damaged(self.folder / name, f"has {size} products instead of {count}")
        for name in NAMES:
            if len(self._splits[name]) != self.meta.goals.get(name):
                expected = self.meta.goals.get(name)
                raise damaged(self.folder / f"{name}.npy", f"has {len(self._splits[name])} goals instead of {expected}")

    def __len__(self) -> int:
        """Return the number of products."""
        return self.meta.products

    def product(self, number: int) -> Product:
        """Return a product. Raises IndexError if there is no product with this number."""
        return self._product(number)

    def listing(self, number: int) -> Listing:
        """Return the fields of a product that a results page shows. Raises IndexError if there is no product with this
        number.
        """
        return self._products.decoded(number, self._listings)

    def number(self, asin: str) -> int | None:
        """Return the number of the product with this asin (product id). Return None if there is no such product."""
        place = self._asins.find(asin)
        return None if place is None else int(self._asin_numbers[place])

    def search(self, text: str) -> list[int]:
        """Return the numbers of the best products for a text, best first, at most 50."""
        return self._index.search(text)

    def sizes(self) -> dict[str, int]:
        """Return the number of goals of each split."""
        return self._computed.sizes() if self._computed else dict(self.meta.goals)

    def goal(self, split: str, index: int) -> Goal:
        """Return a goal.

        Raises:
            IndexError: the split has fewer goals.
            KeyError: there is no such split.
        """
        if self._computed:
            return self._computed.goal(split, index)
        members = self._splits[split]
        if not 0 <= index < len(members):
            raise IndexError(index)
        instruction, combination = map(int, self._goals[members[index]])
        record = self._instructions[instruction]
        return goal(record, self.product(record.product), combination)

    def source(self) -> DataSource:
        """Describe the data for `/v1/info`."""
        return DataSource(self.meta.description, self.meta.official)


def check_goals(catalogue: StoredCatalogue, fix: str) -> None:
    """Check that the catalogue has a goal. `fix`: the last part of the error message. It says what the official files
    must contain.

    Raises:
        CatalogueError: there is no goal.
    """
    if not any(catalogue.sizes().values()):
        raise CatalogueError(f"{catalogue.meta.description}: no product has an instruction; {fix}")
