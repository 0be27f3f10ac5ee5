"""Our own catalogue as `catalogue.open` builds and opens it: products for the folder, goals computed on demand."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from arlarena.environments.webshop.catalogue.build import Item
from arlarena.environments.webshop.generated.goals import GeneratedGoals
from arlarena.environments.webshop.generated.options import GeneratedOptions
from arlarena.environments.webshop.generated.products import GENERATOR_VERSION, make_products
from arlarena.environments.webshop.shop.product import Product


@functools.cache
def code_digest() -> str:
    """Return the hash of the code and the word lists in this folder, which decide all products. 32 hex digits."""
    digest = hashlib.blake2b(digest_size=16)
    for path in sorted(path for path in Path(__file__).parent.rglob("*") if path.suffix in (".py", ".toml", ".txt")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


class GeneratedShop:
    """The generated catalogue of some options.

    Attributes:
        key: options and version of the generator. The same key gives the same products and goals.
        code: hash of the generator's code. A folder that other code built is not used, even if its key is equal.
        description: for `/v1/info`.
    """

    def __init__(self, options: GeneratedOptions) -> None:
        """Check the options.

        Raises:
            CatalogueError: the options allow no catalogue.
        """
        options.check()
        self._options = options
        self.key = f"generated/{GENERATOR_VERSION}/{options.key()}"
        self.code = code_digest()
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
