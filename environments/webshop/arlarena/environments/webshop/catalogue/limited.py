"""A catalogue with a limit on the number of products that a search finds. So pages are shorter."""

from __future__ import annotations

from arlarena.environments.webshop.catalogue.protocol import Catalogue
from arlarena.environments.webshop.shop.goal import Goal
from arlarena.environments.webshop.shop.product import Listing, Product
from arlarena.proto.env_api import DataSource


class LimitedCatalogue:
    """Another catalogue's products and goals, with a search that finds at most `limit` products."""

    def __init__(self, catalogue: Catalogue, limit: int) -> None:
        self._catalogue, self._limit = catalogue, limit
        self.version = f"{catalogue.version}-{limit}"

    def __len__(self) -> int:
        """Return the number of products."""
        return len(self._catalogue)

    def product(self, number: int) -> Product:
        """Return a product."""
        return self._catalogue.product(number)

    def listing(self, number: int) -> Listing:
        """Return the fields of a product that a results page shows."""
        return self._catalogue.listing(number)

    def number(self, asin: str) -> int | None:
        """Return the number of the product with this asin (product id). Return None if there is no such product."""
        return self._catalogue.number(asin)

    def search(self, text: str) -> list[int]:
        """Return the numbers of the best products for a text, best first."""
        return self._catalogue.search(text)[: self._limit]

    def sizes(self) -> dict[str, int]:
        """Return the number of goals of each split."""
        return self._catalogue.sizes()

    def goal(self, split: str, index: int) -> Goal:
        """Return a goal. Raises IndexError if the split has fewer goals."""
        return self._catalogue.goal(split, index)

    def source(self) -> DataSource:
        """Describe the data for `/v1/info`."""
        return self._catalogue.source()
