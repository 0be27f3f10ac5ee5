"""The interface of catalogues that episodes use."""

from __future__ import annotations

from typing import Protocol

from arlarena.environments.webshop.shop.goal import Goal
from arlarena.environments.webshop.shop.product import Listing, Product
from arlarena.proto.env_api import DataSource


class Catalogue(Protocol):
    """Products with goals and a search. A product is identified by its number, from 0. All methods are thread-safe."""

    version: str  # changes whenever a task or a transcript may change

    def __len__(self) -> int:
        """Return the number of products."""
        ...

    def product(self, number: int) -> Product:
        """Return a product."""
        ...

    def listing(self, number: int) -> Listing:
        """Return the fields of a product that a results page shows. This is faster than `product`."""
        ...

    def number(self, asin: str) -> int | None:
        """Return the number of the product with this asin (product id). Return None if there is no such product."""
        ...

    def search(self, text: str) -> list[int]:
        """Return the numbers of the best products for a text, best first, at most 50."""
        ...

    def sizes(self) -> dict[str, int]:
        """Return the number of goals of each split: `train`, `validation` and `test`."""
        ...

    def goal(self, split: str, index: int) -> Goal:
        """Return a goal. Raises IndexError if the split has fewer goals."""
        ...

    def source(self) -> DataSource:
        """Describe the data for `/v1/info`."""
        ...
