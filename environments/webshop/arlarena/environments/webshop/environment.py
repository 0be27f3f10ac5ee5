"""The WebShop environment: official products if available, otherwise a generated catalogue."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec

from arlarena.environment.protocols import TaskError
from arlarena.environment.text_game import TextEnvironment
from arlarena.environments.webshop.catalogue.limited import LimitedCatalogue
from arlarena.environments.webshop.catalogue.open import open_catalogue
from arlarena.environments.webshop.catalogue.protocol import Catalogue
from arlarena.environments.webshop.errors import CatalogueError
from arlarena.environments.webshop.generated.vocabulary import vocabulary
from arlarena.environments.webshop.options import WebShopOptions, read_options
from arlarena.environments.webshop.prompts import TEMPLATES
from arlarena.environments.webshop.search.index import TOP
from arlarena.environments.webshop.shop.pages import Pages
from arlarena.environments.webshop.shop_game import SUCCESS_REWARD, Shop, ShopGame
from arlarena.proto.config import ConfigError
from arlarena.proto.env_api import Info, Split
from arlarena.proto.trajectory import Task

RULES_VERSION = "1"  # version of the pages, the score and the splits
# Above this number of products, steps run in threads. Measured on two cores with 32 batches of 8 sessions at a time, in
# which a quarter of the steps are searches: with 100,000 products, steps on the event loop are 1.5 times as fast. With
# 1.18 million products, steps in threads are 1.3 times as fast, and `/health` answers within 10 ms instead of 400 ms.
FAST_SEARCH_PRODUCTS = 200_000
KINDS: Mapping[str, Literal["train", "validation", "test"]] = {
    "train": "train",
    "validation": "validation",
    "test": "test",
}


class WebShopEnvironment(TextEnvironment):
    """WebShop with its options, on a catalogue.

    Attributes:
        warnings: problems in the official files, for the server's operator.
    """

    name = "webshop"
    description = "Find and buy the product that an instruction describes, on the text pages of a shop with search."
    paths = ("data", "index")
    rewards: Mapping[str, float] = {"success": SUCCESS_REWARD}

    def __init__(self, options: WebShopOptions, catalogue: Catalogue, warnings: Sequence[str] = ()) -> None:
        self.version = f"{RULES_VERSION}-{catalogue.version}"
        self.data, self.warnings = catalogue.source(), list(warnings)
        self.options = options.model_dump(mode="json")
        self.template = TEMPLATES[options.template]
        self.horizon, self.history = options.max_steps, options.history
        sizes = catalogue.sizes()
        self.splits = [Split(name, kind, sizes[name], name != "train") for name, kind in KINDS.items()]
        self.blocking = len(catalogue) > FAST_SEARCH_PRODUCTS
        self.vocabulary = vocabulary(options.generated())
        pages = Pages(catalogue, options.observation, options.show_attributes)
        self.shop = Shop(catalogue, pages, options.observation, options.show_score, options.expert_think)

    @property
    def info(self) -> Info:
        """The body of `/v1/info`."""
        return msgspec.structs.replace(super().info, data=self.data)

    def game(self, task: Task) -> ShopGame:
        """Return a game at its start. This is fast, because only the goal and its product are read."""
        return ShopGame(self.shop, self.shop.catalogue.goal(task.split, task.index))


def load(where: str, values: Mapping[str, Any]) -> WebShopEnvironment:
    """Return the environment for a table of options.

    Raises:
        ConfigError: an option is unknown or invalid, or the catalogue cannot be read or built.
    """
    options = read_options(where, values)
    try:
        stored = open_catalogue(options)
    except CatalogueError as error:
        raise ConfigError(f"{where}: {error}") from error
    limited = LimitedCatalogue(stored, options.max_results) if options.max_results < TOP else None
    return WebShopEnvironment(options, limited or stored, stored.warnings)


__all__ = ["TaskError", "WebShopEnvironment", "load"]
