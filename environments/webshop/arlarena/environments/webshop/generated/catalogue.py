"""The generated catalogue, as `catalogue.open` builds and opens it. The folder has the products; the goals are computed
when they are needed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from arlarena.environments.webshop.catalogue.build import Item
from arlarena.environments.webshop.generated.goals import GeneratedGoals
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.generated.products import GENERATOR_VERSION, make_products
from arlarena.environments.webshop.shop.product import Product


class GeneratedShop:
    """The generated catalogue of some options.

    Attributes:
        key: a text that changes whenever a product or a goal changes.
        description: the description of the data for `/v1/info`.
    """

    def __init__(self, options: GeneratedOptions) -> None:
        """Check the options.

        Raises:
            CatalogueError: the options allow no catalogue.
        """
        options.check()
        self._options = options
        self.key = f"generated/{GENERATOR_VERSION}/{options.key()}"
        self.description = (
            f"{options.products:,} products and goals made by this server, not WebShop's official ones "
            "(set WEBSHOP_DATA)"
        )

    def items(self) -> Iterator[Item]:
        """Yield the products, without instructions."""
        return (Item(product, []) for product in make_products(self._options))

    def goals(self, product: Callable[[int], Product]) -> GeneratedGoals:
        """Return the goals. `product` returns a product by its number."""
        return GeneratedGoals(self._options, product)


def generated(options: GeneratedOptions) -> GeneratedShop:
    """Return the generated catalogue of some options.

    Raises:
        CatalogueError: the options allow no catalogue.
    """
    return GeneratedShop(options)
